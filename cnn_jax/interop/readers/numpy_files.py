"""Reads our .npz files, and pickles of NumPy arrays without running code in them."""

import io
import math
import mmap
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from cnn_jax.interop.readers import pickles
from cnn_jax.interop.readers.pickles import Call

_RECONSTRUCT = ("numpy.core.multiarray._reconstruct",
                "numpy._core.multiarray._reconstruct")
_ALLOWED = {*_RECONSTRUCT, "numpy.ndarray", "numpy.dtype"}
_KINDS = ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1")


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Reads the arrays of an .npz file, such as 'params/conv1/kernel'.

    Raises:
        ValueError and others: a damaged file, Python objects, or an array whose shape
            does not match its bytes in the file.
    """
    arrays = {}
    with zipfile.ZipFile(path) as archive:
        left = path.stat().st_size
        for member in archive.infolist():
            left -= member.file_size
            if member.compress_type != zipfile.ZIP_STORED or left < 0:
                raise ValueError(f"its member {member.filename} is compressed or "
                                 "overlaps another; np.savez writes neither")
            data = io.BytesIO(archive.read(member))
            shape, dtype = _header(data)
            held = len(data.getbuffer()) - data.tell()
            if math.prod(shape) * dtype.itemsize != held:
                raise ValueError(f"its array {member.filename} of shape {shape} has "
                                 f"{held:,} bytes")
            data.seek(0)
            arrays[member.filename.removesuffix(".npy")] = np.lib.format.read_array(
                data, allow_pickle=False)
    return arrays


def _header(data: io.BytesIO) -> tuple[tuple[int, ...], np.dtype]:
    """Reads shape and type from the start of an .npy file."""
    version = np.lib.format.read_magic(data)
    read = {(1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, _, dtype = read(data)
    return shape, dtype


def read_pickle(path: Path) -> dict[str, np.ndarray]:
    """Reads a pickle of NumPy arrays in dicts and lists; 'conv1/0' is x["conv1"][0].

    Raises:
        ValueError and others: a damaged file, or one that holds anything else.
    """
    with path.open("rb") as file, mmap.mmap(
            file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        tree = pickles.parse(stream, _ALLOWED)
    arrays: dict[str, np.ndarray] = {}

    def walk(value: Any, name: tuple[str, ...]) -> None:
        if isinstance(value, dict | list | tuple):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, item in items:
                walk(item, (*name, str(key)))
        else:
            arrays["/".join(name)] = _array(value)

    walk(tree, ())
    return arrays


def _array(value: Any) -> np.ndarray:
    """Makes an array from the recorded calls of NumPy; their state holds its content.
    """
    match value:
        case Call(name, _, (1, tuple(shape), Call("numpy.dtype", (str(kind), *_),
                                                  (_, str(order), *_)),
                            bool(fortran), bytes(data))
                  ) if name in _RECONSTRUCT and kind in _KINDS and order in "<>|":
            dtype = np.dtype(order + kind)
            values = np.frombuffer(data, dtype).astype(dtype.newbyteorder("="))
            return values.reshape(shape, order="F" if fortran else "C")
    raise ValueError("it holds something that is not an array of numbers")
