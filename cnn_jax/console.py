"""Prints lines and progress bars for people."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import (BarColumn, DownloadColumn, MofNCompleteColumn, Progress,
                           SpinnerColumn, TextColumn, TimeElapsedColumn,
                           TimeRemainingColumn, TransferSpeedColumn)

Item = TypeVar("Item")
# The fields of a row of the history that are not metrics.
COUNTERS = ("epoch", "step", "learning_rate", "seconds", "images_per_second",
            "input_seconds")
QUIET_SECONDS = 30.0  # between progress lines where there is no terminal


def counted(count: int, noun: str) -> str:
    """Writes '1 picture' or '2,000 pictures'."""
    return f"{count:,} {noun}" + "s" * (count != 1)


class Reporter:
    """Prints lines, and a live bar on a terminal or plain progress lines elsewhere."""

    def __init__(self, quiet: bool = False, stderr: bool = False) -> None:
        self.console = Console(quiet=quiet, stderr=stderr, highlight=False,
                               soft_wrap=True)
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
        begun = time.perf_counter()
        yield
        self.line(f"{title} took {time.perf_counter() - begun:.1f} s")

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

        The block closes the bar, not the iterator, which stays open after an error.
        """
        with self.progress_bar(title, total):
            yield self._counted(items, note)

    def _counted(self, items: Iterable[Item], note: str) -> Iterator[Item]:
        for done, item in enumerate(items):
            self.advance(done, note)
            yield item

    @contextlib.contextmanager
    def under_way(self, title: str, plain: bool = True) -> Iterator[None]:
        """Shows the title, a spinner and the elapsed time until the block ends.

        Without a terminal it prints a line if `plain` is true.
        """
        if not self.console.is_terminal:
            if plain:
                self.line(f"{title} ...")
            yield
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
