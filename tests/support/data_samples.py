"""Makes small files in the official formats, for the data tests."""

import gzip
import hashlib
import io
import pickle
import tarfile

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cnn_jax.config import default_config
from cnn_jax.data import official

BATCHES = [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch"]


def data_config(**changes) -> ConfigDict:
    """Makes the `data` config with its defaults and some changes."""
    return ConfigDict(default_config().data.to_dict() | changes)


def save_class_folders(root, counts: dict[str, int]) -> None:
    """Saves `counts` pictures in each class folder; each one has other pixels."""
    rng = np.random.default_rng(0)
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for k in range(count):
            Image.fromarray(rng.integers(0, 256, (4, 5), np.uint8)).save(
                root / name / f"{k:03d}.png")


def png(seed: int) -> bytes:
    """Encodes a small picture of random pixels."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 5), np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def write_shard(path, files: dict[str, bytes]) -> None:
    """Writes an uncompressed tar file of {name: content}."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def idx(array: np.ndarray) -> bytes:
    """Encodes an array as the bytes of an idx file, not gzipped."""
    header = [2051 if array.ndim == 3 else 2049, *array.shape]
    return np.array(header, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def mnist_arrays(seed: int = 0, train: int = 100, test: int = 20) -> list[np.ndarray]:
    """Draws train images, labels, test images, labels; every class occurs."""
    rng = np.random.default_rng(seed)
    arrays = []
    for count in (train, test):
        arrays.append(rng.integers(0, 256, (count, 28, 28), np.uint8))
        arrays.append((np.arange(count) * 3 % 10).astype(np.uint8))
    return arrays


def write_mnist(folder, arrays) -> None:
    """Writes the four files under their official names."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in zip(official.FILES["mnist"], arrays):
        (folder / file.name).write_bytes(gzip.compress(idx(array), mtime=0))


def published_as(path, file: official.OfficialFile, url: str = ""):
    """Makes the table entry that declares the file at `path` the official one."""
    data = path.read_bytes()
    return official.OfficialFile(
        file.name, len(data), hashlib.sha256(data).hexdigest(), url or file.url)


def cifar_arrays(seed: int = 0, count: int = 20) -> dict[str, tuple]:
    """Draws images [N, 32, 32, 3] and labels [N] for each batch."""
    rng = np.random.default_rng(seed)
    return {batch: (rng.integers(0, 256, (count, 32, 32, 3), np.uint8),
                    (np.arange(count) % 10).astype(np.uint8)) for batch in BATCHES}


def cifar_binary(images, labels) -> bytes:
    planes = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    return np.concatenate([labels[:, None], planes], axis=1).tobytes()


def cifar_python(images, labels) -> bytes:
    planes = np.ascontiguousarray(images.transpose(0, 3, 1, 2).reshape(len(images), -1))
    batch = {b"batch_label": b"x", b"labels": labels.tolist(), b"data": planes}
    return pickle.dumps(batch, protocol=2)


def cifar_files(layout: str, batches) -> dict[str, bytes]:
    """Makes {name in the archive: content} in one of the two official layouts."""
    if layout == "py":
        return {f"cifar-10-batches-py/{batch}": cifar_python(*pair)
                for batch, pair in batches.items()}
    return {f"cifar-10-batches-bin/{batch}.bin": cifar_binary(*pair)
            for batch, pair in batches.items()}


def write_tar(path, files, *extra: tarfile.TarInfo) -> None:
    """Writes a .tar.gz of {name: content}, with `extra` members first."""
    with tarfile.open(path, "w:gz") as archive:
        for member in extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
