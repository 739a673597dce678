"""What lies in a checkpoint's folder, verified as it is read.

Orbax alone restores a flipped bit as a wrong weight and casts another dtype in
silence, so a CRC-32, the shape and the dtype of each leaf are stored beside the state
and compared; the JSON parts have a CRC-32 too.
"""

import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from flax import serialization, traverse_util
from orbax.checkpoint import v1 as ocp

from cnn_jax.errors import InputError, RunError
from cnn_jax.json_files import fits, is_sealed, json_crc32, read
from cnn_jax.workdir.checkpoints.orbax_errors import (first_line, ignore_late_answers,
                                                      without_log)
from cnn_jax.workdir.progress import check_step

Integrity = dict[str, dict[str, Any]]  # leaf path -> shape, dtype, crc32
# The JSON parts of a checkpoint (see json_files.fits); older ones lack "scored", and
# "best", the step of the best checkpoint when this one was saved.
SCORE = {"score": float, "epoch": int, "crc32": int}
CHECKS = {"leaves": {str: {"shape": [int], "dtype": str, "crc32": int}},
          "meta": int, "best": int | None, "crc32": int, str: bool}


def leaves(state: Any) -> dict[str, np.ndarray]:
    """{'params/conv1/kernel': array, ...} of any Flax state."""
    tree = serialization.to_state_dict(state)
    return traverse_util.flatten_dict(tree, sep="/") if tree else {}


def integrity(state: Any) -> Integrity:
    """What each leaf must be when it is read again."""
    return {path: {"shape": list(leaf.shape), "dtype": str(leaf.dtype),
                   "crc32": zlib.crc32(np.ascontiguousarray(leaf))}
            for path, leaf in leaves(state).items()}


def step_folders(directory: Path) -> list[Path]:
    """The folders of whole checkpoints, by step."""
    found = directory.iterdir() if directory.is_dir() else ()
    return sorted((path for path in found if path.name.isdecimal()
                   and path.name == str(int(path.name)) and path.is_dir()),
                  key=lambda path: int(path.name))


def read_part(folder: Path, name: str, form: Any, crc32: int | None = None) -> dict:
    """A JSON part of a checkpoint, which is sealed or else has this CRC-32.

    Raises RunError where it is damaged, or does not have the form.
    """
    damaged, path = f"checkpoint {folder} is damaged", folder / name
    try:
        content = read(path)
    except FileNotFoundError as error:
        raise RunError(f"{damaged}: {path} is missing") from error
    except ValueError as error:
        raise RunError(f"{damaged}: {path} cannot be read: {error}") from error
    if not (is_sealed(content) if crc32 is None else json_crc32(content) == crc32):
        raise RunError(f"{damaged}: {name} does not have the checksum that was stored "
                       "with it")
    if not fits(content, form):
        raise RunError(f"{damaged} or of another version: {name} does not hold what "
                       "it should")
    return content


def read_checks(folder: Path) -> dict:
    """What the other parts of a checkpoint must be."""
    return read_part(folder, "integrity/data.json", CHECKS)


def verify_score(folder: Path) -> None:
    """Raises RunError where the score of a checkpoint is damaged, or is lost.

    A lost one would make another epoch the best in silence.
    """
    if not (folder / "metrics" / "metrics").exists():
        try:
            scored = read_checks(folder).get("scored")
        except RunError:
            return  # which restoring it will say
        if not scored:
            return
    read_part(folder, "metrics/metrics", SCORE)


def damaged_scores(folders: list[Path]) -> dict[Path, RunError]:
    """Of checkpoints, by step: those that may be needed and whose score is damaged."""
    found = {}
    for folder in folders:
        try:
            if not half_deleted(folder, folders[-1]):
                verify_score(folder)
        except RunError as error:
            found[folder] = error
    return found


def half_deleted(folder: Path, newest: Path) -> bool:
    """Whether a checkpoint was just being deleted when its run was killed: its score is
    gone, and the newest one says that another is the best."""
    if folder == newest or (folder / "metrics" / "metrics").exists():
        return False
    try:
        best = read_checks(newest).get("best")
    except RunError:
        return False  # nobody knows
    return best is not None and folder.name != str(best)


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


def restore(folder: Path, like: Any) -> tuple[Any, dict]:
    """(state, meta) of the checkpoint in a folder, verified.

    like: a state of the expected structure, shapes and dtypes (abstract or not).
    Raises InputError for another structure, RunError for damaged files.
    """
    checks = read_checks(folder)
    meta = read_part(folder, "meta/data.json", {str: object}, checks["meta"])
    compare(checks["leaves"], leaves(like), f"checkpoint {folder}")
    target = traverse_util.unflatten_dict(
        {path: np.empty(leaf.shape, leaf.dtype)
         for path, leaf in leaves(like).items()}, sep="/")
    tree = _load(folder, _with_empty_nodes(target, serialization.to_state_dict(like)))
    for path, found in integrity(tree).items():
        if found != checks["leaves"][path]:
            raise RunError(f"checkpoint {folder} is damaged: leaf {path} does not "
                           "have the checksum that was stored with it")
    if "step" in tree:
        check_step("state", int(tree["step"]), folder)
    return serialization.from_state_dict(like, tree), meta


def _load(folder: Path, target: dict) -> dict:
    """The state in a folder, not yet verified."""
    if not (folder / "state").is_dir():
        raise RunError(f"checkpoint {folder} is damaged: {folder / 'state'} is "
                       "missing")
    for path in (folder / "state").rglob("*"):  # a pipe would be waited for
        if not (path.is_file() or path.is_dir()):
            raise RunError(f"checkpoint {folder} is damaged: {path} is no file")
    ignore_late_answers()
    try:
        with without_log():
            return ocp.load_checkpointables(folder, {"state": target})["state"]
    except Exception as error:
        # Orbax's own line shows all of the target; what it chains says why.
        why = error.__cause__ or error
        found = re.search(r"checkpointable: (\w+)", str(error))
        part = found[1] if found else "a file"
        if not re.search("tensorstore|OCDBT|/", str(why), re.IGNORECASE):
            part += "/_METADATA"  # which alone orbax parses itself
        raise RunError(f"checkpoint {folder} cannot be read: {part}: "
                       f"{type(why).__name__}: {first_line(why)}") from error


def _with_empty_nodes(target: dict, like: dict) -> dict:
    """Adds back the empty dicts (states without leaves) that flattening drops."""
    return {key: _with_empty_nodes(target.get(key, {}), value)
            if isinstance(value, dict) else target[key] for key, value in like.items()}
