"""What a run writes while it trains: lines, metrics.jsonl, history.csv, TensorBoard."""

import contextlib
import csv
import errno
import io
import json
import math
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import (BarColumn, MofNCompleteColumn, Progress, SpinnerColumn,
                           TextColumn, TimeElapsedColumn, TimeRemainingColumn)
from tensorboardX.summary import scalar

from cnn_jax.errors import RunError, reason
from cnn_jax.training.event_file import EventFile

COLUMNS = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy",
           "learning_rate", "seconds", "images_per_second")
QUIET_SECONDS = 30.0  # between progress lines where there is no terminal


@contextlib.contextmanager
def named(path: Path):
    """Says which file could not be written: the error of a full disk does not."""
    try:
        yield
    except OSError as error:
        raise RunError(f"{path} could not be written: {reason(error)}") from error


def write_atomically(path: Path, text: str) -> None:
    """Replaces the file as a whole: a reader or a kill never sees half of it."""
    partial = path.with_name(path.name + ".partial")
    with named(path):
        partial.write_text(text)
        os.replace(partial, path)


def mean(sums: dict[str, float]) -> dict[str, float]:
    """Loss and accuracy from sums over examples: divide once, at the end.

    Of masks, accuracy is the share of right pixels, and evaluation adds the mean IoU.
    """
    count = float(sums["count"])
    found = {name: float(sums[key]) / count for name, key in (
        ("loss", "loss"), ("accuracy", "correct"))}
    if "confusion" in sums:
        found["mean_iou"] = mean_iou(sums["confusion"])
    return found


def mean_iou(confusion: np.ndarray) -> float:
    """Mean over the classes of |truth and prediction| / |truth or prediction|.

    confusion: pixels [true class, predicted class] of the whole part. A class that is
    neither there nor predicted does not count.
    """
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return float(np.mean(both[either > 0] / either[either > 0]))


def improvement(row: dict, monitor: str) -> float:
    """The monitored value with the sign that makes higher better; NaN is the worst."""
    value = -row[monitor] if monitor.endswith("loss") else row[monitor]
    return -math.inf if math.isnan(value) else value


def should_stop(history: list[dict], monitor: str, patience: int,
                min_delta: float) -> bool:
    """Whether the last `patience` epochs brought no improvement by min_delta (Keras'
    EarlyStopping). A pure function of the history, so a resumed run decides alike."""
    if patience == 0:
        return False
    best, waited = -math.inf, 0
    for row in history:
        value = improvement(row, monitor)
        if value > best + min_delta:
            best, waited = value, 0
        else:
            waited += 1
    return waited >= patience


class Recorder:
    """The files of a run. On resume, rows later than `step` are taken back.

    writing: False in all processes but the first, which then write nothing.
    lost: what is to be said where rows up to `step` are not there any more.
    """

    def __init__(self, workdir: Path, step: int, history: list[dict],
                 writing: bool = True):
        self.workdir, self.writing, self.writers = workdir, writing, {}
        self.jsonl, self.lost = workdir / "metrics.jsonl", ""
        if not writing:
            return
        kept = []
        with named(self.jsonl), contextlib.suppress(FileNotFoundError):
            if self.jsonl.is_fifo():  # which would be waited for
                raise OSError(errno.EEXIST, "it is a pipe")
            text = self.jsonl.read_text(errors="replace")  # it may be damaged
            kept = [line for line in text.splitlines() if is_row_until(line, step)]
        # Each checkpoint and each epoch was written after the row of its step.
        wanted = {row["step"] for row in history} | ({step} if step else set())
        if gone := wanted - {json.loads(line)["step"] for line in kept}:
            self.lost = (f"{self.jsonl} was deleted or damaged: it lacks rows up to "
                         f"step {max(gone)}, which do not come back; history.csv is "
                         "whole, and what is computed is not touched")
        write_atomically(self.jsonl, "".join(line + "\n" for line in kept))
        self.write_history(history)
        for part in ("train", "validation"):
            with named(workdir / part):
                self.writers[part] = EventFile(workdir / part, purge_step=step + 1)

    def close(self) -> None:
        for part, writer in self.writers.items():
            with named(self.workdir / part):
                writer.close()

    def append(self, row: dict) -> None:
        if self.writing:
            with named(self.jsonl), self.jsonl.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def write_history(self, history: list[dict]) -> None:
        text = io.StringIO()
        more = [name for name in (history or [{}])[0] if name not in COLUMNS]
        table = csv.DictWriter(text, [*COLUMNS, *more], restval="", lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        write_atomically(self.workdir / "history.csv", text.getvalue())

    def epoch(self, history: list[dict]) -> None:
        """Records the newest row of `history` everywhere."""
        if not self.writing:
            return
        row = history[-1]
        self.append({"kind": "epoch"} | row)
        self.write_history(history)
        shared = {tag: row[tag] for tag in ("learning_rate", "images_per_second")}
        for part, prefix in (("train", ""), ("validation", "val_")):
            if prefix + "loss" not in row:
                continue
            tags = {tag: row[prefix + tag] for tag in ("loss", "accuracy", "mean_iou")
                    if prefix + tag in row} | shared
            with named(self.workdir / part):
                self.writers[part].add(
                    (scalar(tag, value) for tag, value in tags.items()), row["step"])


def is_row_until(line: str, step: int) -> bool:
    """Whether a line of metrics.jsonl is whole and not later than `step`."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # the row that a kill cut short, or damage


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

    def stop(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None

    @contextlib.contextmanager
    def track(self, title: str, items: Iterable, total: int,
              note: str) -> Iterator[Iterator]:
        """The items, while the bar shows how many of `total` have been taken."""
        self.start(title, total)
        try:  # not in the iterator, which an error would leave open, and the bar too
            yield self.counted(items, note)
        finally:
            self.stop()

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
    words += [f"{name}: {row[name]:.4f}" for name in
              ("loss", "accuracy", "val_loss", "val_accuracy", "val_mean_iou")
              if name in row]
    words += [f"{row['seconds']:.1f} s", f"{row['images_per_second']:,.0f} images/s"]
    return " - ".join(words)


def part_line(part: str, figures: dict) -> str:
    """The evaluation of one part of the data."""
    if figures["examples"] == 0:
        return f"{part}: no examples"
    words = [f"{name}: {figures[name]:.4f}" for name in
             ("loss", "accuracy", "mean_iou") if name in figures]
    return f"{part}: {' - '.join(words)} - {figures['examples']} examples"
