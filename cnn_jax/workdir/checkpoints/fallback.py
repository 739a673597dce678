"""Going on from an older checkpoint where the newest is damaged (checkpoint.fallback).

Off unless asked for: damage means a failing disk or a strange hand, which a person
should hear of before anything is moved. The steps after the older checkpoint are
trained again, bit for bit as before, so only time is lost.
"""

import contextlib
from pathlib import Path

from cnn_jax.errors import RunError
from cnn_jax.workdir.progress import improvement
from cnn_jax.workdir.progress import progress_of
from cnn_jax.workdir.progress import best_row
from cnn_jax.training.steps import TrainState
from cnn_jax.workdir.checkpoints.read import (SCORE, damaged_scores, read_checks,
                                              read_part, restore, step_folders)


@contextlib.contextmanager
def hinted():
    """Adds to an error about a damaged checkpoint what can be done."""
    try:
        yield
    except RunError as error:
        raise RunError(f"{error}; --config.checkpoint.fallback=true goes on from the "
                       "newest older checkpoint that is whole") from error


def fall_back(workdir: Path, like: TrainState, monitor: str) -> list[str]:
    """Moves checkpoints out of the way until the newest is one that verifies.

    A run can go on from a step if every leaf has its checksum and if the best
    checkpoint up to there, which its end needs, does too. Newer ones, and those whose
    score is damaged, go to `workdir/damaged`; nothing is deleted.
    like: a state of the expected structure, shapes and dtypes.
    Returns a line for each that was moved, and one for what is used; [] for no damage.
    Raises RunError, and moves nothing, where there is none to go on from.
    """
    folders = step_folders(workdir / "checkpoints")
    unscored = damaged_scores(folders)  # orbax reads all scores, and would refuse all
    problems = {folder: str(error) for folder, error in unscored.items()}
    found = newest_whole(folders, like, monitor, problems)
    if found is None and folders:
        raise RunError(f"none of the checkpoints in {workdir / 'checkpoints'} can be "
                       f"gone on from: {'; '.join(problems.values())}: to start anew, "
                       "use another --workdir")
    moved = [set_aside(folder, workdir, problems.get(folder) or
                       f"checkpoint {folder} is newer than the one that is used")
             for folder in folders
             if folder in unscored or int(folder.name) > int(found.name)]
    return moved and [*moved, f"going on from the checkpoint of step {found.name}, "
                      "which was verified"]


def newest_whole(folders: list[Path], like: TrainState, monitor: str,
                 problems: dict[Path, str]) -> Path | None:
    """The newest of the checkpoints, which come by step, that a run can go on from.

    problems: what is known to be damaged; why others cannot be used is added.
    """
    for folder in reversed(folders):
        needed = folder  # what the problem is of, if there is one
        try:
            if folder in problems:
                continue
            _, meta = restore(folder, like)
            needed = best_checkpoint(
                folder, progress_of(meta, folder, monitor).history, monitor)
            if needed != folder and needed not in problems:
                restore(needed, like)
        except RunError as error:
            problems[needed] = str(error)
        if needed not in problems:
            return folder
    return None


def best_checkpoint(folder: Path, history: list[dict], monitor: str) -> Path:
    """The best checkpoint up to the one in `folder`, which the end of the run needs;
    the latter itself where a better one was lost that will be made again.

    history: of `folder`. Raises RunError where the best checkpoint is missing.
    """
    if not history:
        return folder
    row = best_row(history, monitor)
    best = folder.with_name(str(row["step"]))
    if best.is_dir():
        return best
    if not surpassed(row, folder, monitor):
        raise RunError(f"checkpoint {best} is missing, the best one up to {folder}, "
                       "which the end of the run needs: it was deleted or damaged; to "
                       "start anew, use another --workdir")
    return folder


def surpassed(row: dict, folder: Path, monitor: str) -> bool:
    """Whether checkpoints after the one in `folder`, though damaged, tell of an epoch
    better than this one: then its checkpoint was deleted, as it should be."""
    for path in [*step_folders(folder.parent), *folder.parents[1].glob("damaged/*-*")]:
        step = path.name.partition("-")[0]
        if not step.isdecimal() or int(step) <= int(folder.name):
            continue
        with contextlib.suppress(RunError):  # a damaged part tells nothing
            if read_part(path, "metrics/metrics", SCORE)["score"] > improvement(
                    row, monitor):
                return True
        with contextlib.suppress(RunError):
            meta = read_part(path, "meta/data.json", {str: object},
                             read_checks(path)["meta"])
            history = progress_of(meta, path.with_name(step), monitor).history
            if history and best_row(history, monitor)["step"] != row["step"]:
                return True
    return False


def set_aside(path: Path, workdir: Path, why: str) -> str:
    """Moves one checkpoint out of the run's way, and says so."""
    folder, number = workdir / "damaged", 1
    folder.mkdir(exist_ok=True)
    while (target := folder / f"{path.name}-{number}").exists():
        number += 1
    path.rename(target)
    return f"{why}; moved to {target}"
