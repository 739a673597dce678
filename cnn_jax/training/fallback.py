"""Going on from an older checkpoint where the newest is damaged (checkpoint.fallback).

Off unless asked for: damage means a failing disk or a strange hand, which a person
should hear of before anything is moved. The steps after the older checkpoint are
trained again, bit for bit as before, so only time is lost.
"""

import contextlib
from pathlib import Path

from cnn_jax.errors import RunError
from cnn_jax.training.checkpoint import Checkpoints, step_folders, verify_score
from cnn_jax.training.progress import progress_of
from cnn_jax.training.results import best_row
from cnn_jax.training.steps import TrainState


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
    checkpoint up to there, which its end needs, is not a damaged one. Damaged and
    newer ones go to `workdir/damaged`; nothing is deleted.
    like: a state of the expected structure, shapes and dtypes.
    Returns a line for each that was moved, and one for what is used; [] for no damage.
    Raises RunError, and moves nothing more, where no checkpoint is left to go on from.
    """
    folder, moved, problems = workdir / "checkpoints", [], {}
    for path in step_folders(folder):
        try:
            verify_score(path)
        except RunError as error:
            problems[int(path.name)] = str(error)
            moved.append(set_aside(path, workdir, str(error)))
    with Checkpoints(folder, writing=False) as checkpoints:
        found = newest_whole(checkpoints, like, monitor, problems)
        steps = checkpoints.steps
    if found is None and (steps or moved):
        raise RunError(f"none of the checkpoints in {folder} can be gone on from: "
                       f"{'; '.join(problems.values())}: to start anew, use another "
                       "--workdir")
    for step in steps:
        if step > found:
            moved.append(set_aside(
                folder / str(step), workdir, problems.get(step) or
                f"checkpoint {folder / str(step)} is newer than the one that is used"))
    return moved and [*moved, f"going on from the checkpoint of step {found}, which "
                      "was verified"]


def newest_whole(checkpoints: Checkpoints, like: TrainState, monitor: str,
                 problems: dict[int, str]) -> int | None:
    """The newest step that a run can go on from; adds to `problems` why others not."""
    for step in reversed(checkpoints.steps):
        try:
            _, meta = checkpoints.restore(step, like)
            history = progress_of(meta, checkpoints.folder(step), monitor).history
        except RunError as error:
            problems[step] = str(error)
            continue
        best = best_row(history, monitor)["step"] if history else step
        if best != step and best in checkpoints.steps:
            try:
                checkpoints.restore(best, like)
            except RunError as error:
                problems[best] = str(error)
        # One that is not there was surpassed by an epoch that will be trained again.
        if best not in problems:
            return step
    return None


def set_aside(path: Path, workdir: Path, why: str) -> str:
    """Moves one checkpoint out of the run's way, and says so."""
    folder, number = workdir / "damaged", 1
    folder.mkdir(exist_ok=True)
    while (target := folder / f"{path.name}-{number}").exists():
        number += 1
    path.rename(target)
    return f"{why}; moved to {target}"
