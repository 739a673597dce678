"""results.json: the figures of a run that has ended."""

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cnn_jax.files import write_atomically
from cnn_jax.json_files import sealed
from cnn_jax.tasks import Task
from cnn_jax.workdir.checkpoints.read import leaves
from cnn_jax.workdir.folder import ANEW, read_sealed

FILE = "results.json"


class Results(msgspec.Struct, frozen=True, kw_only=True):
    """What results.json holds; the task's own metrics lie in it beside the others."""

    network: str
    dataset: str
    seed: int
    params: int
    epochs: int
    best_epoch: int
    validation_accuracy: float | None  # of the best epoch; None without such a part
    test_accuracy: float | None        # of the same parameters
    test_loss: float | None
    test_examples: int
    task_metrics: dict[str, float | None]  # such as test_mean_iou
    train_seconds: float               # without compiling and evaluating
    compile_seconds: float
    images_per_second: float
    peak_memory_mb: float              # of the process
    device_peak_memory_mb: float | None = None  # where the backend counts it
    params_sha256: str                 # over the last state
    versions: dict[str, str]
    devices: list[str]
    machine: str
    convolutions: dict[str, int]       # {algorithm: layers}
    commit: str | None
    command: str


# What every version has written into results.json, and the pages use.
RESULTS = {"seed": int, "params": int, "best_epoch": int,
           **dict.fromkeys(("test_accuracy", "test_loss", "validation_accuracy"),
                           float | None),
           "test_examples": int, "train_seconds": float, "images_per_second": float,
           "versions": {str: str}, "devices": [str], str: object}


def task_metrics(task: Task, best: dict[str, float],
                 test: dict[str, float]) -> dict[str, float | None]:
    """Lists the metrics of a task on the validation and the test part."""
    found: dict[str, float | None] = {}
    for name in task.monitors:
        found |= {f"validation_{name}": best.get(f"val_{name}"),
                  f"test_{name}": test.get(name)}
    return found


def write_results(results: Results, workdir: Path) -> None:
    """Writes results.json."""
    values: dict[str, Any] = {}
    for name, value in msgspec.to_builtins(results).items():
        if name == "task_metrics":
            values |= value
        elif value is not None or name != "device_peak_memory_mb":
            values[name] = value
    write_atomically(workdir / FILE, json.dumps(sealed(values), indent=2) + "\n")


def read_results(workdir: Path) -> Results:
    """Reads results.json. Raises InputError where it is missing or damaged."""
    values = read_sealed(workdir / FILE, RESULTS, ANEW)
    known = Results.__struct_fields__
    metrics = {name: values.pop(name) for name in [*values] if name not in known}
    return msgspec.convert(values | {"task_metrics": metrics}, Results)


def sha256(state: Any) -> str:
    """Hashes the bytes of all leaves in the order of their paths."""
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves(state).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()
