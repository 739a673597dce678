"""Reads weight files of PyTorch, timm, Keras and cnn_jax as NumPy arrays by name.

Neither PyTorch nor Keras is needed, and no code in a file is run.
"""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_jax.errors import InputError, one_line
from cnn_jax.interop.readers import (keras_files, numpy_files, pytorch,
                                     safetensors_files)
from cnn_jax.interop.readers.safetensors_files import write_safetensors

REASON_LENGTH = 400  # characters; a reason may quote the file

Arrays = dict[str, np.ndarray]


class WeightFormat(NamedTuple):
    """Defines one kind of weight file."""

    description: str
    read: Callable[[Path], Arrays]


_ZIP = WeightFormat("a PyTorch file (.pth, .pt)", pytorch.read_zip)
_STREAM = WeightFormat("an old PyTorch file (.pth, .pt)", pytorch.read_stream)
_SAFETENSORS = WeightFormat("a .safetensors file", safetensors_files.read)
_H5 = WeightFormat("a Keras file (.h5, .weights.h5)", keras_files.read_h5)
_KERAS = WeightFormat("a Keras file (.keras)", keras_files.read_keras)
_NPZ = WeightFormat("an .npz file", numpy_files.read_npz)
_PICKLE = WeightFormat("a pickle of NumPy arrays", numpy_files.read_pickle)


def read_arrays(path: Path) -> Arrays:
    """Reads the arrays of a weight file by their names in it.

    The format is recognized by the content of the file, not by its name. Arrays have
    their names in the file for PyTorch, safetensors and our .npz, and LAYER/WEIGHT for
    Keras, see keras_files.py. If a PyTorch file holds more than a state dict, only the
    entry of `pytorch.WRAPPERS` is read. bfloat16 becomes float32; other number types
    stay. Arrays may be read-only and may share memory.

    Raises:
        InputError: a missing or damaged file, one of another format, one that holds
            more than arrays or that names functions, or a missing library.
    """
    return _read(path, _format)


def read_numpy_pickle(path: Path) -> Arrays:
    """Reads a pickle of NumPy arrays in dicts and lists; 'conv1/0' is x["conv1"][0].

    Raises:
        InputError: as `read_arrays`.
    """
    return _read(path, lambda path: _PICKLE)


def _read(path: Path, format_of: Callable[[Path], WeightFormat | None]) -> Arrays:
    """Reads a file. Turns every failure into an InputError of one line."""
    what = "a weight file"
    try:
        file_format = format_of(path)
        if file_format is None:
            raise ValueError(
                "its content has none of the formats that are read: PyTorch (.pth, "
                ".pt), .safetensors, Keras (.h5, .weights.h5, .keras) and .npz")
        what = file_format.description
        return file_format.read(path)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error
    except Exception as error:  # zip, HDF5 and pickle parsers raise many kinds
        reason = one_line(str(error) or type(error).__name__)[:REASON_LENGTH]
        raise InputError(f"{path} cannot be read as {what}: {reason}") from error


def _format(path: Path) -> WeightFormat | None:
    """Recognizes the format by the first bytes, and for a zip by its members."""
    with path.open("rb") as file:
        start = file.read(32)
    if start.startswith(b"\x89HDF\r\n\x1a\n"):
        return _H5
    if pytorch.MAGIC_BYTES in start:
        return _STREAM
    if start.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/data.pkl") for name in names):
            return _ZIP
        if keras_files.MEMBER in names:
            return _KERAS
        if all(name.endswith(".npy") for name in names):
            return _NPZ
    # A .safetensors file begins with the length of its header, which is JSON.
    header = int.from_bytes(start[:8], "little")
    if start[8:9] == b"{" and 8 + header <= path.stat().st_size:
        return _SAFETENSORS
    return None
