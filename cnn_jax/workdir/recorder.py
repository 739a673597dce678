"""Writes metrics.jsonl, history.csv and TensorBoard events while a run trains."""

import contextlib
import csv
import io
import json
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from cnn_jax.config import flat, to_json
from cnn_jax.console import COUNTERS
from cnn_jax.files import file_errors, write_atomically
from cnn_jax.workdir.event_file import EventFile
from cnn_jax.workdir.progress import Row
from cnn_jax.workdir.tensorboard_x import Summary, summary

# The first columns of history.csv; metrics of the task come after them.
COLUMNS = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy",
           "learning_rate", "seconds", "images_per_second")


class Recorder:
    """Records a run in its workdir. On resume, it drops rows later than `step`.

    writing: False in all processes except the first, so that only one writes.
    config: TensorBoard shows it as text, and its fields as hyperparameters.
    """

    def __init__(self, workdir: Path, step: int, history: list[Row],
                 writing: bool = True, config: ConfigDict | None = None) -> None:
        self.workdir, self.writing = workdir, writing
        self.events: dict[str, EventFile] = {}
        self.jsonl = workdir / "metrics.jsonl"
        if not writing:
            return
        kept: list[str] = []
        with file_errors(self.jsonl), contextlib.suppress(FileNotFoundError):
            text = self.jsonl.read_text(errors="replace")  # it may be damaged
            kept = [line for line in text.splitlines() if is_row_until(line, step)]
        write_atomically(self.jsonl, "".join(line + "\n" for line in kept))
        self._write_history(history)
        for split in ("train", "validation"):
            with file_errors(workdir / split):
                self.events[split] = EventFile(workdir / split, purge_step=step + 1)
                if config is not None:
                    self.events[split].add(config_events(config, split), step)

    def close(self) -> None:
        """Closes the event files. Raises RunError if a disk is full."""
        for split, events in self.events.items():
            with file_errors(self.workdir / split):
                events.close()

    def append(self, row: dict[str, Any]) -> None:
        """Appends a row to metrics.jsonl."""
        if self.writing:
            with file_errors(self.jsonl), self.jsonl.open("a") as file:
                file.write(json.dumps(row) + "\n")

    def epoch(self, history: list[Row]) -> None:
        """Records the newest row of `history` in all files."""
        if not self.writing:
            return
        row = history[-1]
        self.append({"kind": "epoch"} | row)
        self._write_history(history)
        shared = {tag: row[tag] for tag in ("learning_rate", "images_per_second")}
        for split, prefix in (("train", ""), ("validation", "val_")):
            if prefix + "loss" not in row:
                continue
            tags = {name.removeprefix(prefix): value for name, value in row.items()
                    if name not in COUNTERS
                    and name.startswith("val_") == bool(prefix)} | shared
            with file_errors(self.workdir / split):
                self.events[split].add(
                    (summary.scalar(tag, value) for tag, value in tags.items()),
                    int(row["step"]))

    def _write_history(self, history: list[Row]) -> None:
        content = io.StringIO()
        more = [name for name in (history or [{}])[0] if name not in COLUMNS]
        table = csv.DictWriter(content, [*COLUMNS, *more], restval="",
                               lineterminator="\n")
        table.writeheader()
        table.writerows(history)
        write_atomically(self.workdir / "history.csv", content.getvalue())


def config_events(config: ConfigDict, split: str) -> list[Summary]:
    """Makes the events that show the config: as text, or as hyperparameters.

    The hyperparameters belong to the validation split, whose metrics TensorBoard lists
    beside them.
    """
    if split == "train":
        # Markdown shows a line as it is if it starts with four spaces.
        lines = to_json(config).replace("\n", "\n    ")
        return [summary.text("config", f"    {lines}")]
    fields = {name: value if isinstance(value, (bool, int, float)) else str(value)
              for name, value in flat(config).items()}
    return list(summary.hparams(fields, {"loss": 0.0, "accuracy": 0.0})[:2])


def is_row_until(line: str, step: int) -> bool:
    """Tells whether a line of metrics.jsonl is complete and not later than `step`."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (ValueError, KeyError, TypeError):
        return False  # a kill cut the row short, or it is damaged
