"""Trains from a config, then draws what was trained."""

import signal
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cnn_jax.config import check
from cnn_jax.console import Reporter
from cnn_jax.data import Arrays, accept
from cnn_jax.data.lazy import leave_out
from cnn_jax.errors import RunError, first_line, one_line
from cnn_jax.files import file_errors
from cnn_jax.training import parallel
from cnn_jax.training.evaluate import make_evaluation
from cnn_jax.training.features import train_on_features
from cnn_jax.training.finish import Finished, evaluate_and_save
from cnn_jax.training.loop import fit
from cnn_jax.training.peers import watch
from cnn_jax.training.setup import Run, open_run, restore_or_init
from cnn_jax.training.signals import Stopped, stop_signals
from cnn_jax.workdir.folder import default_path, without_stop
from cnn_jax.workdir.progress import Progress
from cnn_jax.workdir.results import Results


# Errors of drawing that do not fail the run, since results do not depend on pictures: a
# missing package, a full disk, too little memory, a wrong setting of matplotlib.
DRAWING_ERRORS = (ImportError, OSError, RunError, ValueError, MemoryError,
                  jax.errors.JaxRuntimeError)


def run(config: ConfigDict, workdir: str | Path | None = None, quiet: bool = False,
        data: Arrays | None = None,
        profile_steps: tuple[int, int] | None = None) -> Results:
    """Trains, evaluates and writes everything; returns what results.json holds.

    workdir: by default `runs/NETWORK-DATASET-HASH`. A run that was stopped there is
        resumed bit for bit; a finished one is only evaluated.
    data: arrays instead of the set that the config names: (images, labels), or a dict
        of such pairs for train and, optionally, validation and test, and class_names.
        Images are uint8 [N, H, W, C]; data/arrays.py says which labels each task takes.
    profile_steps: (first, stop) of the steps to profile, counted from 0.
    Raises InputError for input that cannot be used, RunError if the run fails.
    """
    config, stored = (config, None) if data is None else accept(data, config)
    check(config)
    parallel.start_processes(config)
    report = Reporter(quiet or jax.process_index() != 0)
    path = Path(workdir or default_path(config)).absolute()
    with (parallel.peer_errors(), watch(path, config),
          open_run(config, path, report, stored, profile_steps) as opened):
        state, progress = restore_or_init(opened)
        if config.model.train == "head":
            opened = train_on_features(opened, state)
        state = opened.placement.replicate(state)
        trained_before = opened.is_finished(progress)
        evaluate = make_evaluation(opened.recipe, opened.placement, opened.feed, report)
        if trained_before:
            report.line(f"already finished after epoch {len(progress.history)}: "
                        "evaluating only")
            if progress.step < config.epochs * opened.steps_per_epoch:
                report.line("early stopping has ended this run, so it cannot be "
                            "continued. This command starts a new run from its "
                            f"weights: {without_stop(path)}")
        else:
            state = fit(opened, state, progress, evaluate)
        with stop_signals() as received:  # a signal waits until the files are written
            finished = evaluate_and_save(opened, state, progress, evaluate,
                                         keep_results=trained_before)
            drawn = (jax.process_index() != 0
                     or trained_before and (opened.workdir / "report.html").exists()
                     or try_to_draw(opened, finished, progress))
            report.line(f"everything {'' if drawn else 'but the pictures '}is in "
                        f"{opened.workdir}")
        if received:
            raise Stopped(received[0], f"{signal.Signals(received[0]).name} came after "
                          f"the end of training: everything is in {opened.workdir}")
        return finished.results


def try_to_draw(run: Run, finished: Finished, progress: Progress) -> bool:
    """Draws; prints a line and returns False for an error that does not fail the run.
    """
    try:
        draw(run, finished, progress)
    except DRAWING_ERRORS as error:
        if not (run.workdir / "config.json").exists():
            raise  # the workdir was deleted: the results are in a new one
        Reporter(stderr=True).line(
            "cnn_jax: the pictures and the report could not be made: "
            f"{one_line(first_line(error))}; the run is complete, and the same command "
            "makes them")
        return False
    return True


def draw(run: Run, finished: Finished, progress: Progress) -> None:
    """Draws the learning curves, the pictures that cost little, and the report.

    The results were written before, so they are complete even if drawing fails.
    """
    # Imported here: matplotlib and Jinja2 take a second to import.
    from cnn_jax.inspection import output
    from cnn_jax.inspection.draw.learning_curves import learning_curves
    from cnn_jax.inspection.inspected_run import make_inspected_run

    path = run.workdir / "learning_curves.png"
    with file_errors(path):
        learning_curves(progress.history).figure.savefig(path, dpi=120)
    output.draw_at_end(make_inspected_run(
        run.workdir.name, run.config, run.info, run.recipe.model,
        finished.best.variables, finished.step, progress.history,
        leave_out(run.dataset, progress.skipped), images=1), run.workdir, run.report)
