"""Dense layers of few rows and large weights, by the native library."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.gradcheck import normal, relative_error

from cnn_jax import ops
from cnn_jax.native import library
from cnn_jax.ops.dense import MANY_WEIGHTS, ROWS

pytestmark = pytest.mark.skipif(library.load() is None, reason=library.describe())
CHANNELS, OUTPUTS = 1030, 1027  # no multiples of what the library computes at once
assert CHANNELS * OUTPUTS >= MANY_WEIGHTS


def arrays(*rows: int) -> tuple[jax.Array, ...]:
    shapes = (*rows, CHANNELS), (CHANNELS, OUTPUTS), (*rows, OUTPUTS)
    return tuple(jnp.asarray(normal(i, *shape), jnp.float32)
                 for i, shape in enumerate(shapes))


def passes(x, w, g):
    y, gradients = jax.vjp(ops.dense, x, w)
    return y, *gradients(g)


def calls_library(*arguments: jax.Array) -> bool:
    return "cnn_jax_convolution" in jax.jit(ops.dense).lower(*arguments).as_text()


@pytest.mark.parametrize("rows", [(ROWS[0],), (3, 5), (ROWS[-1],)])
def test_passes_equal_float64(rows):
    x, w, g = arrays(*rows)
    assert calls_library(x, w)
    y, dx, dw = jax.jit(passes)(x, w, g)
    x, w, g = (np.asarray(array, np.float64) for array in (x, w, g))
    expected = x @ w, g @ w.T, x.reshape(-1, CHANNELS).T @ g.reshape(-1, OUTPUTS)
    for actual, exact in zip((y, dx, dw), expected):
        assert actual.shape == exact.shape and relative_error(actual, exact) <= 5e-6


def test_other_rows_small_weights_and_other_dtypes_stay_with_xla():
    x, w, _ = arrays(ROWS[-1] + 1)
    assert not calls_library(x, w)
    assert not calls_library(x[:ROWS[0] - 1], w)
    assert not calls_library(x[:9], w[:, :1000])
    assert not calls_library(x[:9].astype(jnp.bfloat16), w.astype(jnp.bfloat16))
    assert not calls_library(x[:9], w.astype(jnp.bfloat16))


def test_vmap_over_rows_and_weights():
    x, w, g = arrays(9)
    y, _, dw = jax.jit(passes)(x, w, g)
    assert relative_error(jax.jit(jax.vmap(ops.dense, (0, None)))(x[:, None], w)[:, 0],
                          y) <= 5e-6
    of_row = jax.jit(jax.vmap(lambda x, g: passes(x[None], w, g[None])[2]))(x, g)
    assert relative_error(of_row.sum(0), dw) <= 5e-6
    both = jax.jit(jax.vmap(ops.dense, (None, 0)))(x, jnp.stack([w, -w]))
    assert relative_error(both, jnp.stack([y, -y])) <= 5e-6


def test_an_exported_program_holds_a_product_of_matrices():
    x, w, _ = arrays(9)
    for platform in ("cpu", "cuda"):
        text = jax.export.export(jax.jit(ops.dense), platforms=[platform])(
            x, w).mlir_module()
        assert "dot_general" in text and "cnn_jax_convolution" not in text
