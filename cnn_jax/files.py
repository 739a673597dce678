"""Folders that a user names, and files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from cnn_jax.errors import InputError, RunError, reason


def expanded(folder: str, setting: str) -> Path:
    """With ~ and ~user written out. Raises InputError, which names the setting."""
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise InputError(f"{setting} is {folder!r}, whose home folder is not known: "
                         "give the path without ~") from error


def cache_folder() -> Path:
    """`CNN_JAX_CACHE`, else ~/.cache/cnn_jax. Raises InputError for a ~ of no one."""
    folder = os.environ.get("CNN_JAX_CACHE") or os.path.join("~", ".cache", "cnn_jax")
    return expanded(folder, "CNN_JAX_CACHE")


@contextlib.contextmanager
def named(path: Path) -> Iterator[None]:
    """Says which file could not be written: the error of a full disk does not."""
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
