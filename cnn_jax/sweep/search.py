"""Searches for values with optuna: TPE chooses, a median pruner stops bad trials."""

import dataclasses
import hashlib
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from cnn_jax.errors import InputError
from cnn_jax.installation import install_command
from cnn_jax.sweep.trials import (Sweep, Trial, Values, ended, line_of, run_trial,
                                  split_field, split_values)
from cnn_jax.workdir.progress import Row, improvement

JOURNAL = "journal.log"


class Range(NamedTuple):
    """The numbers from which optuna chooses the value of a field."""

    low: float
    high: float
    log: bool
    whole: bool

    def text(self, value: float) -> str:
        """Writes a value with at most four digits, inside the range."""
        if self.whole:
            return str(int(value))
        return repr(min(max(float(f"{value:.4g}"), self.low), self.high))


Space = dict[str, Range | list[str]]  # field -> range, or the values to choose from


def parse_space(flags: Iterable[str]) -> Space:
    """Parses FIELD=LOW:HIGH, FIELD=log:LOW:HIGH and FIELD=A,B,..."""
    return {field: parse_range(field, text) or split_values(text)
            for field, text in map(split_field, flags)}


def parse_range(field: str, text: str) -> Range | None:
    """Parses LOW:HIGH or log:LOW:HIGH; returns None for A,B,..."""
    match = re.fullmatch(r"(log:)?([^:,()]+):([^:,()]+)", text)
    if match is None:
        return None
    log, bounds = bool(match[1]), match.groups()[1:]
    try:
        low, high = map(float, bounds)
        if not low < high or (log and low <= 0):
            raise ValueError
    except ValueError as error:
        raise InputError(f"--search {field}={text}: must be LOW:HIGH with LOW < HIGH, "
                         "log:LOW:HIGH with LOW > 0, or A,B,...") from error
    whole = all(re.fullmatch(r"-?\d+", bound) for bound in bounds)
    return Range(low, high, log, whole)


def examples(space: Space) -> list[Values]:
    """Makes values that together contain the ends of all ranges, and all names."""
    texts = {field: values if isinstance(values, list) else
             [values.text(values.low), values.text(values.high)]
             for field, values in space.items()}
    count = max(map(len, texts.values()), default=0)
    return [{field: values[i % len(values)] for field, values in texts.items()}
            for i in range(count)]


def choose(trial: Any, field: str, values: Range | list[str]) -> str:
    """Lets optuna choose a value, as text."""
    if isinstance(values, list):
        return trial.suggest_categorical(field, values)
    low, high, log, whole = values
    return values.text(trial.suggest_int(field, int(low), int(high), log=log) if whole
                       else trial.suggest_float(field, low, high, log=log))


def study_name(sweep: Sweep, space: Space) -> str:
    """Names the study, so that other flags in the same folder start another one."""
    flags = repr((sweep.config, sweep.fixed, sweep.monitor, sorted(space.items())))
    return hashlib.sha256(flags.encode()).hexdigest()[:10]


def run_search(sweep: Sweep, space: Space, count: int) -> list[Trial]:
    """Runs trials until `count` trials have ended, with those in the folder's journal.

    Raises InputError if optuna is not installed.
    """
    try:
        import optuna
        from optuna.storages import JournalStorage
        from optuna.storages.journal import JournalFileBackend
    except ImportError as error:
        raise InputError(f"--search needs optuna: {install_command('sweep')}; --grid "
                         "does not") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(sweep.folder / JOURNAL))),
        study_name=study_name(sweep, space), load_if_exists=True, direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4))
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    trials: dict[int, Trial] = {}
    state = optuna.trial.TrialState

    def objective(trial: Any) -> float:
        values = {field: choose(trial, field, text) for field, text in space.items()}
        trial.set_user_attr("values", values)
        reported: list[Row] = []
        result = run_trial(sweep, values,
                           lambda rows: should_prune(trial, rows, reported))
        trials[trial.number] = result
        print(f"{trial.number + 1}: {line_of(sweep, result)}", flush=True)
        if result.pruned:
            raise optuna.TrialPruned
        if result.best is None:
            raise RuntimeError(result.problem or "no epoch has ended")
        return improvement(result.best, sweep.monitor)

    def should_prune(trial: Any, rows: list[Row], reported: list[Row]) -> bool:
        new = rows[len(reported):]
        for row in new:
            trial.report(improvement(row, sweep.monitor), int(row["epoch"]))
        reported += new
        return bool(new) and trial.should_prune()

    interrupted = study.get_trials(states=[state.RUNNING])
    for trial in interrupted:  # resume them in their workdirs
        study.enqueue_trial(trial.params)
        study.tell(trial.number, state=state.FAIL)
    before = study.get_trials(states=[state.COMPLETE, state.PRUNED])
    study.optimize(objective, max(0, count - len(before)), n_jobs=sweep.jobs,
                   catch=(RuntimeError,))
    earlier = [dataclasses.replace(ended(sweep, trial.user_attrs["values"]),
                                   pruned=trial.state == state.PRUNED)
               for trial in before]
    return [*earlier, *(trials[number] for number in sorted(trials))]
