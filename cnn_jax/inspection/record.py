"""What the files of a workdir say of a run, whether it has ended or not."""

import csv
import json
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from cnn_jax.errors import InputError
from cnn_jax.inspection import quality
from cnn_jax.training.config import flat
from cnn_jax.training.results import best_row
from cnn_jax.training.workdir import (DataInfo, read_config, read_data_info, read_json)

History = tuple[dict[str, float], ...]  # a row an epoch


class Record(NamedTuple):
    """A run as its files tell it."""

    folder: Path
    config: ConfigDict
    info: DataInfo
    history: History
    results: dict[str, Any] | None   # of a run that has ended
    layers: dict[str, Any] | None    # summary.json
    quality: quality.Quality | None  # of one part of the data, where it was measured

    @property
    def name(self) -> str:
        return self.folder.absolute().name

    @property
    def best(self) -> dict[str, float] | None:
        """The row of the best epoch so far."""
        return (best_row(self.history, self.config.checkpoint.monitor)
                if self.history else None)


def read_record(folder: Path) -> Record:
    """Reads what there is. Raises InputError for a folder that is no run, and for
    files in it that are damaged."""
    history, results, layers = (folder / name for name in (
        "history.csv", "results.json", "summary.json"))
    return Record(
        folder, read_config(folder), read_data_info(folder),
        read_history(history) if history.exists() else (),
        read_json(results) if results.exists() else None,
        read_json(layers) if layers.exists() else None, quality.load(folder))


def read_history(path: Path) -> History:
    """The rows of history.csv, without the columns that are empty there."""
    try:
        with path.open(newline="") as file:
            return tuple({name: float(value) for name, value in row.items() if value}
                         for row in csv.DictReader(file))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): the folder is damaged"
                         ) from error


def fields(config: ConfigDict) -> dict[str, Any]:
    """{'data.name': 'digits', 'model.fields.pool': 'max', ...} as plain JSON values."""
    found = flat(json.loads(config.to_json()))
    own = found.pop("model.fields")
    return found | {f"model.fields.{name}": value for name, value in own.items()}


def defaults() -> dict[str, Any] | None:
    """The same of configs/default.py; None where only the package is installed."""
    try:
        from configs import default
    except ImportError:
        return None
    return fields(default.get_config())
