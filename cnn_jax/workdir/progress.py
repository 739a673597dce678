"""Counts how far a run has come, and decides which epoch is best and when to stop."""

import math

import msgspec

Row = dict[str, int | float]  # one epoch: 'epoch' (from 1), 'step', metrics, times


class Progress(msgspec.Struct, forbid_unknown_fields=True):
    """Holds the counters and the history of a run, saved with each checkpoint."""

    step: int = 0
    history: list[Row] = []       # one row for each epoch that has ended
    sums: dict[str, float] = {}   # over the examples of the current epoch
    epoch_seconds: float = 0.0    # of training in the current epoch
    input_seconds: float = 0.0    # of these, the time that calls waited for their input
    train_seconds: float = 0.0    # of all training, without compilation and evaluation
    compile_seconds: float = 0.0  # of the training step, over all starts of the run
    skipped: list[str] = []       # names of images that could not be decoded

    def __post_init__(self) -> None:
        """Raises ValueError for rows that the history of a run cannot have."""
        names = {frozenset(row) for row in self.history}
        if len(names) > 1 or not all({"epoch", "step"} <= row for row in names):
            raise ValueError("its history needs 'epoch', 'step' and the same metrics "
                             "in each row")


def improvement(row: Row, monitor: str) -> float:
    """Returns the monitored value, negated if it is a loss or error; NaN is the worst.
    """
    lower = monitor.endswith(("loss", "error"))
    value = -row[monitor] if lower else row[monitor]
    return -math.inf if math.isnan(value) else value


def should_stop(history: list[Row], monitor: str, patience: int | None,
                min_delta: float) -> bool:
    """Tells whether the last `patience` epochs brought no improvement by min_delta.

    This is Keras' EarlyStopping as a pure function of the history, so that a resumed
    run decides as an uninterrupted one does. With patience None, it returns False.
    """
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


def best_row(history: list[Row], monitor: str) -> Row:
    """Returns the first epoch with the best monitored value."""
    return max(history, key=lambda row: (improvement(row, monitor), -row["epoch"]))


def best_step(history: list[Row], monitor: str) -> int | None:
    """Returns the step at which the best epoch ended, or None before the first."""
    return int(best_row(history, monitor)["step"]) if history else None
