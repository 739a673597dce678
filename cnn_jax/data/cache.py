"""Caches the decoded pictures of class folders, one file for each data set.

A file is an uncompressed .npz. Its zip container carries a CRC-32, which reveals a
flipped bit. The files are in `CNN_JAX_CACHE`, else in ~/.cache/cnn_jax, and may be
deleted.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL

from cnn_jax.data.images import Preprocessing
from cnn_jax.files import cache_folder, load_arrays, save_arrays

# Increase it when read_image or the order of the files changes.
_VERSION = 3


def cache_path(pictures: Iterable[bytes | memoryview],
               preprocessing: Preprocessing) -> Path:
    """Names the file that caches `pictures`, the content of their files, preprocessed.

    The name is a hash of the content of all pictures in order, the preprocessing and
    the Pillow version. So a changed picture is decoded again, but a moved folder is
    not. Hashing takes at most a fiftieth of the time of decoding.

    Raises:
        InputError: the cache folder starts with a ~ that stands for no home.
    """
    key = hashlib.sha256(repr((_VERSION, PIL.__version__, *preprocessing)).encode())
    for picture in pictures:
        key.update(hashlib.sha256(picture).digest())
    return cache_folder() / f"images-{key.hexdigest()[:32]}.npz"


def read(path: Path, count: int) -> np.ndarray | None:
    """Reads the cached images, uint8 [count, H, W, C]; None if absent or damaged."""
    images = (load_arrays(path) or {}).get("images")
    valid = (images is not None and images.dtype == np.uint8 and images.ndim == 4
             and len(images) == count)
    return images if valid else None


def write(path: Path, images: np.ndarray) -> str:
    """Writes the file atomically; returns what happened, for the log."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_arrays(path, images=images)
    except OSError as error:  # this run continues; the next one decodes again
        return f"could not be cached ({error})"
    return f"cached as {path}"
