"""Keras on JAX in float64, and weights for its networks, for comparisons."""

import contextlib
from collections.abc import Iterator

import jax
import numpy as np
import pytest


@contextlib.contextmanager
def keras_float64() -> Iterator[None]:
    """Lets Keras and JAX compute in float64."""
    import keras
    from keras.src.backend.common import dtypes
    keras.config.set_floatx("float64")
    # Keras adds biases of lower rank, which the other tests forbid.
    with (pytest.MonkeyPatch.context() as patch, jax.enable_x64(True),
          jax.numpy_rank_promotion("allow")):
        # On its JAX backend Keras computes batch norm and means in float32 all the
        # same, which would hide differences below 1e-7.
        patch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
        yield
    keras.config.set_floatx("float32")


def randomize_keras(peer) -> None:
    """Draws weights with which no layer shrinks its input to nothing."""
    draw = np.random.default_rng(1)
    for variable in peer.weights:
        shape, what = variable.shape, variable.name
        if "kernel" in what:
            fan = np.prod(shape[:2]) if "depthwise" in what else np.prod(shape[:-1])
            value = draw.normal(0, np.sqrt(2 / fan), shape)
        elif what in ("gamma", "moving_variance"):
            value = draw.uniform(0.5, 1.5, shape)
        else:
            value = draw.normal(0, 0.1, shape)
        variable.assign(value)
