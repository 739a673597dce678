"""Checkpoints of a training state: orbax on disk, every leaf verified on the way back.

Orbax alone restores a flipped bit as a wrong weight and casts another dtype in
silence, so a CRC-32, the shape and the dtype of each leaf are stored beside the state
and compared; the JSON parts have a CRC-32 too. Saves are synchronous: one that fails
raises at once. States come and go as NumPy arrays, so a checkpoint does not depend on
the devices that wrote it.
"""

import contextlib
import json
import logging as python_logging
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
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


def json_crc32(value: Any) -> int:
    """Of any JSON value; the same before it is written and after it was read."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def sealed(content: dict) -> dict:
    """A JSON object with its own CRC-32."""
    return content | {"crc32": json_crc32(content)}


def is_sealed(content: Any) -> bool:
    """Whether `content` is as `sealed` made it."""
    return isinstance(content, dict) and content == sealed(
        {key: value for key, value in content.items() if key != "crc32"})


def verify_seal(content: Any, where: str, name: str) -> None:
    """Raises RunError unless `content` is as `sealed` made it."""
    if not is_sealed(content):
        raise RunError(f"{where} is damaged: {name} does not have the checksum that "
                       "was stored with it")


def step_folders(directory: Path) -> list[Path]:
    """The folders of whole checkpoints, by step."""
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted((path for path in found if path.name.isdecimal()),
                  key=lambda path: int(path.name))


def verify_score(folder: Path) -> None:
    """Raises RunError where the score of a checkpoint is damaged, or is lost.

    A lost one would make another epoch the best in silence.
    """
    where, path = f"checkpoint {folder}", folder / "metrics" / "metrics"
    try:
        verify_seal(json.loads(path.read_text()), where, "metrics/metrics")
    except FileNotFoundError:
        try:
            checks = json.loads((folder / "integrity" / "data.json").read_text())
            scored = checks["scored"]
        except (OSError, ValueError, LookupError, TypeError):
            return  # not readable, which restoring it will say; or of an older version
        if scored:
            raise RunError(f"{where} is damaged: {path} is missing") from None
    except (OSError, ValueError) as error:  # ValueError: of JSON or UTF-8
        raise RunError(f"{where} is damaged: {path} cannot be read: "
                       f"{_first_line(error)}") from error


def form(leaf: Any) -> str:
    """'float32 [5, 5, 1, 6]' of an array, or of what `integrity` says of it."""
    found = leaf if isinstance(leaf, dict) else {
        "shape": list(leaf.shape), "dtype": str(leaf.dtype)}
    return f"{found['dtype']} {found['shape']}"


def compare(stored: Integrity, expected: dict[str, Any], where: str) -> None:
    """Raises InputError at the first leaf that is missing, extra, or of other form."""
    for path in sorted(stored.keys() | expected.keys()):
        found = form(stored[path]) if path in stored else "none"
        wanted = form(expected[path]) if path in expected else "none"
        if found != wanted:
            raise InputError(f"{where}: leaf {path}: expected {wanted}, found {found}: "
                             "it was made by another config")


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
        _ignore_late_answers()
        for name in ("integrity", "meta"):
            registry.add(ocp.handlers.JsonHandler, checkpointable_name=name)
        context = ocp.Context()
        context.checkpointables.registry = registry
        self.directory = Path(directory).absolute()
        preserve = policies.AnyPreservationPolicy([
            policies.LatestN(keep),
            # Of two equal scores the earlier epoch is the better one.
            policies.BestN(get_metric_fn=_rank, n=1,
                           keep_checkpoints_without_metrics=False)])
        for folder in step_folders(self.directory):  # orbax reads all scores at once
            verify_score(folder)
        with _without_log():
            self._orbax = ocp.training.Checkpointer(
                self.directory, context=context, cleanup_tmp_directories=writing,
                preservation_policy=preserve)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        try:
            with _without_log():
                self._orbax.close()
        except Exception as error:
            if kind is None:  # else close only repeats why a save failed
                raise RunError(f"checkpoints {self.directory} could not be closed: "
                               f"{_first_line(error)}") from error

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
        scored = [c for c in self._orbax.checkpoints if c.metrics is not None]
        return max(scored, key=lambda c: _rank(c.metrics)).step if scored else None

    def save(self, step: int, state: Any, meta: dict,
             score: tuple[float, int] | None = None) -> None:
        """Writes `state` (NumPy leaves) and `meta` (JSON) as one checkpoint.

        score: (higher is better, epoch), for the checkpoint at the end of an epoch.
        """
        metrics = None
        if score is not None:
            metrics = sealed({"score": score[0], "epoch": score[1]})
        items = {"state": serialization.to_state_dict(state), "meta": meta,
                 "integrity": sealed({"leaves": integrity(state),
                                      "meta": json_crc32(meta),
                                      "scored": score is not None})}
        try:
            with _without_log():
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
        checks, meta = self._load_json(step, where)
        compare(checks["leaves"], leaves(like), where)
        target = traverse_util.unflatten_dict(
            {path: np.empty(leaf.shape, leaf.dtype)
             for path, leaf in leaves(like).items()}, sep="/")
        target = _with_empty_nodes(target, serialization.to_state_dict(like))
        tree = self._load(step, {"state": target}, where)["state"]
        for path, found in integrity(tree).items():
            if found != checks["leaves"][path]:
                raise RunError(f"{where} is damaged: leaf {path} does not have the "
                               "checksum that was stored with it")
        return serialization.from_state_dict(like, tree), meta

    def _load_json(self, step: int, where: str) -> tuple[dict, dict]:
        """The verified checksums and meta of a step."""
        stored = self._load(step, {"integrity": None, "meta": None}, where)
        checks, meta = stored["integrity"], stored["meta"]
        verify_seal(checks, where, "integrity/data.json")
        if checks["meta"] != json_crc32(meta):
            raise RunError(f"{where} is damaged: meta/data.json does not have the "
                           "checksum that was stored with it")
        return checks, meta

    def _load(self, step: int, items: dict, where: str) -> dict:
        for name in items:
            if not (part := self.directory / str(step) / name).is_dir():
                raise RunError(f"{where} is damaged: {part} is missing")
        try:
            with _without_log():
                return self._orbax.load_checkpointables(step, items)
        except Exception as error:
            # Orbax's own line shows all of the target; what it chains says why.
            found = re.search(r"checkpointable: (\w+)", str(error))
            why = error.__cause__ or error
            part = found[1] if found else "a file"
            raise RunError(f"{where} cannot be read: {part}: "
                           f"{type(why).__name__}: {_first_line(why)}") from error


def _rank(metrics: dict) -> tuple[float, int]:
    return metrics["score"], -metrics["epoch"]


def _with_empty_nodes(target: dict, like: dict) -> dict:
    """Adds back the empty dicts (states without leaves) that flattening drops."""
    return {key: _with_empty_nodes(target.get(key, {}), value)
            if isinstance(value, dict) else target[key] for key, value in like.items()}


@contextlib.contextmanager
def _without_log():
    """Orbax logs tracebacks of what it raises as well; one line is enough."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def _ignore_late_answers() -> None:
    """The first file that fails ends orbax's event loop. What TensorStore meets in the
    others comes too late for it: a traceback each, on top of our line."""
    before = sys.unraisablehook
    if before.__module__ == __name__:
        return

    def hook(found) -> None:
        if str(found.exc_value) != "Event loop is closed":
            before(found)

    sys.unraisablehook = hook
    python_logging.getLogger("asyncio").addFilter(
        lambda record: "tensorstore" not in record.getMessage())


def _first_line(error: Exception) -> str:
    """Without the settings in JSON that TensorStore puts behind what went wrong."""
    line = str(error).strip("\"' \n").partition("\n")[0]
    return re.split(r" \[(tensorstore_spec|source locations)", line)[0] or type(
        error).__name__
