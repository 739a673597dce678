"""Searches for values with optuna: TPE chooses, a median pruner stops bad trials."""

import dataclasses
import re
from typing import Any

from cnn_jax.errors import InputError
from cnn_jax.installation import install_command
from cnn_jax.sweep.trials import (Sweep, Trial, ended, line_of, run_trial,
                                  split_field, split_values)
from cnn_jax.workdir.progress import Row, improvement

JOURNAL, STUDY = "journal.log", "sweep"


def choose(trial: Any, field: str, text: str) -> str:
    """Lets optuna choose a value from LOW:HIGH, log:LOW:HIGH or A,B,..., as text."""
    match = re.fullmatch(r"(log:)?([^:,()]+):([^:,()]+)", text)
    if match is None:
        return trial.suggest_categorical(field, split_values(text))
    log, bounds = bool(match[1]), match.groups()[1:]
    try:
        low, high = map(float, bounds)
        if not low < high or (log and low <= 0):
            raise ValueError
    except ValueError as error:
        raise InputError(f"--search {field}={text}: must be LOW:HIGH with LOW < HIGH, "
                         "log:LOW:HIGH with LOW > 0, or A,B,...") from error
    if all(re.fullmatch(r"-?\d+", bound) for bound in bounds):
        return str(trial.suggest_int(field, int(low), int(high), log=log))
    return repr(trial.suggest_float(field, low, high, log=log))


def run_search(sweep: Sweep, space: list[str], count: int) -> list[Trial]:
    """Runs trials until `count` trials have ended, with those of the folder's journal.

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
    fields = dict(map(split_field, space))
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(sweep.folder / JOURNAL))),
        study_name=STUDY, load_if_exists=True, direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4))
    study.sampler = optuna.samplers.TPESampler(seed=len(study.trials))
    trials: dict[int, Trial] = {}
    state = optuna.trial.TrialState

    def objective(trial: Any) -> float:
        values = {field: choose(trial, field, text) for field, text in fields.items()}
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
