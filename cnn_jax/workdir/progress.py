"""How far a run has come, beside its state; saved as JSON with each checkpoint."""

import dataclasses
import math
from pathlib import Path

from cnn_jax.errors import RunError
from cnn_jax.json_files import fits

SUMS = ("loss", "correct", "count")


@dataclasses.dataclass
class Progress:
    """The counters of a run and what it has measured."""

    step: int = 0
    history: list[dict] = dataclasses.field(default_factory=list)  # a row an epoch
    sums: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(SUMS, 0.0))
    epoch_seconds: float = 0.0    # of training in the epoch under way
    train_seconds: float = 0.0    # of training in all, without compiling and evaluating
    compile_seconds: float = 0.0  # of the training step, over all starts of the run


def progress_of(meta: dict, folder: Path, monitor: str) -> Progress:
    """What was saved in a checkpoint's folder, which is named by the step.

    Raises RunError where it is no progress of a run that monitors `monitor`, or is that
    of another step.
    """
    row = {"epoch": int, "step": int, monitor: float, str: float}
    form = {"step": int, "history": [row], "sums": dict.fromkeys(SUMS, float)}
    form |= dict.fromkeys(("epoch_seconds", "train_seconds", "compile_seconds"), float)
    if not fits(meta, form) or len(set(map(frozenset, meta["history"]))) > 1:
        raise RunError(f"checkpoint {folder} is damaged or of another version: "
                       "meta/data.json does not hold the progress of a run")
    check_step("meta/data.json", meta["step"], folder)
    return Progress(**meta)


def check_step(part: str, step: int, folder: Path) -> None:
    """Raises RunError where a part of a checkpoint is of another step."""
    if str(step) != folder.name:
        raise RunError(f"checkpoint {folder} is damaged: {part} is of step {step}: the "
                       "folder was copied or renamed")


def improvement(row: dict, monitor: str) -> float:
    """The monitored value with the sign that makes higher better; NaN is the worst."""
    value = -row[monitor] if monitor.endswith("loss") else row[monitor]
    return -math.inf if math.isnan(value) else value


def should_stop(history: list[dict], monitor: str, patience: int | None,
                min_delta: float) -> bool:
    """Whether the last `patience` epochs brought no improvement by min_delta (Keras'
    EarlyStopping). A pure function of the history, so a resumed run decides alike."""
    if patience is None:
        return False
    best, waited = -math.inf, 0
    for row in history:
        value = improvement(row, monitor)
        if value > best + min_delta:
            best, waited = value, 0
        else:
            waited += 1
    return waited >= patience


def best_row(history: list[dict], monitor: str) -> dict:
    """The epoch with the best monitored value; of equal ones the first."""
    return max(history, key=lambda row: (improvement(row, monitor), -row["epoch"]))
