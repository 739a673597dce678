"""Restores a checkpoint from its folder and verifies every leaf of it."""

import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import serialization, traverse_util
from orbax.checkpoint import v1 as ocp

from cnn_jax.errors import InputError, RunError
from cnn_jax.files import T, read_json
from cnn_jax.workdir.checkpoints.integrity import Leaf, compare, measure
from cnn_jax.workdir.checkpoints.orbax_errors import (first_line, silence_late_errors,
                                                      without_log)
from cnn_jax.workdir.progress import Progress


class Damaged(Exception):
    """Raised for a damaged state; `restore` adds the folder and what to do."""


def step_folders(directory: Path) -> list[Path]:
    """Lists the folders of complete checkpoints in the order of their steps."""
    folders = directory.iterdir() if directory.is_dir() else ()
    return sorted((path for path in folders if path.name.isdecimal() and path.is_dir()),
                  key=lambda path: int(path.name))


def restore(folder: Path, like: Any = None) -> tuple[Any, Progress]:
    """Restores and verifies (state, progress) of the checkpoint in a folder.

    like: a state with the expected structure, shapes and dtypes, which may be abstract;
        the restored state has its type. Without it, the state is nested dicts. All
        leaves are NumPy arrays.
    Raises InputError for a structure that differs from that of `like`, RunError for
    damage.
    """
    progress = read_progress(folder)
    expected = _read_item(folder, "integrity", dict[str, Leaf])
    try:
        tree = _load(folder, expected)
        for path, leaf in measure(tree).items():
            if leaf != expected[path]:
                raise Damaged(f"leaf {path} does not match its stored checksum")
        for item, step in (("meta", progress.step), ("state", tree.get("step"))):
            if step is not None and str(int(step)) != folder.name:
                raise Damaged(f"{item} is from step {int(step)}: the folder was copied "
                              "or renamed")
    except Damaged as error:
        raise RunError(f"checkpoint {folder} is damaged: {error}; {advice(folder)}"
                       ) from error
    if like is None:
        return tree, progress
    # Only now that `expected` is verified does it say anything about the config.
    compare(expected, like, f"checkpoint {folder}")
    return serialization.from_state_dict(
        like, _with_empty_nodes(tree, serialization.to_state_dict(like))), progress


def read_progress(folder: Path) -> Progress:
    """Reads only the progress. Raises RunError for damage."""
    return _read_item(folder, "meta", Progress)


def advice(folder: Path) -> str:
    """Says what to do about a damaged checkpoint."""
    step, steps = int(folder.name), [int(p.name) for p in step_folders(folder.parent)]
    if any(other > step for other in steps):
        return ("it is the best one, which the run needs at its end: train again in "
                "another --workdir")
    older = [f"resume from step {other}" for other in steps if other < step]
    return f"delete or move {folder} to {older[-1] if older else 'train again'}"


def _read_item(folder: Path, item: str, kind: type[T]) -> T:
    """Reads a JSON item of a checkpoint. Raises RunError for damage."""
    try:
        return read_json(folder / item / "data.json", kind, advice(folder))
    except InputError as error:
        raise RunError(f"checkpoint {folder} is damaged: {error}") from error


def _load(folder: Path, expected: dict[str, Leaf]) -> dict[str, Any]:
    """Loads the state without verifying it.

    Raises RuntimeError if JAX has no device; the checkpoint is not to blame.
    """
    jax.devices()
    try:
        target = {path: np.empty(leaf.shape, jnp.dtype(leaf.dtype))
                  for path, leaf in expected.items()}
    except (TypeError, ValueError, MemoryError) as error:
        raise Damaged(f"{folder / 'integrity' / 'data.json'}: {error}") from error
    silence_late_errors()
    try:
        with without_log():
            restored = ocp.load_checkpointables(
                folder.absolute(),  # orbax refuses relative paths
                {"state": traverse_util.unflatten_dict(target, sep="/")})
        return restored["state"]
    except Exception as error:
        # Orbax's own error prints the whole target; its cause gives the reason.
        why = error.__cause__ or error
        match = re.search(r"checkpointable: (\w+)", str(error))
        item = match[1] if match else "a file"
        if not re.search("tensorstore|OCDBT|/", str(why), re.IGNORECASE):
            item += "/_METADATA"  # the only file that orbax parses itself
        raise Damaged(f"{item} cannot be read: {type(why).__name__}: {first_line(why)}"
                      ) from error


def _with_empty_nodes(tree: dict[str, Any], like: dict[str, Any]) -> dict[str, Any]:
    """Adds the empty dicts of `like`, which a checkpoint does not store."""
    return {key: _with_empty_nodes(tree.get(key, {}), value)
            if isinstance(value, dict) else tree[key] for key, value in like.items()}
