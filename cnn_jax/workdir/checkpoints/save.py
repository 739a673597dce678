"""Saves the checkpoints of a run; orbax keeps the latest ones and the best one.

Saves are synchronous: one that fails raises at once. States are NumPy arrays, so a
checkpoint does not depend on the devices that wrote it. Each checkpoint stores state,
meta (the progress of the run) and integrity (see integrity.py). The history in the
newest meta says which one is the best. So a kill at any moment leaves a consistent
folder, even while orbax deletes an old checkpoint.

Where epochs are short, `hold` keeps the best and the latest state in memory until the
next save, so that the best epoch is on disk before the run goes past it.
"""

import copy
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import msgspec
import numpy as np
from flax import traverse_util
from orbax.checkpoint import v1 as ocp

from cnn_jax.errors import RunError
from cnn_jax.workdir.checkpoints.integrity import leaves, measure
from cnn_jax.workdir.checkpoints.orbax_errors import (first_line, silence_late_errors,
                                                      without_log)
from cnn_jax.workdir.checkpoints.restore import restore, step_folders
from cnn_jax.workdir.progress import Progress, best_step

policies = ocp.training.preservation_policies  # LatestN and others


class KeepBest:
    """Keeps the checkpoint of one step, as a preservation policy of orbax."""

    def __init__(self) -> None:
        self.step: int | None = None

    def should_preserve(self, checkpoints: Sequence[Any], *,
                        context: Any = None) -> list[bool]:
        return [checkpoint.step == self.step for checkpoint in checkpoints]


class Checkpoints:
    """Saves and restores the checkpoints of a run that is being trained.

    directory: is created if it does not exist.
    monitor: the metric that decides which epoch is the best.
    keep: the number of latest checkpoints to keep.
    """

    def __init__(self, directory: Path, monitor: str, keep: int = 2) -> None:
        registry = ocp.handlers.local_registry()
        silence_late_errors()
        for name in ("integrity", "meta"):
            registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
        context = ocp.Context()
        context.checkpointables.registry = registry
        # Otherwise orbax's threads wait 20 minutes for a folder that cannot be made.
        context.async_options.create_directories_asynchronously = False
        self.directory = Path(directory).absolute()
        self.monitor = monitor
        self._best = KeepBest()
        self._held: dict[int, tuple[Any, Progress]] = {}  # by step, in order
        self._last_save = time.monotonic()
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
            if kind is None:  # otherwise close() only repeats the error of a save
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

    @property
    def seconds_since_save(self) -> float:
        """The time since the last checkpoint, or since this was opened."""
        return time.monotonic() - self._last_save

    def hold(self, state: Any, progress: Progress) -> None:
        """Keeps a copy in memory, for `flush` or the next `save`.

        It replaces the states held before, except that of the best epoch so far.
        """
        self._keep_best(progress)
        self._held[progress.step] = (jax.tree.map(np.array, state),
                                     copy.deepcopy(progress))

    def save(self, state: Any, progress: Progress) -> None:
        """Writes a checkpoint; before it, that of the best epoch if it is held.

        state: its leaves are NumPy arrays.
        """
        self._keep_best(progress)
        self._held.pop(progress.step, None)
        self.flush()
        self._write(state, progress)

    def flush(self) -> None:
        """Writes the held states."""
        while self._held:
            self._write(*self._held.pop(min(self._held)))

    def _keep_best(self, progress: Progress) -> None:
        """Drops the held states, except that of the best epoch."""
        best = best_step(progress.history, self.monitor)
        self._held = {step: held for step, held in self._held.items() if step == best}

    def _write(self, state: Any, progress: Progress) -> None:
        """Writes `state` and `progress` as one checkpoint."""
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
        self._last_save = time.monotonic()

    def folder(self, step: int) -> Path:
        """Returns the folder of the checkpoint of a step."""
        return self.directory / str(step)

    def restore(self, step: int, like: Any = None) -> tuple[Any, Progress]:
        """Restores and verifies (state, progress) of a step, see `restore.restore`."""
        return restore(self.folder(step), like)
