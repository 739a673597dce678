"""The parameters of a run for other programs: NumPy's .npz, and text to read."""

from pathlib import Path

import numpy as np

from cnn_jax.training.steps import TrainState
from cnn_jax.workdir.checkpoints.read import leaves

EDGE = 3  # values shown at each end of a long axis


def exported(state: TrainState) -> dict[str, np.ndarray]:
    """{'params/conv1/kernel': array, ...}: parameters and running statistics, with the
    averaged parameters in place of the last ones where the run kept an average."""
    return leaves(state.variables)


def write_npz(path: Path, state: TrainState) -> Path:
    """Kernels are [height, width, in, out], dense kernels [in, out]."""
    np.savez(path, **exported(state))
    return path


def write_text(path: Path, state: TrainState) -> Path:
    """For each array its name, shape, mean, deviation and extremes, then its values
    (the corners of large ones; the .npz file has them all)."""
    blocks = []
    with np.printoptions(precision=5, suppress=True, threshold=200, edgeitems=EDGE,
                         linewidth=100):
        for name, array in exported(state).items():
            exact = array.astype(np.float64)  # float32 cannot hold every square
            blocks.append(
                f"{name}  shape {array.shape}  mean {exact.mean():.6g}  standard "
                f"deviation {exact.std():.6g}  min {array.min():.6g}  max "
                f"{array.max():.6g}\n{array}\n")
    path.write_text("\n".join(blocks))
    return path
