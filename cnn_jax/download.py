"""Downloads one file: continues after a break, checks its checksum, then renames it."""

import hashlib
import os
import time
from pathlib import Path
from typing import NamedTuple

import requests

from cnn_jax.console import Reporter
from cnn_jax.errors import InputError

TIMEOUT_SECONDS = 20  # to connect, and between two chunks
RETRY_SECONDS = 1  # before a broken download is continued
_TRIES = 5  # as long as each receives a part of the file
_CHUNK = 2**16  # bytes; a break loses less than one chunk
_NO_LIMIT = 2**33  # most bytes of a file of unknown size


class Unreachable(Exception):
    """Raised when a URL cannot be downloaded."""


class Checksum(NamedTuple):
    """The published checksum of a file, or its first digits."""

    algorithm: str  # "sha256" or "md5"
    digits: str  # hexadecimal

    def __str__(self) -> str:
        whole = len(self.digits) == 2 * self._hash().digest_size
        return f"{self.algorithm} {self.digits}{'' if whole else '...'}"

    def of(self, path: Path) -> str:
        """Computes the checksum of a file: all its digits."""
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, self._hash).hexdigest()

    def _hash(self) -> "hashlib._Hash":
        return hashlib.new(self.algorithm, usedforsecurity=False)


def check(path: Path, checksum: Checksum, url: str) -> None:
    """Raises InputError unless a file has the published checksum."""
    digits = checksum.of(path)
    if not digits.startswith(checksum.digits):
        raise InputError(
            f"{path} has {checksum.algorithm} {digits} instead of the published "
            f"{checksum}; delete it, or replace it with {url}")


def fetch(url: str, path: Path, checksum: Checksum, size: int | None = None,
          report: Reporter | None = None) -> Path:
    """Downloads a file to `path`, unless it exists, and checks its checksum.

    The received bytes are kept in PATH.part. A broken download is continued there as
    long as each try receives more, and by the next call. Only one process at a time may
    do this.

    Args:
        url: http or https.
        path: of the file. It gets this name when its checksum is right.
        checksum: published checksum of the whole file.
        size: published bytes, if known.
        report: shows the progress.

    Raises:
        Unreachable: no connection, no answer in time, an HTTP error or a break.
        InputError: a file with another checksum. A new download is deleted.
        OSError: a full disk, or a folder that cannot be written.
    """
    report = report or Reporter(quiet=True)
    if path.is_file():
        check(path, checksum, url)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    resumed = part.exists()
    _receive(url, part, size, report)
    if resumed and not checksum.of(part).startswith(checksum.digits):
        part.unlink()  # its first bytes may be of another version of the file
        _receive(url, part, size, report)
    digits, received = checksum.of(part), part.stat().st_size
    if not digits.startswith(checksum.digits):
        part.unlink()
        sent, expected = f"{received:,}", str(checksum)
        if size is not None:
            sent = f"over {size:,}" if received > size else sent
            expected = f"{size:,} with {checksum}"
        raise InputError(
            f"{url} sent {sent} bytes with {checksum.algorithm} {digits} instead of "
            f"{expected}; nothing was kept, try later")
    os.replace(part, path)
    report.line(f"{path}: {received / 1e6:.1f} MB from {url}, {checksum} checked")
    return path


def _receive(url: str, part: Path, size: int | None, report: Reporter) -> None:
    """Completes `part`; tries again after a break if the last try received bytes."""
    for tries_left in reversed(range(_TRIES)):
        before = _size(part)
        try:
            return _receive_once(url, part, size, report)
        except Unreachable as error:
            received = _size(part)
            if not received:
                part.unlink(missing_ok=True)
            if received <= before or not tries_left:
                note = (f"; {received:,} bytes are in {part}, and the next try "
                        "continues there" if received else "")
                raise Unreachable(f"{url}: {error}{note}") from error
        time.sleep(RETRY_SECONDS)


def _receive_once(url: str, part: Path, size: int | None, report: Reporter) -> None:
    """Requests the bytes that `part` lacks, once, and appends the answer.

    It stops at most one chunk after the published size.
    """
    done = _size(part)
    # "identity" asks for the .gz file as it is, not unpacked in transit.
    headers = {"Accept-Encoding": "identity"}
    if done:
        headers["Range"] = f"bytes={done}-"
    try:
        with requests.get(url, stream=True, timeout=TIMEOUT_SECONDS,
                          headers=headers) as response:
            sent_range = response.headers.get("Content-Range", "")
            if response.status_code == 416 and sent_range == f"bytes */{done}":
                return  # nothing is missing
            if done and (response.status_code == 416 or response.status_code == 206
                         and not sent_range.startswith(f"bytes {done}-")):
                part.unlink()  # longer than the file, or the server cannot continue
                return _receive_once(url, part, size, report)
            response.raise_for_status()
            if response.status_code != 206:
                done = 0  # the server sends the whole file
            length = response.headers.get("Content-Length", "")
            total = done + int(length) if length.isdecimal() else size or 0
            limit = size or total or _NO_LIMIT
            with (part.open("ab" if done else "wb") as target,
                  report.progress_bar(part.stem, total, done, in_bytes=True)):
                for chunk in response.iter_content(_CHUNK):
                    target.write(chunk)
                    done += len(chunk)
                    report.advance(done)
                    if done > limit:
                        break
    except requests.RequestException as error:
        raise Unreachable(_reason(error)) from error


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _reason(error: requests.RequestException) -> str:
    """Says in a few words why a request failed."""
    if error.response is not None:
        return f"HTTP status {error.response.status_code}"
    if isinstance(error, requests.Timeout):
        return f"no answer within {TIMEOUT_SECONDS} s"
    return f"no connection, or it broke ({type(error).__name__})"
