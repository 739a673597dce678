"""Measures and compares the shape, dtype and CRC-32 of every leaf of a state.

Orbax alone silently restores a flipped bit as a wrong weight, and silently casts a
state of another dtype. So each checkpoint stores these facts beside its state, and a
restored state is compared with them.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
from flax import serialization, traverse_util

from cnn_jax.errors import InputError


class Leaf(msgspec.Struct, frozen=True):
    """Describes one array of a state."""

    shape: tuple[int, ...]
    dtype: str
    crc32: int


def leaves(state: Any) -> dict[str, np.ndarray]:
    """Flattens any Flax state to {'params/conv1/kernel': array, ...}."""
    tree = serialization.to_state_dict(state)
    return traverse_util.flatten_dict(tree, sep="/") if tree else {}


def measure(state: Any) -> dict[str, Leaf]:
    """Measures every leaf of a state."""
    return {path: Leaf(leaf.shape, str(leaf.dtype),
                       zlib.crc32(np.ascontiguousarray(leaf).data))
            for path, leaf in leaves(state).items()}


def describe(leaf: Any) -> str:
    """Writes 'float32 [5, 5, 1, 6]' for anything with a dtype and a shape."""
    return f"{leaf.dtype} {list(leaf.shape)}"


def compare(stored: Mapping[str, Any], like: Any, where: str) -> None:
    """Raises InputError for the first leaf that is missing, extra or of another shape
    or dtype.

    stored: arrays or `Leaf`s by path.
    like: a state with the expected structure, shapes and dtypes; it may be abstract.
    where: what is compared, for the message.
    """
    expected = leaves(like)
    for path in sorted(stored.keys() | expected.keys()):
        ours = describe(expected[path]) if path in expected else "none"
        theirs = describe(stored[path]) if path in stored else "none"
        if ours != theirs:
            raise InputError(f"{where}: leaf {path}: expected {ours}, found {theirs}: "
                             "it was made by another config")
