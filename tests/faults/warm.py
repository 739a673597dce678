"""Starts and ends the fault commands.

They fork `main.py` from this process, work in a temporary folder with one compilation
cache, and share their flags and their last line. Functions of `tiny_runs` that take a
`Popen` also take a `Forked`.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

OWN_CACHE = tempfile.mkdtemp(prefix="compiled")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", OWN_CACHE)
os.environ |= {"JAX_PLATFORMS": "cpu",
               "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
               "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
               "CNN_JAX_HUGE_PAGES": "0"}

import sklearn.datasets  # noqa: E402, F401
from absl import app  # noqa: E402, F401
from tests.support.forked import HERE, Forked  # noqa: E402
from tests.support.tiny_runs import as_flags  # noqa: E402

from cnn_jax.cli import commands  # noqa: E402, F401


def start(workdir: Path, changes: dict, *args, folder: Path, **options) -> Forked:
    """Starts `main.py` on the tiny config, as `tiny_runs.start_main` does."""
    return Forked([*as_flags(changes), f"--workdir={workdir}", *args], folder, HERE,
                  **options)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Makes a temporary folder, and removes it and the compiled programs at the end."""
    with tempfile.TemporaryDirectory(prefix="faults") as folder:
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(OWN_CACHE, ignore_errors=True)


def command_line(module: str | None, **defaults) -> argparse.Namespace:
    """Parses the flags of a fault command; its docstring is the help."""
    parser = argparse.ArgumentParser(
        description=module, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value),
                            default=value)
    arguments = parser.parse_args()
    print(vars(arguments), flush=True)
    return arguments


def report(figures: dict, good: bool) -> None:
    """Prints the last line, for tests/faults/figures.py, and ends with its code."""
    print(json.dumps(figures | {"good": good}), flush=True)
    sys.exit(0 if good else 1)
