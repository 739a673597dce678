"""Runs programs in processes that are forked from one whose imports are done.

Imports take five seconds, more than most command lines. The parent must not start a JAX
backend, which would not work in a fork. The forked `main.py` does not restart with huge
pages. `Forked` has the methods of `subprocess.Popen` that tests use.
"""

import ast
import dataclasses
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing.context import BaseContext
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Forks this process itself, which must have neither threads nor a JAX backend.
HERE = multiprocessing.get_context("fork")
# Forks a server, which the first use starts.
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([
    "absl.app", "jinja2", "matplotlib.figure", "sklearn.datasets",
    "cnn_jax.cli.commands", "cnn_jax.inspection.output",
    "cnn_jax.inspection.draw.learning_curves", "cnn_jax.inspection.inspected_run"])


def run_main(argv: list[str], paths: list[Path], cwd: Path,
             environment: Mapping[str, str], before: Callable[[], None] | None,
             module: str | None) -> None:
    """Runs `main.py` or a module in the child, and redirects its output to files."""
    for number, path in enumerate(paths, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    gc.freeze()  # the collector would walk over all that the parent imported
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment | {"CNN_JAX_HUGE_PAGES": "0"})
    import jax
    for name, text in environment.items():  # jax read them when the parent imported it
        value = jax.config.values.get(name.lower())
        if isinstance(value, (bool, int, float)):
            jax.config.update(name.lower(), type(value)(ast.literal_eval(text)))
    jax.config.update("jax_compilation_cache_dir",
                      environment.get("JAX_COMPILATION_CACHE_DIR"))
    if before is not None:
        before()
    sys.argv = [str(ROOT / "main.py"), *argv]
    if module is None:
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(module, run_name="__main__")


class Forked:
    """A process that runs `main.py` with a command line.

    before: called in the child first, to set limits or to drop privileges.
    module: runs instead of `main.py`.
    """

    def __init__(self, argv: list[str], folder: Path, context: BaseContext = SERVER,
                 cwd: Path = ROOT, environment: Mapping[str, str] | None = None,
                 before: Callable[[], None] | None = None, module: str | None = None):
        self.args = argv
        self.paths = [folder / "stdout.txt", folder / "stderr.txt"]
        self.process = context.Process(target=run_main, args=(
            argv, self.paths, cwd, dict(environment or os.environ), before,
            module))
        sys.stdout.flush()
        self.process.start()

    @property
    def pid(self) -> int:
        return self.process.pid

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> None:
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


@dataclasses.dataclass
class Completed:
    """Imitates the result of `subprocess.run`."""

    returncode: int
    stdout: str
    stderr: str


def main(arguments: list[str], folder: Path, **options) -> Completed:
    """Runs `main.py` to its end; its output goes to files in `folder`."""
    process = Forked([*map(str, arguments)], folder, **options)
    output, errors = process.communicate(600)
    return Completed(process.returncode, output, errors)
