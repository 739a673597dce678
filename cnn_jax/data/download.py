"""Downloads one official file, with timeouts and a checksum."""

import hashlib
import os
import tempfile
from pathlib import Path
from typing import IO

import requests
from absl import logging

from cnn_jax.data import official
from cnn_jax.errors import InputError

TIMEOUT_SECONDS = 20  # to connect, and between two chunks
_CHUNK = 2**20  # bytes


class Unreachable(Exception):
    """Raised when a URL cannot be downloaded."""


def fetch(file: official.OfficialFile, folder: Path) -> Path:
    """Downloads a file into `folder`, unless it is there already.

    The file gets its name only when it is complete and its checksum is right.

    Raises:
        Unreachable: no connection, no answer in time, or an HTTP error.
        InputError: a file with another checksum. If it was just downloaded, it is
            deleted.
    """
    path = folder / file.name
    if path.is_file():
        official.check_file(path, file)
        return path
    folder.mkdir(parents=True, exist_ok=True)
    logging.info("Downloading %s (%.1f MB)", file.url, file.size / 1e6)
    with tempfile.NamedTemporaryFile(
            dir=folder, prefix=f".{file.name}.", delete=False) as temporary:
        try:
            size, sha256 = _receive(file, temporary)
            if (size, sha256) != (file.size, file.sha256):
                received = f"over {file.size:,}" if size > file.size else f"{size:,}"
                raise InputError(
                    f"{file.url} sent {received} bytes with sha256 {sha256} instead of "
                    f"{file.size:,} with {file.sha256}; nothing was kept, try later")
            os.replace(temporary.name, path)
        except BaseException:
            Path(temporary.name).unlink(missing_ok=True)
            raise
    return path


def _receive(file: official.OfficialFile, target: IO[bytes]) -> tuple[int, str]:
    """Writes the response body to `target`; returns (bytes, sha256).

    It stops at most one chunk after the published size.
    """
    size, sha256 = 0, hashlib.sha256()
    try:
        # "identity" asks for the .gz file as it is, not unpacked in transit.
        with requests.get(file.url, stream=True, timeout=TIMEOUT_SECONDS,
                          headers={"Accept-Encoding": "identity"}) as response:
            response.raise_for_status()
            for chunk in response.iter_content(_CHUNK):
                target.write(chunk)
                sha256.update(chunk)
                size += len(chunk)
                if size > file.size:
                    break
    except requests.RequestException as error:
        raise Unreachable(f"{file.url}: {_reason(error)}") from error
    target.flush()
    return size, sha256.hexdigest()


def _reason(error: requests.RequestException) -> str:
    """Says in a few words why a request failed."""
    if error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_SECONDS} s"
    return f"no connection, or it broke ({type(error).__name__})"
