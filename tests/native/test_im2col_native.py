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


@pytest.mark.parametrize("x, w, stride", [
    ((3, 9, 9, 70), (3, 3, 70, 65), 1),     # more than one block of rows and tile of w
    ((2, 40, 3, 256), (1, 1, 256, 33), 1),  # rows that would conflict in the cache
    ((600, 1, 1, 40), (1, 1, 40, 300), 1),  # rows of many images in a block
    ((5, 20, 19, 40), (3, 3, 40, 70), 1),   # tiles of w that many blocks share
    ((1, 17, 19, 3), (7, 7, 3, 100), 3),    # kernel runs that reach over the border
    ((2, 4, 4, 300), (1, 1, 300, 90), 3)])  # pixels that no output sees
def test_large_problems(x, w, stride):
    spec = conv_spec(x, w, stride, "SAME")
    arrays = [jnp.asarray(normal(i, *shape), F32) for i, shape in enumerate(
        (spec.x_shape, spec.w_shape, spec.y_shape))]
    operands = ((0, 1), (2, 1), (0, 2))
    for kind, (expected, (a, b)) in enumerate(zip(by_numpy(*arrays, spec), operands)):
        one_pass = jax.jit(lambda a, b, kind=kind: lowering.call(
            a, b, kind, spec, cost.IM2COL))
        y = one_pass(arrays[a], arrays[b])
        assert relative_error(y, expected) <= 5e-6
        assert np.array_equal(y, one_pass(arrays[a], arrays[b]))


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


@pytest.mark.parametrize("change", [{"groups": 2, "w_shape": (3, 3, 8, 16)}, {}])
def test_groups_and_bfloat16_are_refused(change):
    spec = conv_spec((1, 4, 4, 16), (3, 3, 16, 16), 1, "SAME")._replace(**change)
    dtype = F32 if change else jnp.bfloat16
    with pytest.raises(jax.errors.JaxRuntimeError, match="im2col"):
        jax.jit(lambda x, w: lowering.call(x, w, 0, spec, cost.IM2COL))(
            jnp.ones(spec.x_shape, dtype), jnp.ones(spec.w_shape, dtype))
