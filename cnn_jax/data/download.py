"""One official file from its address, or a reason why not, in bounded time."""

import hashlib
import os
import tempfile
from pathlib import Path

import requests
from absl import logging

from cnn_jax.data import official
from cnn_jax.errors import InputError

TIMEOUT_SECONDS = 20  # to connect, and between two pieces
_CHUNK = 2**20


class Unreachable(Exception):
    """The address gave no file."""


def fetch(file: official.OfficialFile, folder: Path) -> Path:
    """Downloads a file into `folder`, unless it is there with the right bytes.

    It appears there under its name only when it is complete and checked.

    Raises:
        Unreachable: no connection, no answer in time, or another answer than 200.
        InputError: other bytes than the official ones; they are not kept.
    """
    path = folder / file.name
    if path.is_file():
        official.check_file(path, file)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    logging.info("Downloading %s (%.1f MB)", file.url, file.size / 1e6)
    with tempfile.NamedTemporaryFile(
            dir=folder, prefix=f".{file.name}.", delete=False) as part:
        try:
            size, sha256 = _receive(file, part)
            if (size, sha256) != (file.size, file.sha256):
                got = f"over {file.size:,}" if size > file.size else f"{size:,}"
                raise InputError(
                    f"{file.url} gave {got} bytes with sha256 {sha256} instead of "
                    f"{file.size:,} with {file.sha256}; they are not kept, try later")
            os.replace(part.name, path)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise
    return path


def _receive(file: official.OfficialFile, into) -> tuple[int, str]:
    """Writes the body to a file, at most one piece too much: (bytes, sha256)."""
    size, sha256 = 0, hashlib.sha256()
    try:
        # identity: the bytes of a .gz file as they are, not unpacked on the way.
        with requests.get(file.url, stream=True, timeout=TIMEOUT_SECONDS,
                          headers={"Accept-Encoding": "identity"}) as answer:
            answer.raise_for_status()
            for piece in answer.iter_content(_CHUNK):
                into.write(piece)
                sha256.update(piece)
                size += len(piece)
                if size > file.size:
                    break
    except requests.RequestException as error:
        raise Unreachable(f"{file.url}: {_reason(error)}") from error
    into.flush()
    return size, sha256.hexdigest()


def _reason(error: requests.RequestException) -> str:
    """One line; requests wraps the reason that the system gave."""
    if error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer in {TIMEOUT_SECONDS} s"
    return f"no connection, or it broke off ({type(error).__name__})"
