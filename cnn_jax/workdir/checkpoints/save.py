"""Saves the checkpoints of a run: orbax keeps the latest ones and the best one.

Saves are synchronous: one that fails raises at once. States come and go as NumPy
arrays, so a checkpoint does not depend on the devices that wrote it. Each one stores
state, meta (the progress of the run) and integrity (see integrity.py). Which one is the
best follows from the history in the newest meta, so that a kill at any moment, also
while orbax deletes an old one, leaves nothing that contradicts itself.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from cnn_jax.errors import RunError
from cnn_jax.workdir.checkpoints.integrity import leaves, measure
from cnn_jax.workdir.checkpoints.orbax_errors import (first_line, ignore_late_answers,
                                                      without_log)
from cnn_jax.workdir.checkpoints.restore import restore, step_folders
from cnn_jax.workdir.progress import Progress, best_step

policies = ocp.training.preservation_policies  # LatestN and others


class KeepBest:
    """A preservation policy of orbax that keeps the checkpoint of one step."""

    def __init__(self) -> None:
        self.step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *,
                        context: Any = None) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpoints:
    """The checkpoints of a run that is being trained.

    directory: made absolute, and created if it is not there.
    monitor: the metric that decides which epoch is the best.
    keep: how many of the latest to keep.
    """

    def __init__(self, directory: Path, monitor: str, keep: int = 2) -> None:
        registry = ocp.handlers.local_registry()
        ignore_late_answers()
        for name in ("integrity", "meta"):
            registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
        context = ocp.Context()
        context.checkpointables.registry = registry
        # Else its threads wait 20 minutes for a folder that could not be made.
        context.async_options.create_directories_asynchronously = False
        self.directory = Path(directory).absolute()
        self.monitor = monitor
        self._best = KeepBest()
        with without_log():
            self._orbax = ocp.training.Checkpointer(
                self.directory, context=context, cleanup_tmp_directories=True,
                preservation_policy=policies.AnyPreservationPolicy(
                    [policies.LatestN(keep), self._best]))

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            with without_log():
                self._orbax.close()
        except Exception as failure:
            if kind is None:  # else close only repeats why a save failed
                raise RunError(f"checkpoints {self.directory} could not be closed: "
                               f"{first_line(failure)}") from failure

    @property
    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        return [int(folder.name) for folder in step_folders(self.directory)]

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return max(self.steps, default=None)

    def save(self, state: Any, progress: Progress) -> None:
        """Writes `state` (NumPy leaves) and `progress` as one checkpoint."""
        self._best.step = best_step(progress.history, self.monitor)
        folder = self.folder(progress.step)
        items = {"state": traverse_util.unflatten_dict(leaves(state), sep="/"),
                 "meta": msgspec.to_builtins(progress),
                 "integrity": msgspec.to_builtins(measure(state))}
        try:
            with without_log():
                saved = self._orbax.save_checkpointables(progress.step, items,
                                                         force=True)
        except Exception as error:
            raise RunError(f"checkpoint {folder} could not be written: "
                           f"{first_line(error)}") from error
        if not saved:
            raise RunError(f"checkpoint {folder} was not written")

    def folder(self, step: int) -> Path:
        """Returns where the checkpoint of a step lies."""
        return self.directory / str(step)

    def restore(self, step: int, like: Any = None) -> tuple[Any, Progress]:
        """Restores (state, progress) of a step, verified: see `restore.restore`."""
        return restore(self.folder(step), like)
