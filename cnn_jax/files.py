"""Expands folders that a user names, writes files atomically, validates JSON files."""

import contextlib
import hashlib
import json
import os
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from cnn_jax.errors import InputError, RunError

T = TypeVar("T")


def expanded(folder: str, setting: str) -> Path:
    """Expands ~ and ~user. Raises an InputError that names the setting."""
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise InputError(f"{setting} is {folder!r}, whose home folder is not known: "
                         "give the path without ~") from error


def cache_folder() -> Path:
    """Returns `CNN_JAX_CACHE`, else ~/.cache/cnn_jax.

    `CNN_JAX_CACHE=0` turns `program_cache` off, and does not name a folder.
    """
    folder = os.environ.get("CNN_JAX_CACHE", "")
    if folder in ("", "0"):
        folder = os.path.join("~", ".cache", "cnn_jax")
    return expanded(folder, "CNN_JAX_CACHE")


@contextlib.contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turns an OSError into a RunError that names the path; a full disk does not."""
    try:
        yield
    except OSError as error:
        raise RunError(
            f"{path} could not be written: {error.strerror or error}") from error


def write_atomically(path: Path, text: str) -> None:
    """Replaces a whole file at once: no reader sees half of it, even after a kill."""
    partial = path.with_name(path.name + ".partial")
    with file_errors(path):
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)


def save_arrays(path: Path, **arrays: Any) -> None:
    """Writes an uncompressed .npz atomically, also if several processes write it.

    Raises OSError.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with partial.open("xb") as file:
            np.savez(file, **arrays)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def load_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """Reads a .npz file; None if it is absent or damaged, which its CRC-32 reveals."""
    try:
        # np.load would leave a damaged file open.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return dict(archive)
    except (OSError, EOFError, KeyError, ValueError, MemoryError, zipfile.BadZipFile,
            zlib.error):
        return None


def save_beside(folder: Path, name: str, **arrays: Any) -> str:
    """Writes a .npz into a folder of data, else into the cache; says where it is.

    The folder may be read-only. If neither can be written, each run makes the arrays
    again.
    """
    failure: OSError | None = None
    for path in (folder / name, _in_cache(folder, name)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            save_arrays(path, **arrays)
            return f"kept in {path}"
        except OSError as error:
            failure = error
    return f"not kept: {failure}"


def load_beside(folder: Path, name: str) -> list[dict[str, np.ndarray]]:
    """Reads the files of `save_beside` in the folder and in the cache."""
    loaded = [load_arrays(path) for path in (folder / name, _in_cache(folder, name))]
    return [arrays for arrays in loaded if arrays is not None]


def _in_cache(folder: Path, name: str) -> Path:
    key = hashlib.sha256(os.fsencode(folder.absolute())).hexdigest()
    return cache_folder() / f"{key[:32]}-{name}"


def read_json(path: Path, kind: type[T], advice: str) -> T:
    """Reads a JSON file and validates it as a value of a type.

    kind: a msgspec.Struct, or any other type that msgspec.convert accepts.
    advice: what to do if the file is missing or has other content.
    Raises InputError with the path, the fault and the advice.
    """
    try:
        # Not msgspec.json, which refuses the NaN that a metric may be.
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: {advice}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}): {advice}"
                         ) from error
    except ValueError as error:  # not JSON, not UTF-8, or not of this type
        raise InputError(f"{path}: {error}: {advice}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a msgspec.Struct or plain values as a JSON file, atomically."""
    write_atomically(path, json.dumps(msgspec.to_builtins(value), indent=2) + "\n")
