"""Folders that a user names."""

from pathlib import Path

from cnn_jax.errors import InputError


def expanded(folder: str, setting: str) -> Path:
    """With ~ and ~user written out. Raises InputError, which names the setting."""
    try:
        return Path(folder).expanduser()
    except RuntimeError as error:
        raise InputError(f"{setting} is {folder!r}, whose home folder is not known: "
                         "give the path without ~") from error
