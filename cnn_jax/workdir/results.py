"""Reads and writes results.json, the figures of a run that has ended."""

import hashlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cnn_jax.files import read_json, write_json
from cnn_jax.tasks import Task
from cnn_jax.workdir.checkpoints import leaves
from cnn_jax.workdir.folder import REWRITE
from cnn_jax.workdir.progress import Row

FILE = "results.json"


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """Holds the content of results.json."""

    network: str
    dataset: str
    seed: int
    params: int
    epochs: int
    best_epoch: int
    validation_accuracy: float | None  # of the best epoch; None without this split
    test_accuracy: float | None        # of the parameters of the best epoch
    test_loss: float | None
    test_examples: int
    task_metrics: dict[str, float | None]  # such as test_mean_iou
    train_seconds: float               # without compilation and evaluation
    compile_seconds: float
    images_per_second: float           # in training
    peak_memory_mb: float              # of the process
    device_peak_memory_mb: float | None = None  # None: the backend does not count it
    params_sha256: str                 # over the last state
    versions: dict[str, str]
    devices: list[str]
    machine: str
    convolutions: dict[str, int]       # algorithm -> number of layers
    commit: str | None
    command: str
    # Of streamed data
    input_seconds: float | None = None  # part of train_seconds spent waiting for images
    skipped: list[str] = []             # names of images that could not be decoded

    def flat(self) -> dict[str, Any]:
        """Returns the results as a flat dict that includes the metrics of the task."""
        values = msgspec.to_builtins(self)
        return values | values.pop("task_metrics")


def task_metrics(task: Task, best: Row, test: dict[str, Any]
                 ) -> dict[str, float | None]:
    """Lists the metrics of a task on the validation and the test split."""
    metrics: dict[str, float | None] = {}
    for name in task.monitors:
        metrics |= {f"validation_{name}": best.get(f"val_{name}"),
                    f"test_{name}": test.get(name)}
    return metrics


def write_results(results: Results, workdir: Path) -> None:
    """Writes results.json."""
    write_json(workdir / FILE, results)


def read_results(workdir: Path) -> Results:
    """Reads results.json. Raises InputError if it is missing or damaged."""
    return read_json(workdir / FILE, Results, REWRITE)


def sha256(state: Any) -> str:
    """Hashes the bytes of all leaves in the order of their paths."""
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves(state).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf).data)
    return digest.hexdigest()
