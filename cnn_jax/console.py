"""Lines and progress bars for people."""

import contextlib
import time
from collections.abc import Iterable, Iterator

from rich.console import Console
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, SpinnerColumn,
                           TextColumn, TimeElapsedColumn, TimeRemainingColumn)

# What a row of the history holds beside its metrics.
COUNTERS = ("epoch", "step", "learning_rate", "seconds", "images_per_second")
QUIET_SECONDS = 30.0  # between progress lines where there is no terminal


class Reporter:
    """Lines for people: a live bar on a terminal, plain lines elsewhere."""

    def __init__(self, quiet: bool = False, stderr: bool = False):
        self.prefix = ""
        self.console = Console(quiet=quiet, stderr=stderr, highlight=False,
                               soft_wrap=True)
        self.bar = None
        self.spoken = time.monotonic()

    def named(self, prefix: str) -> "Reporter":
        """One that sets the prefix before its lines, on the same terminal."""
        other = Reporter()
        other.console, other.prefix = self.console, prefix
        return other

    def line(self, text: str) -> None:
        self.console.print(self.prefix + text, markup=False)

    def start(self, title: str, total: int, done: int = 0) -> None:
        self.spoken = time.monotonic()
        if self.console.is_terminal:
            self.bar = Progress(TextColumn("{task.description}"), BarColumn(),
                                MofNCompleteColumn(), TimeRemainingColumn(),
                                TextColumn("{task.fields[note]}"),
                                console=self.console, transient=True)
            self.task = self.bar.add_task(title, total=total, completed=done, note="")
            self.bar.start()
        self.title, self.total = title, total

    def advance(self, done: int, note: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, completed=done, note=note)
        elif time.monotonic() - self.spoken > QUIET_SECONDS:
            self.spoken = time.monotonic()
            self.line(f"{self.title} - step {done}/{self.total} - {note}")

    @contextlib.contextmanager
    def progress_bar(self, title: str, total: int, done: int = 0) -> Iterator[None]:
        """Shows a bar, which `advance` moves, until the block ends."""
        self.start(title, total, done)
        try:
            yield
        finally:
            self.stop()

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    @contextlib.contextmanager
    def track(self, title: str, items: Iterable, total: int,
              note: str) -> Iterator[Iterator]:
        """The items, while the bar shows how many of `total` have been taken."""
        # Not in the iterator, which an error would leave open, and the bar too.
        with self.progress_bar(title, total):
            yield self.counted(items, note)

    @contextlib.contextmanager
    def under_way(self, words: str, plain: bool = True) -> Iterator[None]:
        """Says what the block does, where no steps can be counted: on a terminal beside
        a spinner and the time, until it ends; elsewhere in a line, if `plain`."""
        if not self.console.is_terminal:
            if plain:
                self.line(f"{words} ...")
            yield
            return
        with Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False),
                      TimeElapsedColumn(), console=self.console, transient=True) as bar:
            bar.add_task(words, total=None)
            yield

    def counted(self, items: Iterable, note: str) -> Iterator:
        for done, item in enumerate(items):
            self.advance(done, note)
            yield item


def epoch_line(row: dict, epochs: int) -> str:
    """One epoch in Keras' words."""
    words = [f"epoch {row['epoch']}/{epochs}"]
    words += [f"{name}: {value:.4f}" for name, value in row.items()
              if name not in COUNTERS]
    words += [f"{row['seconds']:.1f} s", f"{row['images_per_second']:,.0f} images/s"]
    return " - ".join(words)


def part_line(part: str, figures: dict) -> str:
    """The evaluation of one part of the data."""
    if figures["examples"] == 0:
        return f"{part}: no examples"
    words = [f"{name}: {value:.4f}" for name, value in figures.items()
             if name != "examples"]
    return f"{part}: {' - '.join(words)} - {figures['examples']} examples"
