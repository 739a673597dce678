"""Runs trials: one config with some values, each in a process and a workdir."""

import dataclasses
import hashlib
import itertools
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from cnn_jax.cli.config_file import config_of
from cnn_jax.config import check
from cnn_jax.errors import InputError
from cnn_jax.inspection.pages.record import read_history
from cnn_jax.workdir.progress import Row, best_row, improvement

Values = dict[str, str]  # field -> its value as text
SECONDS = 0.5            # between two checks of a running trial


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Holds what all trials share."""

    config: str
    fixed: tuple[str, ...]  # 'epochs=5'
    folder: Path
    monitor: str
    jobs: int = 1


@dataclasses.dataclass(frozen=True)
class Trial:
    """Holds a trial that has ended."""

    values: Values
    workdir: Path
    best: Row | None          # the row of the best epoch; None if none has ended
    problem: str = ""         # why it failed
    pruned: bool = False

    def rank(self, monitor: str) -> float:
        """Returns a sort key: that of the best trial is the smallest."""
        return -improvement(self.best, monitor) if self.best else float("inf")


def split_field(text: str) -> tuple[str, str]:
    """Splits FIELD=VALUE. Raises InputError for anything else."""
    field, equals, value = text.removeprefix("--config.").partition("=")
    if not (field and equals and value):
        raise InputError(f"{text!r} must be FIELD=VALUE, such as batch_size=16,32")
    return field, value


def split_values(text: str) -> list[str]:
    """Splits '16,32' and '(28,28),(32,32)' at the commas outside parentheses."""
    return [value.strip() for value in re.split(r",(?![^(]*\))", text) if value.strip()]


def all_combinations(grid: Iterable[str]) -> list[Values]:
    """Makes the values of every trial of a grid."""
    fields = {field: split_values(text) for field, text in map(split_field, grid)}
    return [dict(zip(fields, values)) for values in itertools.product(*fields.values())]


def check_trials(sweep: Sweep, trials: Iterable[Values]) -> None:
    """Raises InputError for a trial that could not start, and for a wrong metric."""
    for values in trials:
        texts = [*map(split_field, sweep.fixed), *values.items()]
        config = config_of(sweep.config, [f"{field}={text}" for field, text in texts])
        config.checkpoint.monitor = sweep.monitor
        try:
            check(config)
        except InputError as error:
            raise InputError(f"--monitor={sweep.monitor}: {error}") from error


def workdir_of(sweep: Sweep, values: Values) -> Path:
    """Names the workdir of a trial, which is the same for the same flags."""
    flags = repr((sweep.config, sweep.fixed, sorted(values.items())))
    return sweep.folder / hashlib.sha256(flags.encode()).hexdigest()[:10]


def command_of(sweep: Sweep, values: Values) -> list[str]:
    """Makes the command that trains or resumes a trial."""
    fixed = [f"--config.{text}" for text in sweep.fixed]
    return [sys.executable, "-m", "cnn_jax", f"--config={sweep.config}", *fixed,
            *(f"--config.{field}={value}" for field, value in values.items()),
            f"--workdir={workdir_of(sweep, values)}"]


def run_trial(sweep: Sweep, values: Values,
              stop: Callable[[list[Row]], bool] = lambda rows: False) -> Trial:
    """Trains a trial in a process of its own, unless it is finished.

    stop: tells from the epochs that have ended whether to prune the trial.
    """
    workdir, pruned = workdir_of(sweep, values), False
    if (workdir / "results.json").exists():
        return ended(sweep, values)
    log = workdir.with_suffix(".log")
    with log.open("w") as file:
        process = subprocess.Popen(command_of(sweep, values), stdout=file,
                                   stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                time.sleep(SECONDS)
                if not pruned and stop(rows_of(sweep, workdir)):
                    pruned = True
                    process.send_signal(signal.SIGTERM)
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise
    if pruned:
        return dataclasses.replace(ended(sweep, values), pruned=True)
    if process.returncode:
        lines = log.read_text(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit code {process.returncode}"
        return dataclasses.replace(ended(sweep, values), problem=reason)
    return ended(sweep, values)


def rows_of(sweep: Sweep, workdir: Path) -> list[Row]:
    """Reads the rows of the epochs that have ended; they need the sweep's metric."""
    return read_history(workdir / "history.csv", sweep.monitor)


def ended(sweep: Sweep, values: Values) -> Trial:
    """Reads a trial from its workdir."""
    workdir = workdir_of(sweep, values)
    rows = rows_of(sweep, workdir)
    return Trial(values, workdir, best_row(rows, sweep.monitor) if rows else None)


def run_grid(sweep: Sweep, grid: Sequence[Values]) -> list[Trial]:
    """Runs all trials of a grid, `sweep.jobs` at a time."""
    with ThreadPoolExecutor(sweep.jobs) as pool:
        futures = [pool.submit(run_trial, sweep, values) for values in grid]
        try:
            trials = []
            for number, future in enumerate(futures, 1):
                trials.append(future.result())
                print(f"{number}/{len(grid)} {line_of(sweep, trials[-1])}", flush=True)
            return trials
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def line_of(sweep: Sweep, trial: Trial) -> str:
    """Writes the values and the result of a trial in one line."""
    values = " ".join(f"{field}={value}" for field, value in trial.values.items())
    if trial.problem:
        return f"{values}: {trial.problem}"
    if trial.best is None:
        return f"{values}: no epoch has ended"
    return (f"{values}: {sweep.monitor} {trial.best[sweep.monitor]:.4f} in epoch "
            f"{trial.best['epoch']:.0f}" + ", pruned" * trial.pruned)


def shell(command: Sequence[str]) -> str:
    """Formats a command to be typed in a shell."""
    return shlex.join(["python", *command[1:]])
