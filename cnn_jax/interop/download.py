"""Downloads published weights into the cache folder."""

import base64
import re
from pathlib import Path

import filelock
import requests

from cnn_jax import download
from cnn_jax.console import Reporter
from cnn_jax.download import Checksum
from cnn_jax.errors import InputError
from cnn_jax.files import cache_folder


def weights_folder() -> Path:
    """Names the folder of downloaded weights, `CNN_JAX_CACHE`/weights."""
    return cache_folder() / "weights"


def fetch_weights(url: str, checksum: Checksum, name: str | None = None,
                  report: Reporter | None = None) -> Path:
    """Returns the file of published weights, downloaded if it is not in the cache.

    Its sum is checked each time. A broken download is continued by the next call.

    Args:
        url: of the file.
        checksum: its published sum: a whole sha256, torchvision's first 8 digits of it,
            or the md5 of Keras' files.
        name: in the cache folder; the last part of the URL by default.
        report: shows the progress; on stderr by default.

    Raises:
        InputError: no connection, a file with another sum, or a folder that cannot be
            written.
    """
    return fetch_cached(url, weights_folder() / (name or url.rpartition("/")[2]),
                        checksum, report)


def fetch_cached(url: str, path: Path, checksum: Checksum,
                 report: Reporter | None = None) -> Path:
    """Returns a file of the cache folder, downloaded if it is not there.

    Its sum is checked each time; see `fetch_weights` for all else.
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
            "to a folder with space that can be written") from error


def announced_checksum(url: str, source: str) -> Checksum:
    """Asks a server for the sum of a file of which no sum is published.

    The Hugging Face hub announces the sha256 of a large file, Google's storage the md5.
    So a download is checked for damage, but a file that was replaced passes.

    Raises:
        InputError: no connection, or a server that announces none.
    """
    try:
        # The hub answers with a redirection that has the header.
        answer = requests.head(url, timeout=download.TIMEOUT_SECONDS)
        answer.raise_for_status()
    except requests.RequestException as error:
        raise InputError(
            f"{url} cannot be reached ({type(error).__name__}): run again with a "
            f"connection, or download it elsewhere and name it, {source}=FILE"
            ) from error
    etag = answer.headers.get("X-Linked-Etag", "").strip('"')
    if re.fullmatch("[0-9a-f]{64}", etag):
        return Checksum("sha256", etag)
    if found := re.search(r"md5=([\w+/=]+)", answer.headers.get("x-goog-hash", "")):
        return Checksum("md5", base64.b64decode(found[1]).hex())
    raise InputError(f"{url} has no published checksum, and its server announces none: "
                     f"download it yourself and name it, {source}=FILE")
