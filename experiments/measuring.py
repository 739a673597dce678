"""Holds what experiments share: exit codes, output folder, processes, the machine."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax

from cnn_jax.errors import InputError, RunError
from cnn_jax.files import cache_folder
from cnn_jax.workdir.machine import commit, machine, versions
from experiments.arms.first import BEGAN

ROOT = Path(__file__).parents[1]


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


def new_cache(folder: Path) -> None:
    """Makes a cache folder with nothing but the C++ library, built once a machine."""
    native = cache_folder() / "native"
    if native.is_dir():
        shutil.copytree(native, folder / "native")


def first_step(given: list[str], cache: str) -> dict[str, float]:
    """Runs arms/first.py with these arguments in a new process; returns what it prints.

    cache: the value of CNN_JAX_CACHE.
    """
    environment = os.environ | {
        "CNN_JAX_CACHE": cache, BEGAN: str(time.time()),
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "experiments")))}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run([sys.executable, "-m", "arms.first", *given], text=True,
                          cwd=ROOT, capture_output=True, env=environment)
    if done.returncode:
        raise RunError(f"the first step of {' '.join(given)} ended with code "
                       f"{done.returncode}: {done.stderr.strip()[-300:]}")
    return json.loads(done.stdout.splitlines()[-1])


def row_in_new_process(script: str, *row: str) -> dict:
    """Runs `script --row ROW` on the CPU in a new process; returns what it prints last.

    Raises InputError if it ends with code 2, and RunError if it fails otherwise.
    """
    done = subprocess.run(
        [sys.executable, script, "--row", *row], capture_output=True, text=True,
        env=os.environ | {"JAX_PLATFORMS": "cpu"})
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        if done.returncode == 2:
            raise InputError(lines[-1].partition(": ")[2])
        raise RunError(lines[-1][:300])
    return json.loads(done.stdout.splitlines()[-1])


def ran_on() -> dict:
    """Describes machine, device, versions and commit, for the head of results."""
    device = jax.devices()[0]
    return {"machine": machine(), "device": f"{device.platform} ({device.device_kind})",
            "versions": versions(), "commit": commit()}
