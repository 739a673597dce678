"""`main.py` in processes of its own, forked from this one, which has the imports made.

Importing is most of a tiny run's time. This process must not start a JAX backend, as a
fork of one that has does not work; programs are compiled once for all children. The
restart with huge pages is left out. What `tiny_runs` does to a `Popen` works on `Warm`.
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

OWN_CACHE = tempfile.mkdtemp(prefix="compiled")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", OWN_CACHE)
os.environ |= {"JAX_PLATFORMS": "cpu",
               "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
               "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
               "CNN_JAX_HUGE_PAGES": "0"}

import sklearn.datasets  # noqa: E402, F401
from absl import app  # noqa: E402, F401
from tests.support.tiny_runs import ROOT, as_flags  # noqa: E402

from cnn_jax.cli import modes  # noqa: E402, F401

FORK = multiprocessing.get_context("fork")


class Warm:
    """A process that runs `main.py` with a command line.

    before: called in the child first, to set limits or to drop privileges.
    """

    def __init__(self, argv: list[str], folder: Path,
                 before: Callable[[], None] | None = None):
        self.paths = [folder / "stdout.txt", folder / "stderr.txt"]
        self.process = FORK.Process(target=self._main, args=(argv, before))
        sys.stdout.flush()
        self.process.start()

    def _main(self, argv, before):
        for number, path in enumerate(self.paths, 1):
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, number)
        if before is not None:
            before()
        sys.argv = ["main.py", *argv]
        runpy.run_path(str(ROOT / "main.py"), run_name="__main__")

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float) -> None:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("main.py", timeout)

    def kill(self) -> None:
        self.process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        return tuple(path.read_text(errors="replace") for path in self.paths)

    @property
    def returncode(self) -> int:
        return self.process.exitcode


def start(workdir: Path, changes: dict, *args, folder: Path, **options) -> Warm:
    """`main.py` on the tiny config, as `tiny_runs.start_main`."""
    return Warm([*as_flags(changes), f"--workdir={workdir}", *args], folder, **options)


@contextlib.contextmanager
def workplace():
    """A temporary folder; programs that were compiled for this command go with it."""
    with tempfile.TemporaryDirectory(prefix="faults") as folder:
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(OWN_CACHE, ignore_errors=True)


def command_line(module, **defaults) -> argparse.Namespace:
    """The flags of a fault command, with its docstring as help."""
    parser = argparse.ArgumentParser(
        description=module, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in defaults.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value),
                            default=value)
    arguments = parser.parse_args()
    print(vars(arguments), flush=True)
    return arguments


def report(figures: dict, good: bool) -> None:
    """The last line, for tests/faults/figures.py, and the exit code."""
    print(json.dumps(figures | {"good": good}), flush=True)
    sys.exit(0 if good else 1)
