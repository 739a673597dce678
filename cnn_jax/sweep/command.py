r"""Trains a config with many values of some fields, and compares them.

    python -m cnn_jax.sweep configs/lenet.py --grid optimizer.learning_rate=1e-3,3e-3 \
        --grid seed=0,1,2 --set epochs=5 --jobs 2
    python -m cnn_jax.sweep configs/lenet.py --trials 20 \
        --search optimizer.learning_rate=log:1e-4:1e-1 --search batch_size=16:128

A grid has all combinations. A search needs the extra `sweep` (optuna): TPE chooses the
values, and a median pruner stops trials that are worse than most at the same epoch.
Every trial is a run with a workdir in --folder. The same command resumes a sweep that
was stopped.
"""

import argparse
import sys
from pathlib import Path
from typing import NoReturn

from cnn_jax.errors import InputError, one_line_errors
from cnn_jax.sweep.compare import report
from cnn_jax.sweep.search import examples, parse_space, run_search
from cnn_jax.sweep.trials import Sweep, all_combinations, check_trials, run_grid


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Parses the command line. Raises InputError if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.sweep", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a config file, such as configs/lenet.py:mnist")
    parser.add_argument("--grid", action="append", default=[], metavar="FIELD=A,B,...",
                        help="values of a field; all combinations are trained")
    parser.add_argument("--search", action="append", default=[],
                        metavar="FIELD=LOW:HIGH", help="LOW:HIGH, log:LOW:HIGH or "
                        "A,B,... for optuna to choose from")
    parser.add_argument("--trials", type=int, default=20, help="trials of a search")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                        dest="fixed", help="a field that is the same in all trials")
    parser.add_argument("--folder", type=Path, default=Path("sweeps/latest"),
                        help="holds the workdirs; default sweeps/latest")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--monitor", default="val_loss",
                        help="metric of history.csv that ranks the trials: higher is "
                        "better, except for a loss or error; default val_loss")

    def refuse(message: str) -> NoReturn:
        raise InputError(f"{message}; --help explains the flags")

    parser.error = refuse  # type: ignore[method-assign]
    args = parser.parse_args(argv)
    for name in ("trials", "jobs"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}={getattr(args, name)} must be at least 1")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs a sweep; returns 1 if a trial failed."""
    args = arguments(argv)
    sweep = Sweep(args.config, tuple(args.fixed), args.folder.absolute(),
                  args.monitor, args.jobs)
    if bool(args.grid) == bool(args.search):
        raise InputError("give either --grid FIELD=A,B or --search FIELD=LOW:HIGH")
    space = parse_space(args.search)
    grid = all_combinations(args.grid) if args.grid else examples(space)
    check_trials(sweep, grid)
    sweep.folder.mkdir(parents=True, exist_ok=True)
    trials = (run_grid(sweep, grid) if args.grid else
              run_search(sweep, space, args.trials))
    report(sweep, trials)
    return int(any(trial.problem for trial in trials))


def run() -> None:
    """Runs the command line of this process; an error ends it with one line."""
    with one_line_errors("interrupted; the same command resumes the sweep"):
        sys.exit(main())
