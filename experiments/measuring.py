"""What experiments share: the folder they write to, and what they ran on."""

from pathlib import Path

import jax

from cnn_jax.errors import InputError
from cnn_jax.workdir.machine import commit, machine, versions


def make_out(folder: Path) -> None:
    """Makes the folder that --out names. Raises InputError where it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={folder} cannot be made ({error.strerror}): name "
                         "another folder") from error


def ran_on() -> dict:
    """Machine, device, versions and commit, for the head of a file of results."""
    device = jax.devices()[0]
    return {"machine": machine(), "device": f"{device.platform} ({device.device_kind})",
            "versions": versions(), "commit": commit()}
