"""Holds what experiments share: exit codes, output folder, and the machine."""

import sys
from collections.abc import Callable
from pathlib import Path

import jax

from cnn_jax.errors import InputError, RunError
from cnn_jax.workdir.machine import commit, machine, versions


def run_script(main: Callable[[], None]) -> None:
    """Runs a script; an error is one line, with exit code 2 for wrong input, else 1."""
    script = Path(sys.argv[0]).name
    try:
        main()
    except (InputError, RunError) as error:
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except KeyboardInterrupt:
        print(f"{script}: interrupted", file=sys.stderr)
        sys.exit(130)


def make_out(folder: Path) -> None:
    """Makes the folder that --out names; raises InputError if that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out={folder} cannot be made ({error.strerror}): name "
                         "another folder") from error


def ran_on() -> dict:
    """Describes machine, device, versions and commit, for the head of results."""
    device = jax.devices()[0]
    return {"machine": machine(), "device": f"{device.platform} ({device.device_kind})",
            "versions": versions(), "commit": commit()}
