"""Writes the parameters of a network for other programs, as .npz and as text."""

from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

EDGE = 3  # values shown at each end of a long axis


def named_arrays(variables: dict[str, Any]) -> dict[str, np.ndarray]:
    """Flattens {"params": ..., "batch_stats": ...} to {'params/conv1/kernel': array}.
    """
    arrays = traverse_util.flatten_dict(variables, sep="/")
    return {name: np.asarray(array) for name, array in arrays.items()}


def write_npz(path: Path, variables: dict[str, Any]) -> Path:
    """Writes every array by its name, and returns the path.

    Convolution kernels are [height, width, in, out], dense kernels [in, out].
    """
    arrays: dict[str, Any] = named_arrays(variables)
    np.savez(path, **arrays)
    return path


def write_text(path: Path, variables: dict[str, Any]) -> Path:
    """Writes every array as text, and returns the path.

    Each has a line with its name, shape, mean, standard deviation, minimum and maximum.
    Its values follow, but only the corners of large arrays; the .npz file has them all.
    """
    blocks = []
    with np.printoptions(precision=5, suppress=True, threshold=200, edgeitems=EDGE,
                         linewidth=100):
        for name, array in named_arrays(variables).items():
            exact = array.astype(np.float64)  # float32 cannot hold every square
            blocks.append(
                f"{name}  shape {array.shape}  mean {exact.mean():.6g}  standard "
                f"deviation {exact.std():.6g}  min {array.min():.6g}  max "
                f"{array.max():.6g}\n{array}\n")
    path.write_text("\n".join(blocks))
    return path
