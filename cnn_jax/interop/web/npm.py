"""Fetches the npm package that runs a network in a browser."""

import base64
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cnn_jax.console import Reporter
from cnn_jax.download import Checksum
from cnn_jax.files import cache_folder
from cnn_jax.interop.download import fetch_cached

REGISTRY = "https://registry.npmjs.org"


class Package(NamedTuple):
    """Identifies one version of an npm package."""

    name: str
    version: str
    integrity: str  # of its tarball, as the registry gives it: sha512-BASE64

    @property
    def checksum(self) -> Checksum:
        algorithm, _, digest = self.integrity.partition("-")
        return Checksum(algorithm, base64.b64decode(digest).hex())


RUNTIME = Package(
    "onnxruntime-web", "1.30.0", "sha512-"
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CX"
    "AfKYQ==")


def registry() -> str:
    """Returns the registry that npm's own variable `npm_config_registry` names."""
    return (os.environ.get("npm_config_registry") or REGISTRY).rstrip("/")


def fetch_package(package: Package, report: Reporter | None = None) -> Path:
    """Returns the tarball of a package, downloaded once into `CNN_JAX_CACHE`/npm.

    report: shows the progress of the download; None shows none.
    Raises InputError without a connection, and for a tarball with another checksum.
    """
    name = f"{package.name}-{package.version}.tgz"
    return fetch_cached(f"{registry()}/{package.name}/-/{name}",
                        cache_folder() / "npm" / name, package.checksum,
                        report or Reporter(quiet=True))


def read_package(tarball: Path, paths: Sequence[str]) -> list[bytes]:
    """Reads files of a package whose checksum was verified."""
    contents = {}
    with tarfile.open(tarball, "r|gz") as archive:  # from its start to its end, once
        for member in archive:
            path = member.name.removeprefix("package/")
            if path in paths and (file := archive.extractfile(member)):
                contents[path] = file.read()
    return [contents[path] for path in paths]
