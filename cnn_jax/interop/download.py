"""Downloads published weights into the cache folder."""

import base64
import os
import re
from pathlib import Path

import filelock
import requests

from cnn_jax import download
from cnn_jax.console import Reporter
from cnn_jax.download import Checksum
from cnn_jax.errors import InputError
from cnn_jax.files import cache_folder, write_atomically


def weights_folder() -> Path:
    """Names the folder of downloaded weights, `CNN_JAX_CACHE`/weights."""
    return cache_folder() / "weights"


def fetch_weights(url: str, checksum: Checksum, name: str | None = None,
                  report: Reporter | None = None) -> Path:
    """Returns the file of published weights, downloaded if it is not in the cache.

    Its checksum is verified each time. The next call resumes a broken download.

    Args:
        url: of the file.
        checksum: the published one: a whole sha256, torchvision's first 8 digits of it,
            or the md5 of Keras' files.
        name: in the cache folder; the last part of the URL by default.
        report: shows the progress; on stderr by default.

    Raises:
        InputError: no connection, a file with another checksum, or a folder that cannot
            be written.
    """
    return fetch_cached(url, weights_folder() / (name or url.rpartition("/")[2]),
                        checksum, report)


def fetch_cached(url: str, path: Path, checksum: Checksum,
                 report: Reporter | None = None) -> Path:
    """Returns a file of the cache folder, downloaded if it is not there.

    Its checksum is verified each time; see `fetch_weights` for the rest.
    """
    if path.is_file():
        download.check(path, checksum, url)
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # One process downloads; the other processes of a run wait for it.
        with filelock.FileLock(f"{path}.lock"):
            return download.fetch(url, path, checksum,
                                  report=report or Reporter(stderr=True))
    except download.Unreachable as error:
        raise InputError(
            f"{path.name} is not in {path.parent} and cannot be downloaded ({error}): "
            "run again with a connection, or download it elsewhere and put it at "
            f"{path} ({checksum}, which is checked)") from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror or error}); set CNN_JAX_CACHE "
            "to a writable folder with free space") from error


def fetch_announced(url: str, name: str, source: str) -> Path:
    """Returns a file of weights for which no checksum is published.

    The checksum that the server announces is kept beside the file, in NAME.sum, and the
    file is checked by it each time. For a file that was put there by hand, the sum is
    computed at its first use and kept, if the folder is writable.
    Raises InputError as `fetch_weights` and `announced_checksum` do.
    """
    path = weights_folder() / name
    sum_file = path.with_name(f"{name}.sum")
    if path.is_file() and sum_file.is_file():
        return fetch_weights(url, read_checksum(sum_file), name)
    checksum = (Checksum("sha256", Checksum("sha256", "").of(path)) if path.is_file()
                else announced_checksum(url, source))
    fetch_weights(url, checksum, name)
    if os.access(path.parent, os.W_OK):
        write_atomically(sum_file, f"{checksum.algorithm} {checksum.digits}\n")
    return path


def read_checksum(path: Path) -> Checksum:
    """Reads 'sha256 DIGITS' from a file. Raises InputError for anything else."""
    match = re.fullmatch(r"(sha256) ([0-9a-f]{64})\n?|(md5) ([0-9a-f]{32})\n?",
                         path.read_text())
    if not match:
        raise InputError(f"{path} holds no checksum: delete it")
    return Checksum(*filter(None, match.groups()))


def announced_checksum(url: str, source: str) -> Checksum:
    """Asks a server for the checksum of a file for which none is published.

    The Hugging Face hub announces the sha256 of a large file, Google's storage the md5.
    This detects a damaged download, but not a file that was replaced on the server.

    Raises:
        InputError: no connection, or a server that announces none.
    """
    try:
        # The hub answers with a redirection that has the header.
        response = requests.head(url, timeout=download.TIMEOUT_SECONDS)
        response.raise_for_status()
    except requests.RequestException as error:
        raise InputError(
            f"{url} cannot be reached ({type(error).__name__}): run again with a "
            f"connection, or download it elsewhere and name it, {source}=FILE"
            ) from error
    etag = response.headers.get("X-Linked-Etag", "").strip('"')
    if re.fullmatch("[0-9a-f]{64}", etag):
        return Checksum("sha256", etag)
    if match := re.search(r"md5=([\w+/=]+)", response.headers.get("x-goog-hash", "")):
        return Checksum("md5", base64.b64decode(match[1]).hex())
    raise InputError(f"{url} has no published checksum, and its server announces none: "
                     f"download it yourself and name it, {source}=FILE")
