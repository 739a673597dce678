"""What a run writes while it trains: lines, metrics.jsonl, history.csv, TensorBoard."""

import contextlib
import csv
import io
import json
from pathlib import Path

from tensorboardX.summary import scalar

from cnn_jax.console import COUNTERS
from cnn_jax.files import named, write_atomically
from cnn_jax.workdir.event_file import EventFile

COLUMNS = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy",
           "learning_rate", "seconds", "images_per_second")


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
            tags = {name.removeprefix(prefix): value for name, value in row.items()
                    if name not in COUNTERS
                    and name.startswith("val_") == bool(prefix)} | shared
            with named(self.workdir / part):
                self.writers[part].add(
                    (scalar(tag, value) for tag, value in tags.items()), row["step"])


def is_row_until(line: str, step: int) -> bool:
    """Whether a line of metrics.jsonl is whole and not later than `step`."""
    try:
        return json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError, RecursionError):
        return False  # the row that a kill cut short, or damage
