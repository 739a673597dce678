"""The checkpoints that a run writes: orbax keeps the latest ones and the best one.

Saves are synchronous: one that fails raises at once. States come and go as NumPy
arrays, so a checkpoint does not depend on the devices that wrote it. With each goes
what it must be when it is read again, see `stored`.
"""

from pathlib import Path
from typing import Any

from flax import serialization
from orbax.checkpoint import v1 as ocp

from cnn_jax.errors import RunError
from cnn_jax.json_files import json_crc32, sealed
from cnn_jax.workdir.checkpoints import read as stored
from cnn_jax.workdir.checkpoints.orbax_errors import (first_line, ignore_late_answers,
                                                      without_log)


class Checkpoints:
    """The checkpoints of one run: the latest ones and the best one.

    directory: made absolute, and created if it is not there.
    keep: how many of the latest to keep.
    writing: False for a reader, which must not clear away what a run that is still
        going is just writing.
    """

    def __init__(self, directory: Path, keep: int = 2, writing: bool = True):
        policies = ocp.training.preservation_policies
        registry = ocp.handlers.local_registry()
        ignore_late_answers()
        for name in ("integrity", "meta"):
            registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
        context = ocp.Context()
        context.checkpointables.registry = registry
        # Else its threads wait 20 minutes for a folder that could not be made.
        context.async_options.create_directories_asynchronously = False
        self.directory = Path(directory).absolute()
        preserve = policies.AnyPreservationPolicy([
            policies.LatestN(keep),
            # Of two equal scores the earlier epoch is the better one.
            policies.BestN(get_metric_fn=_rank, n=1,
                           keep_checkpoints_without_metrics=False)])
        # Orbax reads them all at once.
        folders = stored.step_folders(self.directory)
        for error in stored.damaged_scores(folders).values():
            raise error
        with without_log():
            self._orbax = ocp.training.Checkpointer(
                self.directory, context=context, cleanup_tmp_directories=writing,
                preservation_policy=preserve)
        self._first = self._identity()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            with without_log():
                self._orbax.close()
        except Exception as error:
            if kind is None:  # else close only repeats why a save failed
                raise RunError(f"checkpoints {self.directory} could not be closed: "
                               f"{first_line(error)}") from error

    @property
    def steps(self) -> list[int]:
        """The steps that there are checkpoints of, in order."""
        return sorted(c.step for c in self._orbax.checkpoints)

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return max(self.steps, default=None)

    @property
    def best(self) -> int | None:
        """The step with the highest score, or None."""
        ranks = self._ranks()
        return max(ranks, key=ranks.get, default=None)

    def _ranks(self) -> dict[int, tuple[float, int]]:
        """{step: what makes a checkpoint better than another}"""
        return {c.step: _rank(c.metrics) for c in self._orbax.checkpoints
                if c.metrics is not None}

    def save(self, step: int, state: Any, meta: dict,
             score: tuple[float, int] | None = None) -> None:
        """Writes `state` (NumPy leaves) and `meta` (JSON) as one checkpoint.

        score: (higher is better, epoch), for the checkpoint at the end of an epoch.
        """
        if self._identity() != self._first:  # orbax would make it anew, and only it
            raise RunError(f"checkpoint {self.folder(step)} could not be written: "
                           f"{self.directory} was moved or deleted")
        metrics, ranks = None, self._ranks()
        if score is not None:
            metrics = sealed({"score": score[0], "epoch": score[1]})
            ranks[step] = _rank(metrics)
        best = max(ranks, key=ranks.get, default=None)
        items = {"state": serialization.to_state_dict(state), "meta": meta,
                 "integrity": sealed({"leaves": stored.integrity(state),
                                      "meta": json_crc32(meta),
                                      "scored": score is not None, "best": best})}
        try:
            with without_log():
                saved = self._orbax.save_checkpointables(step, items, force=True,
                                                         metrics=metrics)
        except Exception as error:
            raise RunError(f"checkpoint {self.folder(step)} could not be "
                           f"written: {first_line(error)}") from error
        if not saved:
            raise RunError(f"checkpoint {self.folder(step)} was not written")

    def _identity(self) -> int | None:
        """Which folder `directory` is; None if it is none."""
        return self.directory.stat().st_ino if self.directory.is_dir() else None

    def folder(self, step: int) -> Path:
        """Where the checkpoint of a step lies."""
        return self.directory / str(step)

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """(state, meta) of a step, verified: see `stored.restore`."""
        return stored.restore(self.folder(step), like)


def _rank(metrics: dict) -> tuple[float, int]:
    return metrics["score"], -metrics["epoch"]
