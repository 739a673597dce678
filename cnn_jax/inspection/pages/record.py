"""Reads what the files of a workdir say about a run, finished or not."""

import csv
import json
import math
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cnn_jax.config import flat
from cnn_jax.data.info import DataInfo
from cnn_jax.errors import InputError
from cnn_jax.files import read_json
from cnn_jax.inspection.explain import classification_metrics
from cnn_jax.networks.summary_files import Summary
from cnn_jax.workdir.folder import ANEW, read_config, read_data_info
from cnn_jax.workdir.progress import Row, best_row
from cnn_jax.workdir.results import read_results

# The columns that every row of history.csv has.
EPOCH = ("epoch", "step", "loss", "accuracy", "learning_rate", "seconds")
SHARES = ("accuracy", "mean_iou", "macro_f1")  # ends of the names of figures in 0..1


class Record(NamedTuple):
    """What the files of a workdir say about a run."""

    folder: Path
    config: ConfigDict
    info: DataInfo
    history: list[Row]               # a row an epoch
    results: dict[str, Any] | None   # of a run that has ended
    summary: Summary | None          # the layer table
    # Of one split of the data, where it was measured.
    metrics: classification_metrics.ClassificationMetrics | None

    @property
    def name(self) -> str:
        """The name of the folder."""
        return self.folder.absolute().name

    @property
    def best(self) -> Row | None:
        """The row of the best epoch so far."""
        return (best_row(self.history, self.config.checkpoint.monitor)
                if self.history else None)


def read_record(folder: Path) -> Record:
    """Reads the files that exist.

    Raises InputError for a folder that is not a run, and for damaged files.
    """
    config, info = read_config(folder), read_data_info(folder)
    need(folder / "data.json", info.counts, ("train", "validation", "test"),
         "the folder is damaged")
    check_counts(folder / "data.json", info.counts, 0)
    history, path = folder / "history.csv", folder / "results.json"
    results = read_results(folder).flat() if path.exists() else None
    if results is not None:
        check_shares(path, results)
        check_counts(path, {"test_examples": results["test_examples"]},
                     results.get("test_accuracy") is not None)
        check_counts(path, {"train_seconds": results["train_seconds"]}, 0)
    return Record(
        folder, config, info,
        read_history(history, config.checkpoint.monitor) if history.exists() else [],
        results, read_summary(folder / "summary.json"),
        classification_metrics.load(folder))


def read_summary(path: Path) -> Summary | None:
    """Reads the layer table; None where the file does not exist."""
    return read_json(path, Summary, ANEW) if path.exists() else None


def need(path: Path, values: Collection[str], fields: Iterable[str], advice: str
         ) -> None:
    """Raises InputError with the fields that a file lacks."""
    missing = [field for field in fields if field not in values]
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}: {advice}")


def read_history(path: Path, monitor: str) -> list[Row]:
    """Reads history.csv; a row lacks the columns that are empty in it.

    monitor: the column by which the best epoch was chosen.
    """
    try:
        if not path.is_file():
            raise OSError("it is not a file")
        with path.open(newline="") as file:
            rows: list[Row] = [
                {name: float(value) for name, value in row.items() if value}
                for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read ({error}): the folder is damaged"
                         ) from error
    for i, row in enumerate(rows, 1):
        need(path, row, dict.fromkeys((*EPOCH, monitor, *rows[0])),
             f"row {i} is damaged; metrics.jsonl holds the figures of all epochs too")
        check_shares(path, row)
        if not all(float(row[name]).is_integer() and row[name] >= 1
                   for name in ("epoch", "step")):
            raise InputError(f"{path}: row {i} is of epoch {row['epoch']} and step "
                             f"{row['step']}, which count from 1: it is damaged; "
                             "metrics.jsonl holds the figures of all epochs too")
    return rows


def check_shares(path: Path, figures: Mapping[str, Any]) -> None:
    """Raises InputError for an accuracy, mean IoU or macro F1 outside 0..1."""
    for name, value in figures.items():
        if value is not None and name.endswith(SHARES) and not (
                math.isnan(value) or 0 <= value <= 1):
            raise InputError(f"{path}: {name} is {value}, which must be from 0 to 1: "
                             f"it is damaged; {ANEW}")


def check_counts(path: Path, counts: Mapping[str, int], least: int) -> None:
    """Raises InputError for a number that is below `least`, or is not finite."""
    for name, value in counts.items():
        if not least <= value < 2**53:
            raise InputError(f"{path}: {name} is {value}, which must be at least "
                             f"{least:d}, and finite: it is damaged; {ANEW}")


def fields(config: ConfigDict) -> dict[str, Any]:
    """Returns {'data.name': 'digits', 'model.fields.pool': 'max', ...} as JSON values.
    """
    found = flat(json.loads(config.to_json()))
    own = found.pop("model.fields")
    return found | {f"model.fields.{name}": value for name, value in own.items()}


def defaults() -> dict[str, Any] | None:
    """Returns the fields of configs/default.py; None where only the package is
    installed."""
    try:
        from configs import default
    except ImportError:
        return None
    return fields(default.get_config())
