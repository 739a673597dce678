"""Reads and writes .safetensors files with the safetensors library."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.files import file_errors
from cnn_jax.installation import install_command


def read(path: Path) -> dict[str, np.ndarray]:
    """Reads all arrays. bfloat16 becomes float32; other types stay.

    Raises:
        InputError: the library is not installed.
        SafetensorError and others: a damaged file.
    """
    library = _library()
    # The library reads bfloat16 as the type that ml_dtypes adds to NumPy.
    with library.safe_open(path, framework="np") as file:
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    return {
        name: array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
        for name, array in arrays.items()}


def write_safetensors(path: Path, arrays: Mapping[str, np.ndarray],
                      metadata: dict[str, str] | None = None) -> Path:
    """Writes arrays by name, replaces a file atomically, and returns the path.

    Raises:
        InputError: the library is not installed.
        RunError: a full disk or a folder that cannot be written.
    """
    library = _library()
    content = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    partial = path.with_name(path.name + ".partial")
    with file_errors(path):
        partial.write_bytes(library.numpy.save(content, metadata))
        os.replace(partial, path)
    return path


def _library() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise InputError("safetensors, the library of these files, is not installed; "
                         f"install it with {install_command('pretrained')}") from error
    return safetensors
