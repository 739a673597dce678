"""The end of a run: the best checkpoint on the test part, results.json, the curves."""

import hashlib
import json
import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax.errors import RunError
from cnn_jax.json_files import sealed
from cnn_jax.console import part_line
from cnn_jax.files import named, write_atomically
from cnn_jax.tasks import Task
from cnn_jax.workdir.checkpoints.read import leaves
from cnn_jax.workdir.progress import best_row
from cnn_jax.workdir.machine import (commit, machine, peak_memory_mb, versions)
from cnn_jax.workdir.folder import ANEW, read_sealed

# What every version has written into results.json, and the pages use; see `collect`
# and json_files.fits.
RESULTS = {"seed": int, "params": int, "best_epoch": int,
           **dict.fromkeys(("test_accuracy", "test_loss", "validation_accuracy",
                            "test_mean_iou", "validation_mean_iou"), float | None),
           "test_examples": int, "train_seconds": float, "images_per_second": float,
           "versions": {str: str}, "devices": [str], str: object}


def sha256(state: Any) -> str:
    """Over the bytes of all leaves in the order of their paths."""
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves(state).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


class Scored(NamedTuple):
    """What is known of a run when it has been evaluated on the test part."""

    results: dict      # of results.json
    best: Any          # the state that was evaluated, on the host
    step: int          # after which it was saved
    draw: bool         # whether its pictures and report are still to be made


def score(this, state, progress, evaluate, only_evaluate: bool) -> Scored:
    """Evaluates the best checkpoint on the test part and writes results.json.

    A run that had finished before keeps its results.json: its times and memory are
    those of the training, which this process has not seen.
    """
    final = this.placement.fetch(state)
    row = best_row(progress.history, this.config.checkpoint.monitor)
    if this.checkpoints.best != row["step"]:
        raise RunError(f"{this.checkpoints.directory} lacks the best checkpoint, step "
                       f"{row['step']}: it was deleted or damaged")
    best, _ = this.checkpoints.restore(row["step"], final)
    on_devices = this.placement.put(best)
    test = {"loss": None, "accuracy": None, "examples": 0}
    if this.spans["test"]:
        test = evaluate(on_devices, "test")
    this.report.line(part_line("test", test) + f" - best epoch {row['epoch']}")

    path = this.workdir / "results.json"
    first = jax.process_index() == 0
    if only_evaluate and path.exists():
        results = read_sealed(path, RESULTS, ANEW)
    else:
        results = collect(this, final, progress, row, test)
        if first:
            write_atomically(path, json.dumps(sealed(results), indent=2) + "\n")
    drawn = only_evaluate and (this.workdir / "report.html").exists()
    return Scored(results, best, row["step"], first and not drawn)


def finish(this, progress, scored: Scored) -> dict:
    """Draws what a run leaves, and says where all of it lies."""
    if scored.draw:
        draw(this, scored.best, progress.history, scored.step)
    this.report.line(f"all of it lies in {this.workdir}")
    return scored.results


def draw(this, state, history: list[dict], step: int) -> None:
    """The learning curves, the pictures that cost little, and the report.

    The results are written before: where this fails, they are whole.
    state: the best one, on the host; one device of this process is enough for it.
    """
    # Imported here: matplotlib and Jinja2 take a second, and only the end of a run
    # draws.
    from cnn_jax.inspection import output
    from cnn_jax.inspection.draw import plots
    from cnn_jax.inspection.inspected_run import make_subject

    path = this.workdir / "learning_curves.png"
    with named(path):
        plots.learning_curves(history).figure.savefig(path, dpi=120)
    output.draw_at_end(make_subject(
        this.workdir, this.config, this.info, this.recipe.model, state, step, history,
        this.dataset, images=1), this.workdir, this.report)


def task_metrics(task: Task, best: dict, test: dict) -> dict[str, float | None]:
    """Lists the metrics of a task on the validation and the test part."""
    found = {}
    for name in task.monitors:
        found |= {f"validation_{name}": best.get(f"val_{name}"),
                  f"test_{name}": test.get(name)}
    return found


def collect(this, final, progress, best: dict, test: dict) -> dict:
    """The figures of results.json."""
    images = this.steps_per_epoch * this.config.batch_size * len(progress.history)
    return {
        "network": this.config.model.name,
        "dataset": this.config.data.name,
        "seed": this.config.seed,
        "params": this.table.params,
        "epochs": len(progress.history),
        "best_epoch": best["epoch"],
        "validation_accuracy": best.get("val_accuracy"),
        "test_accuracy": test["accuracy"],
        "test_loss": test["loss"],
        "test_examples": test["examples"],
        **task_metrics(this.recipe.task, best, test),
        **({"seeds_at_once": this.seeds} if this.seeds > 1 else {}),
        "train_seconds": round(progress.train_seconds, 3),
        "compile_seconds": round(progress.compile_seconds, 3),
        "images_per_second": round(images / progress.train_seconds, 1),
        **peak_memory_mb(this.placement.devices),
        "params_sha256": sha256(final),
        "versions": versions(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in this.placement.devices],
        "machine": machine(),
        "convolutions": {algorithm: len(layers) for algorithm, layers
                         in this.table.by_form().items()},
        "commit": commit(),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
    }
