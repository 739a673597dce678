"""The end of a run: the best checkpoint on the test part, results.json, the curves."""

import hashlib
import importlib.metadata
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax import __version__
from cnn_jax.errors import RunError
from cnn_jax.json_files import sealed
from cnn_jax.training.metrics import (improvement, named, part_line,
                                      write_atomically)
from cnn_jax.training.stored import leaves
from cnn_jax.training.workdir import ANEW, read_sealed

# What every version has written into results.json, and the pages use; see `collect`
# and json_files.fits.
RESULTS = {"seed": int, "params": int, "best_epoch": int,
           **dict.fromkeys(("test_accuracy", "test_loss", "validation_accuracy",
                            "test_mean_iou", "validation_mean_iou"), float | None),
           "test_examples": int, "train_seconds": float, "images_per_second": float,
           "versions": {str: str}, "devices": [str], str: object}
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run computes."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "cnn_jax": __version__} | found


def describe_devices(devices) -> str:
    """The line that says where a run happens and with what."""
    kinds = {d.device_kind for d in devices}
    packages = versions()
    words = ", ".join(f"{name} {packages[name]}" for name in ("python", "jax", "flax"))
    return (f"devices: {len(devices)} x {devices[0].platform} ({', '.join(kinds)}), "
            f"{jax.process_count()} process(es) - {words}")


def sha256(state: Any) -> str:
    """Over the bytes of all leaves in the order of their paths."""
    digest = hashlib.sha256()
    for path, leaf in sorted(leaves(state).items()):
        digest.update(path.encode())
        digest.update(np.ascontiguousarray(leaf))
    return digest.hexdigest()


def peak_memory_mb(devices) -> dict[str, float]:
    """Of this process; and the largest of its devices', where the backend counts it."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    counted = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in devices
               if d.process_index == jax.process_index()]
    memory = {"peak_memory_mb": round(host, 1)}
    if any(counted):
        memory["device_peak_memory_mb"] = round(max(counted) / 1e6, 1)
    return memory


def core_count() -> int:
    """How many cores this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count())


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    cores = core_count()
    names = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", names.read_text(), re.MULTILINE
                      ) if names.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{cores} core{'s' * (cores > 1)} of {name}"


def commit() -> str | None:
    """The git commit of the sources, where they are a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    found = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"],
                           capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def best_row(history: list[dict], monitor: str) -> dict:
    """The epoch with the best monitored value; of equal ones the first."""
    return max(history, key=lambda row: (improvement(row, monitor), -row["epoch"]))


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
    from cnn_jax.inspection import output, plots
    from cnn_jax.inspection.subject import make_subject

    path = this.workdir / "learning_curves.png"
    with named(path):
        plots.learning_curves(history).figure.savefig(path, dpi=120)
    output.draw_at_end(make_subject(
        this.workdir, this.config, this.info, this.recipe.model, state, step, history,
        this.dataset, images=1), this.workdir, this.report)


def mean_ious(best: dict, test: dict) -> dict:
    """Of validation and test, where each pixel has a label."""
    found = {"validation_mean_iou": best.get("val_mean_iou"),
             "test_mean_iou": test.get("mean_iou")}
    return found if any(value is not None for value in found.values()) else {}


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
        **mean_ious(best, test),
        **({"seeds_at_once": this.seeds} if this.seeds > 1 else {}),
        "train_seconds": round(progress.train_seconds, 3),
        "compile_seconds": round(progress.compile_seconds, 3),
        "images_per_second": round(images / progress.train_seconds, 1),
        **peak_memory_mb(this.placement.devices),
        "params_sha256": sha256(final),
        "versions": versions(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in this.placement.devices],
        "machine": machine(),
        "convolutions": this.table.convolutions(),
        "commit": commit(),
        "command": shlex.join([Path(sys.executable).name, *sys.argv]),
    }
