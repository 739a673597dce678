"""Checkpoints of a training state: orbax on disk, every leaf verified on the way back.

Orbax alone restores a flipped bit as a wrong weight and casts another dtype in
silence, so a CRC-32, the shape and the dtype of each leaf are stored beside the state
and compared. Saves are synchronous: one that fails raises at once. States come and go
as NumPy arrays, so a checkpoint does not depend on the devices that wrote it.
"""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util
from orbax.checkpoint import v1 as ocp

from cnn_jax.errors import InputError, RunError

Integrity = dict[str, dict[str, Any]]  # leaf path -> shape, dtype, crc32


def leaves(state: Any) -> dict[str, np.ndarray]:
    """{'params/conv1/kernel': array, ...} of any Flax state."""
    tree = serialization.to_state_dict(state)
    return traverse_util.flatten_dict(tree, sep="/") if tree else {}


def integrity(state: Any) -> Integrity:
    """What each leaf must be when it is read again."""
    return {path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype),
                   "crc32": zlib.crc32(np.ascontiguousarray(leaf))}
            for path, leaf in leaves(state).items()}


def compare(stored: Integrity, expected: dict[str, Any], where: str) -> None:
    """Raises InputError at the first leaf that is missing, extra, or of other form."""
    for path in sorted(stored.keys() | expected.keys()):
        if path not in stored:
            raise InputError(f"{where} has no leaf {path}, which this network and "
                             "optimiser need: it was made by another config")
        if path not in expected:
            raise InputError(f"{where} has a leaf {path}, which this network and "
                             "optimiser do not know: it was made by another config")
        for field in ("shape", "dtype"):
            found = stored[path][field]
            wanted = {"shape": list(expected[path].shape),
                      "dtype": str(expected[path].dtype)}[field]
            if found != wanted:
                raise InputError(f"{where}: leaf {path} has {field} {found}, expected "
                                 f"{wanted}: it was made by another config")


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
        for name in ("integrity", "meta"):
            registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
        context = ocp.Context()
        context.checkpointables.registry = registry
        self.directory = Path(directory).absolute()
        try:
            self._orbax = ocp.training.Checkpointer(
                self.directory, context=context, cleanup_tmp_directories=writing,
                preservation_policy=policies.AnyPreservationPolicy([
                    policies.LatestN(keep),
                    # Of two equal scores the earlier epoch is the better one.
                    policies.BestN(get_metric_fn=_rank, n=1,
                                   keep_checkpoints_without_metrics=False)]))
        except Exception as error:
            raise RunError(f"checkpoints {self.directory} cannot be opened: "
                           f"{_first_line(error)}") from error

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._orbax.close()

    @property
    def latest(self) -> int | None:
        """The step of the newest checkpoint, or None."""
        return max((c.step for c in self._orbax.checkpoints), default=None)

    @property
    def best(self) -> int | None:
        """The step with the highest score, or None."""
        scored = [c for c in self._orbax.checkpoints if c.metrics is not None]
        return max(scored, key=lambda c: _rank(c.metrics)).step if scored else None

    def save(self, step: int, state: Any, meta: dict,
             score: tuple[float, int] | None = None) -> None:
        """Writes `state` (NumPy leaves) and `meta` (JSON) as one checkpoint.

        score: (higher is better, epoch), for the checkpoint at the end of an epoch.
        """
        metrics = None if score is None else {"score": score[0], "epoch": score[1]}
        items = {"state": serialization.to_state_dict(state),
                 "integrity": integrity(state), "meta": meta}
        try:
            saved = self._orbax.save_checkpointables(step, items, force=True,
                                                     metrics=metrics)
        except Exception as error:
            raise RunError(f"checkpoint {self.directory / str(step)} could not be "
                           f"written: {_first_line(error)}") from error
        if not saved:
            raise RunError(f"checkpoint {self.directory / str(step)} was not written")

    def restore(self, step: int, like: Any) -> tuple[Any, dict]:
        """(state, meta) of a step, verified.

        like: a state of the expected structure, shapes and dtypes (abstract or not).
        Raises InputError for another structure, RunError for damaged files.
        """
        where = f"checkpoint {self.directory / str(step)}"
        stored = self._load(step, {"integrity": None, "meta": None}, where)
        compare(stored["integrity"], leaves(like), where)
        target = traverse_util.unflatten_dict(
            {path: np.empty(leaf.shape, leaf.dtype)
             for path, leaf in leaves(like).items()}, sep="/")
        target = _with_empty_nodes(target, serialization.to_state_dict(like))
        tree = self._load(step, {"state": target}, where)["state"]
        for path, found in integrity(tree).items():
            if found != stored["integrity"][path]:
                raise RunError(f"{where} is damaged: leaf {path} does not have the "
                               "checksum that was stored with it")
        return serialization.from_state_dict(like, tree), stored["meta"]

    def _load(self, step: int, items: dict, where: str) -> dict:
        try:
            return self._orbax.load_checkpointables(step, items)
        except Exception as error:
            raise RunError(f"{where} cannot be read: {_first_line(error)}") from error


def _rank(metrics: dict) -> tuple[float, int]:
    return metrics["score"], -metrics["epoch"]


def _with_empty_nodes(target: dict, like: dict) -> dict:
    """Adds back the empty dicts (states without leaves) that flattening drops."""
    return {key: _with_empty_nodes(target.get(key, {}), value)
            if isinstance(value, dict) else target[key] for key, value in like.items()}


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
