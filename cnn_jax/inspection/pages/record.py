"""Reads what the files of a workdir say about a run, finished or not."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cnn_jax.config import flat
from cnn_jax.data.info import DataInfo
from cnn_jax.errors import InputError
from cnn_jax.files import read_json
from cnn_jax.inspection.explain import classification_metrics
from cnn_jax.networks.summary_files import Summary
from cnn_jax.workdir.folder import REWRITE, read_config, read_data_info
from cnn_jax.workdir.progress import Progress, Row, best_row
from cnn_jax.workdir.profile import Profile, read_profile
from cnn_jax.workdir.results import Results, read_results


class Record(NamedTuple):
    """Holds what the files of a workdir say about a run."""

    folder: Path
    config: ConfigDict
    info: DataInfo
    history: list[Row]       # one row for each epoch
    results: Results | None  # None until the run has ended
    summary: Summary | None  # the layer table
    metrics: classification_metrics.MetricsFile | None
    profile: Profile | None  # of --profile_steps

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
    """Reads the files of a run; those that it writes at its end may not exist yet.

    Raises InputError for a folder that is not a run, and for damaged files.
    """
    config, summary = read_config(folder), folder / "summary.json"
    return Record(
        folder, config, read_data_info(folder),
        read_history(folder / "history.csv", config.checkpoint.monitor),
        read_results(folder) if (folder / "results.json").exists() else None,
        read_json(summary, Summary, REWRITE) if summary.exists() else None,
        classification_metrics.load(folder), read_profile(folder))


def read_history(path: Path, monitor: str) -> list[Row]:
    """Reads history.csv; a row lacks the columns that are empty in the file.

    Before the first epoch has ended, the file holds only the names of the columns.
    monitor: the metric that decides which epoch is the best; every row must have it.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="") as file:
            table = csv.DictReader(file)
            rows: list[Row] = [
                {name: float(value) for name, value in row.items() if value}
                for row in table]
            names = table.fieldnames or ()
        Progress(history=rows)  # checks the rows
        required = {"loss", "seconds", *([monitor] if rows else [])}
        if missing := required.difference(rows[0] if rows else names):
            raise ValueError(f"it lacks {', '.join(sorted(missing))}")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise InputError(f"{path} is damaged ({error}): delete it; metrics.jsonl holds "
                         "the same metrics") from error
    return rows


def fields(config: ConfigDict) -> dict[str, Any]:
    """Returns {'data.name': 'digits', 'model.fields.pool': 'max', ...} as JSON values.
    """
    values = flat(json.loads(config.to_json()))
    network_fields = values.pop("model.fields")
    return values | {f"model.fields.{name}": value
                     for name, value in network_fields.items()}
