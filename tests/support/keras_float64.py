"""Keras on JAX in float64, for comparisons of networks."""

import contextlib
from collections.abc import Iterator

import jax
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
