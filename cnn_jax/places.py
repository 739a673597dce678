"""Folders that a user names."""

import os
from pathlib import Path

from cnn_jax.errors import InputError


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
