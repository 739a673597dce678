"""Decoded class folders, kept as one file each, so that they are decoded once.

A file is an uncompressed .npz: its zip container carries a CRC, so a flipped bit is
noticed. The folder is `CNN_JAX_CACHE`, else ~/.cache/cnn_jax; it may be deleted.
"""

import hashlib
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL

from cnn_jax.files import cache_folder

# Raise it when read_image or the order of the files changes.
_VERSION = 2


def cache_path(pictures: Iterable[Path | bytes], size: tuple[int, int],
               channels: int) -> Path:
    """The file that caches `pictures` (files, or their content) decoded at `size`.

    Its name is a hash of every picture's content, in order, of the size, the channels
    and the Pillow version: a changed picture is decoded again, a moved folder is not.
    Reading and hashing takes a fiftieth of the time of decoding, or less. Raises
    InputError where the folder's ~ stands for no home.
    """
    key = hashlib.sha256(repr((_VERSION, PIL.__version__, size, channels)).encode())
    for picture in pictures:
        if isinstance(picture, Path):
            with picture.open("rb") as file:
                key.update(hashlib.file_digest(file, "sha256").digest())
        else:
            key.update(hashlib.sha256(picture).digest())
    return cache_folder() / f"images-{key.hexdigest()[:32]}.npz"


def read(path: Path, count: int) -> np.ndarray | None:
    """The cached images, uint8 [count, H, W, C]; None if absent or damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            images = archive["images"]
    except (OSError, EOFError, KeyError, ValueError, MemoryError, zipfile.BadZipFile,
            zlib.error):
        return None
    right = images.dtype == np.uint8 and images.ndim == 4 and len(images) == count
    return images if right else None


def write(path: Path, images: np.ndarray) -> str:
    """Writes the images in one step; returns what happened, for the log."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
                dir=path.parent, prefix=".images-", delete=False) as file:
            temporary = file.name
            np.savez(file, images=images)
        os.replace(temporary, path)
    except OSError as error:  # the run goes on, only the next one decodes again
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        return f"could not be cached ({error})"
    return f"cached as {path}"
