"""Folders that a user names, files written whole or not at all, and typed JSON."""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cnn_jax.errors import InputError, RunError, reason

T = TypeVar("T")


def expanded(folder: str, setting: str) -> Path:
    """Expands ~ and ~user. Raises InputError, which names the setting."""
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise InputError(f"{setting} is {folder!r}, whose home folder is not known: "
                         "give the path without ~") from error


def cache_folder() -> Path:
    """Returns `CNN_JAX_CACHE`, else ~/.cache/cnn_jax.

    Raises InputError for a ~ whose home folder is not known.
    """
    folder = os.environ.get("CNN_JAX_CACHE") or os.path.join("~", ".cache", "cnn_jax")
    return expanded(folder, "CNN_JAX_CACHE")


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Adds to an OSError which file could not be written: a full disk does not."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} could not be written: {reason(error)}") from error


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file as a whole: a reader or a kill never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    with named(path):
        partial.write_text(text)
        os.replace(partial, path)


def read_json(path: Path, kind: type[T], advice: str) -> T:
    """Reads a JSON file and validates it as a value of a type.

    kind: a msgspec.Struct, or any other type that msgspec.convert takes.
    advice: what to do about a file that is missing or holds something else.
    Raises InputError with the file, what is wrong with it, and the advice.
    """
    try:
        # Not msgspec.json, which refuses the NaN that a metric may be.
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: {advice}") from error
    except OSError as error:
        raise InputError(f"{path} cannot be read ({reason(error)}): {advice}"
                         ) from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deep: {advice}") from error
    except ValueError as error:  # no JSON, no UTF-8, or not of this type
        raise InputError(f"{path}: {error}: {advice}") from error


def write_json(path: Path, value: Any) -> None:
    """Replaces a JSON file by a msgspec.Struct or plain values."""
    write_atomically(path, json.dumps(msgspec.to_builtins(value), indent=2) + "\n")
