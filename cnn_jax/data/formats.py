"""Parses the official files: idx arrays and CIFAR-10 batches.

`official.py` checks a file's checksum before it calls these functions. Without that
check, `read_cifar_python` could run code: a pickle may call any function.
"""

import gzip
import pickle
from pathlib import Path

import numpy as np

IDX_AXES = {2049: 1, 2051: 3}  # magic number -> axes: labels [N], images [N, H, W]
CIFAR_PIXELS = 3 * 32 * 32


def read_idx(path: Path) -> np.ndarray:
    """Reads a gzipped idx file: uint8 labels [N] or images [N, H, W].

    Format: big-endian int32 magic number (2049 labels, 2051 images), one int32 per
    axis, then the bytes (Y. LeCun, C. Cortes, C. Burges, 1998).
    """
    with gzip.open(path) as file:
        content = file.read()
    axes = IDX_AXES[int.from_bytes(content[:4], "big")]
    shape = np.frombuffer(content, ">i4", axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def read_cifar_binary(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Parses a CIFAR-10 `.bin` batch: images uint8 [N, 32, 32, 3], labels uint8 [N].

    Format: records of 1 label byte and 3 planes (red, green, blue) of 32 x 32 bytes
    (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).
    """
    records = np.frombuffer(data, np.uint8).reshape(-1, 1 + CIFAR_PIXELS)
    return _planes_to_images(records[:, 1:]), records[:, 0]


def read_cifar_python(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Unpickles a CIFAR-10 batch: images uint8 [N, 32, 32, 3], labels uint8 [N]."""
    batch = pickle.loads(data, encoding="bytes")
    return _planes_to_images(batch[b"data"]), np.array(batch[b"labels"], np.uint8)


def _planes_to_images(pixels: np.ndarray) -> np.ndarray:
    """Turns colour planes [N, 3072] into images [N, 32, 32, 3]."""
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
