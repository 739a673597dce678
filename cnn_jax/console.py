"""Prints lines and progress bars."""

import contextlib
import os
import shlex
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (BarColumn, DownloadColumn, MofNCompleteColumn, Progress,
                           SpinnerColumn, TextColumn, TimeElapsedColumn,
                           TimeRemainingColumn, TransferSpeedColumn)

Item = TypeVar("Item")
# The fields of a row of the history that are not metrics.
COUNTERS = ("epoch", "step", "learning_rate", "seconds", "images_per_second",
            "input_seconds")
QUIET_SECONDS = 30.0  # between progress lines without a terminal
SLOW_SECONDS = 3.0    # after which a step before training is named there


def counted(count: int, noun: str) -> str:
    """Writes '1 picture' or '2,000 pictures'."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def command(*arguments: str) -> str:
    """Writes a command line of this program, in the form in which it was started."""
    started = Path(sys.argv[0])
    if started.parts[-2:] == ("cnn_jax", "__main__.py"):
        program = ["python", "-m", "cnn_jax"]
    elif started.name == "main.py":  # of a clone, perhaps from another folder
        program = ["python", str(started)]
    elif started.name == "cnn-jax" or not Path(__file__).parents[1].joinpath(
            "main.py").exists():
        program = ["cnn-jax"]
    else:  # a script of the user, or a notebook, with a clone
        program = ["python", "main.py"]
    return shlex.join([*program, *arguments])


def discard(file: Any) -> None:
    """Redirects a file to /dev/null."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, file.fileno())
    os.close(null)


class Output:
    """Standard output or error of a run that continues if writing fails.

    The reader of a pipe may have ended (`| head`), the disk of the log may be full, a
    terminal may know only ASCII.
    """

    def __init__(self, name: str) -> None:
        self.name = name  # 'stdout' or 'stderr', of `sys`

    def __getattr__(self, attribute: str) -> Any:
        return getattr(self.file, attribute)

    @property
    def file(self) -> Any:
        """The file itself, not the one by which rich replaces it; None if closed."""
        file = getattr(sys, self.name)
        return getattr(file, "rich_proxied_file", file)

    @property
    def rich_proxied_file(self) -> "Output":
        """The file that rich writes to while a bar is shown."""
        return self

    def write(self, text: str) -> int:
        with self.ignoring_errors() as file:
            encoding = getattr(file, "encoding", None) or "utf-8"
            file.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self.ignoring_errors() as file:
            file.flush()

    @contextlib.contextmanager
    def ignoring_errors(self) -> Iterator[Any]:
        """Yields the file; after an error, the file is redirected to /dev/null."""
        file = self.file
        try:
            yield file
        except OSError as error:
            discard(file)
            if self.name == "stdout":
                Output("stderr").write(
                    "cnn_jax: standard output cannot be written "
                    f"({error.strerror or error}): the run goes on without it\n")


class Reporter:
    """Prints lines, and a live bar on a terminal or plain progress lines elsewhere."""

    def __init__(self, quiet: bool = False, stderr: bool = False) -> None:
        output: Any = Output("stderr" if stderr else "stdout")
        # A notebook gets plain lines: its streams say that they are terminals, but show
        # each frame of a bar.
        ipython = sys.modules.get("IPython")
        in_notebook = hasattr(ipython and ipython.get_ipython(), "kernel")
        self.console = Console(file=None if output.file is None else output,
                               quiet=quiet, stderr=stderr, highlight=False,
                               soft_wrap=True, force_jupyter=False,
                               force_terminal=False if in_notebook else None)
        self.bar: Progress | None = None
        self.title, self.total, self.in_bytes = "", 0, False
        self.last_line = time.monotonic()  # when progress was last printed

    def line(self, text: str) -> None:
        """Prints a line."""
        self.console.print(text, markup=False)

    @contextlib.contextmanager
    def timed(self, title: str) -> Iterator[None]:
        """Prints the title as the block begins, and the seconds as it ends."""
        self.line(f"{title} ...")
        start = time.perf_counter()
        yield
        self.line(f"{title} took {time.perf_counter() - start:.1f} s")

    @contextlib.contextmanager
    def progress_bar(self, title: str, total: int, done: int = 0,
                     in_bytes: bool = False) -> Iterator[None]:
        """Shows a bar, which `advance` updates, until the block ends.

        total: steps, or bytes with `in_bytes`; 0 if unknown.
        """
        self.title, self.total, self.in_bytes = title, total, in_bytes
        self.last_line = time.monotonic()
        if not self.console.is_terminal:
            yield
            return
        counts = ((DownloadColumn(), TransferSpeedColumn()) if in_bytes
                  else (MofNCompleteColumn(),))
        with Progress(TextColumn("{task.description}"), BarColumn(), *counts,
                      TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
                      console=self.console, transient=True) as self.bar:
            self.bar.add_task(title, total=total or None, completed=done, note="")
            try:
                yield
            finally:
                self.bar = None

    def advance(self, done: int, note: str = "") -> None:
        """Updates the bar, or prints a line every QUIET_SECONDS without a terminal."""
        if self.bar is not None:
            self.bar.update(self.bar.task_ids[0], completed=done, note=note)
        elif time.monotonic() - self.last_line > QUIET_SECONDS:
            self.last_line = time.monotonic()
            state = (f"{done / 1e6:,.0f} of {self.total / 1e6:,.0f} MB" if self.in_bytes
                     else f"step {done}/{self.total} - {note}")
            self.line(f"{self.title} - {state}")

    @contextlib.contextmanager
    def track(self, title: str, items: Iterable[Item], total: int,
              note: str) -> Iterator[Iterator[Item]]:
        """Yields the items while a bar shows how many of `total` have been taken.

        The end of the block closes the bar: after an error the iterator stays open.
        """
        with self.progress_bar(title, total):
            yield self._counted(items, note)

    def _counted(self, items: Iterable[Item], note: str) -> Iterator[Item]:
        for done, item in enumerate(items):
            self.advance(done, note)
            yield item

    @contextlib.contextmanager
    def under_way(self, title: str, plain: bool = True,
                  after: float | None = None) -> Iterator[None]:
        """Shows the title, a spinner and the elapsed time until the block ends.

        Without a terminal it prints a line if `plain` is true, or if the block takes
        more than `after` seconds.
        """
        if not self.console.is_terminal:
            if plain:
                self.line(f"{title} ...")
            if after is None:
                yield
                return
            late = threading.Timer(after, self.line, [f"{title} ..."])
            late.daemon = True
            late.start()
            try:
                yield
            finally:
                late.cancel()
            return
        with Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False),
                      TimeElapsedColumn(), console=self.console, transient=True) as bar:
            bar.add_task(title, total=None)
            yield


def epoch_line(row: dict[str, Any], epochs: int) -> str:
    """Formats one epoch as Keras does: epoch, metrics, time, speed."""
    fields = [f"epoch {row['epoch']}/{epochs}"]
    fields += [f"{name}: {value:.4f}" for name, value in row.items()
               if name not in COUNTERS]
    fields += [f"{row['seconds']:.1f} s", f"{row['images_per_second']:,.0f} images/s"]
    return " - ".join(fields)


def split_line(split: str, metrics: dict[str, Any]) -> str:
    """Formats the metrics of one split."""
    if metrics["examples"] == 0:
        return f"{split}: no examples"
    fields = [f"{name}: {value:.4f}" for name, value in metrics.items()
              if name != "examples"]
    return f"{split}: {' - '.join(fields)} - {metrics['examples']} examples"
