"""Products of patches in the native library: values, selection, threads.

    pytest tests/native/test_im2col_native.py             30 random problems
    pytest -m slow tests/native/test_im2col_native.py     3,000, and without AVX-512
"""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.fuzz_onednn import by_numpy, fuzz_im2col
from tests.support.gradcheck import normal, relative_error

from cnn_jax.native import convolution, cost, library, lowering
from cnn_jax.ops.conv import conv_spec, select

SUPPORT = Path(__file__).parents[1] / "support"
F32 = jnp.dtype("float32")
pytestmark = pytest.mark.skipif(library.load() is None, reason=library.describe())
needs_bfloat16 = pytest.mark.skipif(
    not library.has_bfloat16(), reason="this CPU has no bfloat16 instructions")
needs_onednn = pytest.mark.skipif(library.load_onednn() is None,
                                  reason=library.describe())


def test_random_problems():
    """One to three axes, strides, dilation, padding, and pixels that no output sees."""
    fuzz_im2col(30, seed=0)


@pytest.mark.slow
def test_three_thousand_random_problems():
    fuzz_im2col(3000, seed=1)


@pytest.mark.slow
def test_without_avx_512(tmp_path):
    run = subprocess.run(
        [sys.executable, str(SUPPORT / "fuzz_onednn.py"), "200", "2", "im2col"],
        env=os.environ | {"CXX": "g++ -mno-avx512f", "ONEDNN_MAX_CPU_ISA": "AVX2",
                          "CNN_JAX_CACHE": str(tmp_path),
                          "PYTHONPATH": str(SUPPORT.parents[1])},
        capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


LARGE = [
    ((3, 9, 9, 70), (3, 3, 70, 65), 1),     # more than one block of rows and tile of w
    ((2, 40, 3, 256), (1, 1, 256, 33), 1),  # rows that would conflict in the cache
    ((600, 1, 1, 40), (1, 1, 40, 300), 1),  # rows of many images in a block
    ((5, 20, 19, 40), (3, 3, 40, 70), 1),   # tiles of w that many blocks share
    ((1, 17, 19, 3), (7, 7, 3, 100), 3),    # kernel runs that reach over the border
    ((2, 4, 4, 300), (1, 1, 300, 90), 3)]   # pixels that no output sees


def passes(spec, arrays):
    """Yields what im2col computes in each pass, the same bits every time."""
    for kind, (a, b) in enumerate(((0, 1), (2, 1), (0, 2))):
        one_pass = jax.jit(lambda a, b, kind=kind: lowering.call(
            a, b, kind, spec, cost.IM2COL))
        y = one_pass(arrays[a], arrays[b])
        assert np.array_equal(y, one_pass(arrays[a], arrays[b]))
        yield y


def operands(spec, dtype):
    return [jnp.asarray(normal(i, *shape), dtype) for i, shape in enumerate(
        (spec.x_shape, spec.w_shape, spec.y_shape))]


@pytest.mark.parametrize("x, w, stride", LARGE)
def test_large_problems(x, w, stride):
    spec = conv_spec(x, w, stride, "SAME")
    arrays = operands(spec, F32)
    for y, expected in zip(passes(spec, arrays), by_numpy(*arrays, spec)):
        assert relative_error(y, expected) <= 5e-6


@needs_bfloat16
@pytest.mark.parametrize("x, w, stride", [
    *LARGE,
    ((1, 1, 1, 5), (3, 3, 5, 3), 1),         # one pixel
    ((30, 23, 20, 17), (1, 1, 17, 31), 1),   # pairs of an odd number of channels
    ((2, 23, 20, 33), (3, 3, 33, 2), 2),     # pairs that reach over two taps
    ((2, 13, 13, 512), (1, 1, 512, 40), 1),  # rows that would conflict in the cache
    ((2, 7, 7, 1030), (1, 1, 1030, 64), 1)])  # sums of three pieces
def test_bfloat16_is_rounded_once(x, w, stride):
    """Half a unit in the last place of bfloat16 is 2^-8 of a number."""
    spec = conv_spec(x, w, stride, "SAME")
    arrays = operands(spec, jnp.bfloat16)
    sizes = by_numpy(*map(jnp.abs, arrays), spec)
    for y, expected, size in zip(passes(spec, arrays), by_numpy(*arrays, spec), sizes):
        assert y.dtype == jnp.bfloat16
        error = np.abs(np.asarray(y, np.float64) - expected)
        assert (error <= np.abs(expected) / 256 + 1e-6 * size.max()).all()


@needs_bfloat16
def test_weight_gradients_in_bfloat16():
    spec = conv_spec((4, 40, 40, 24), (1, 1, 24, 64), 1, "SAME")
    assert select("auto", spec, jnp.dtype("bfloat16")
                  ).name == "onednn / onednn / native im2col"


@needs_onednn
def test_few_pixels_are_products():
    few, many = (conv_spec((4, side, side, 384), (1, 3, 384, 256), 1, "SAME")
                 for side in (7, 48))
    assert select("auto", few, F32).name == "native im2col"
    assert select("auto", few, F32)[1:] == convolution.fastest
    assert select("auto", many, F32).name == "onednn"
    assert select("onednn", few, F32).name == "onednn"
    assert select("auto", few._replace(groups=2, w_shape=(1, 3, 192, 256)), F32
                  ).name == "onednn"


@needs_onednn
def test_the_input_gradient_of_many_channels_is_a_product_in_xla():
    wide = conv_spec((2, 7, 7, 1200), (1, 1, 1200, 128), 1, "SAME")
    algorithm = select("auto", wide, F32)
    assert algorithm.name == "native im2col / pointwise / native im2col"
    draw = np.random.default_rng(0)
    g, w = (draw.standard_normal(shape) for shape in (wide.y_shape, wide.w_shape))
    dx = jax.jit(lambda g, w: algorithm.input_gradient(g, w, wide))(
        jnp.asarray(g, F32), jnp.asarray(w, F32))
    np.testing.assert_allclose(dx, g @ w[0, 0].T, atol=1e-4)


def test_groups_are_refused():
    spec = conv_spec((1, 4, 4, 16), (3, 3, 8, 16), 1, "SAME", groups=2)
    with pytest.raises(jax.errors.JaxRuntimeError, match="im2col"):
        jax.jit(lambda x, w: lowering.call(x, w, 0, spec, cost.IM2COL))(
            jnp.ones(spec.x_shape), jnp.ones(spec.w_shape))
