"""Provides the real ONNX Runtime for browsers, by npm's client, and a fake package."""

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from cnn_jax.files import cache_folder
from cnn_jax.interop.web.npm import Package


def real_tarball(package: Package) -> Path:
    """Returns a package's tarball in the cache folder; npm downloads it if needed.

    Skips the test if that fails.
    """
    path = cache_folder() / "npm" / f"{package.name}-{package.version}.tgz"
    if not path.is_file():
        if shutil.which("npm") is None:
            pytest.skip(f"{path} is missing, and npm is not installed")
        path.parent.mkdir(parents=True, exist_ok=True)
        packed = subprocess.run(
            ["npm", "pack", f"{package.name}@{package.version}", "--silent",
             "--fetch-retries=0", "--pack-destination", str(path.parent)],
            env=os.environ | {"npm_config_update_notifier": "false"},
            capture_output=True, text=True, timeout=300)
        if packed.returncode:
            pytest.skip(f"{path} is missing, and npm cannot be reached")
    return path


def made_package(folder: Path, contents: dict[str, bytes]) -> Package:
    """Writes FOLDER/made-up/-/made-up-1.2.3.tgz with files; returns its description."""
    path = folder / "made-up" / "-" / "made-up-1.2.3.tgz"
    path.parent.mkdir(parents=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    digest = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    return Package("made-up", "1.2.3", f"sha512-{digest}")
