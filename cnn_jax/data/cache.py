"""Caches the decoded pictures of class folders, one file for each data set.

A file is an uncompressed .npz. Its zip container carries a CRC-32, which reveals a
flipped bit. The files are in `CNN_JAX_CACHE`, else in ~/.cache/cnn_jax, and may be
deleted. Together they take at most `CNN_JAX_CACHE_GB`: the sets that were used longest
ago make room for a new one.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import PIL

from cnn_jax.data.images import Preprocessing
from cnn_jax.errors import InputError
from cnn_jax.files import cache_folder, load_arrays, save_arrays

PATTERN = "images-*.npz"  # of the files in the cache folder
LIMIT, DEFAULT_GB = "CNN_JAX_CACHE_GB", 4.0
# Increase it when read_image or the order of the files changes.
_VERSION = 3


def cache_path(pictures: Iterable[bytes | memoryview],
               preprocessing: Preprocessing) -> Path:
    """Names the file that caches `pictures`, the content of their files, preprocessed.

    The name is a hash of the content of all pictures in order, the preprocessing and
    the Pillow version. So a changed picture is decoded again, but a moved folder is
    not. Hashing takes at most a fiftieth of the time of decoding.

    Raises:
        InputError: the cache folder starts with the ~ of an unknown user.
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
    if not valid:
        return None
    with contextlib.suppress(OSError):  # a cache that cannot be written is still read
        os.utime(path)  # for `make_room`
    return images


def write(path: Path, images: np.ndarray) -> str:
    """Writes the file atomically; returns the outcome in words, for the log.

    Raises InputError for a `CNN_JAX_CACHE_GB` that is no number.
    """
    limit = max_bytes()
    if images.nbytes > limit:
        return (f"not cached: {images.nbytes / 1e9:,.1f} GB are more than the "
                f"{limit / 1e9:g} of {LIMIT}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        make_room(path.parent, limit - images.nbytes)
        save_arrays(path, images=images)
    except OSError as error:  # this run continues; the next one decodes again
        return f"could not be cached ({error})"
    return f"cached as {path}"


def max_bytes() -> float:
    """Returns the most bytes that all cached pictures may take together."""
    text = os.environ.get(LIMIT) or str(DEFAULT_GB)
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not size >= 0:
        raise InputError(f"{LIMIT} is {text!r}: it must be a number of gigabytes, such "
                         f"as {DEFAULT_GB:g}, or 0 to cache no pictures")
    return 1e9 * size


def make_room(folder: Path, limit: float) -> None:
    """Deletes the cached sets that were used longest ago.

    The others then take at most `limit` bytes.
    """
    files = [(path.stat(), path) for path in folder.glob(PATTERN)]
    files.sort(key=lambda pair: pair[0].st_mtime, reverse=True)
    total = 0
    for status, path in files:
        total += status.st_size
        if total > limit:
            path.unlink(missing_ok=True)
