"""Winograd's method in the native library: values, limits, selection, transformations.

    pytest tests/native/test_winograd_native.py             30 random problems
    pytest -m slow tests/native/test_winograd_native.py     4,000, and without AVX-512

Skipped without the library. 'auto' selects the method by its cost; most tests set the
tile size.
"""

import concurrent.futures
import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.fuzz_onednn import by_numpy, check, fuzz_winograd, handler
from tests.support.gradcheck import normal, relative_error

from cnn_jax import networks
from cnn_jax.networks.summary import layer_table
from cnn_jax.native import convolution, cost, library
from cnn_jax.ops import conv_general_dilated, correlate
from cnn_jax.ops.conv import conv_spec, lax as conv_lax, select

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "support"
F32 = jnp.dtype("float32")
pytestmark = pytest.mark.skipif(library.load() is None, reason=library.describe())
needs_onednn = pytest.mark.skipif(library.load_onednn() is None,
                                  reason=library.describe())


@pytest.fixture(params=[2, 4])
def tile(request, monkeypatch):
    """Forces F(2 x 2, 3 x 3) or F(4 x 4, 3 x 3), whatever their cost."""
    monkeypatch.setattr(cost, "COSTS",
                        {request.param: cost.Cost(0, 0, 0, 0)})
    jax.clear_caches()
    yield request.param
    jax.clear_caches()


def of(images, side, channels, outputs, padding="SAME", **changes):
    return conv_spec((images, *np.broadcast_to(side, 2).tolist(), channels),
                     (3, 3, channels, outputs), 1, padding)._replace(**changes)


def f32(seed, *shape):
    return jnp.asarray(normal(seed, *shape), jnp.float32)


def arrays(spec):
    return f32(0, *spec.x_shape), f32(1, *spec.w_shape), f32(2, *spec.y_shape)


def tiles_in(f, *args) -> list[int]:
    """Lists the tile size of every library call in a program."""
    text = jax.jit(f).lower(*args).as_text()
    return [int(line.partition("method = ")[2].split()[0])
            for line in text.splitlines() if library.TARGET in line]


def test_the_tile_is_forced(tile):
    """In each of the three passes."""
    spec = of(1, 1, 16, 16)
    for kind, one_pass in enumerate(convolution.fastest):
        a, b = (arrays(spec)[i] for i in ((0, 1), (2, 1), (0, 2))[kind])
        assert tiles_in(lambda a, b: one_pass(a, b, spec), a, b) == [tile]


# Values.

def test_random_problems():
    fuzz_winograd(30, seed=0)


SIDES = [
    ((1, 1), "SAME"), ((1, 9), "SAME"), ((7, 1), ((1, 1), (2, 0))), ((3, 3), "VALID"),
    ((4, 4), ((0, 3), (4, 0))), ((8, 5), ((2, 2), (2, 2))), ((13, 6), ((0, 1), (1, 0))),
    ((2, 2), ((3, 3), (3, 3)))]
COUNTS = [(1, 16, 16), (2, 48, 32), (3, 32, 80), (9, 16, 48)]


@pytest.mark.parametrize("side, padding, images, channels, outputs", [
    pytest.param(*side, *counts, marks=[pytest.mark.slow] * ((i + j) % 4 > 0))
    for i, side in enumerate(SIDES) for j, counts in enumerate(COUNTS)])
def test_odd_images(tile, side, padding, images, channels, outputs):
    check(of(images, side, channels, outputs, padding), "float32",
          np.random.default_rng(0))


@pytest.mark.parametrize("outputs", [pytest.param(512, marks=pytest.mark.slow), 16])
def test_many_channels(tile, outputs):
    """Each pass is within 5e-6 of its largest entry when it sums 512 channels."""
    spec = of(4, 8, 512, outputs)
    check(spec, "float32", np.random.default_rng(0))
    x, w, g = arrays(spec)
    exact = by_numpy(x, w, g, spec)
    for actual, right in zip(jax.jit(lambda x, w, g: (
            convolution.fastest.forward(x, w, spec),
            convolution.fastest.input_gradient(g, w, spec),
            convolution.fastest.weight_gradient(x, g, spec)))(x, w, g), exact):
        assert relative_error(actual, right) <= 5e-6


@pytest.mark.parametrize("offset", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_weight_gradients_of_long_sums(tile, offset):
    """Sums of 131,072 products are correct, also if they do not cancel."""
    spec = of(128, 32, 16, 16)
    x, _, g = (a + offset for a in arrays(spec))
    dw = jax.jit(lambda x, g: convolution.fastest.weight_gradient(x, g, spec))(x, g)
    exact = by_numpy(x, np.zeros(spec.w_shape), g, spec)[2]
    assert relative_error(dw, exact) <= 2e-5


def test_by_hand():
    """3 x 3 pixels with a 1 at (0, 1) of channel 5 give the kernel, rotated."""
    x = np.zeros((1, 3, 3, 16), np.float32)
    x[0, 0, 1, 5] = 1
    w = np.zeros((3, 3, 16, 16), np.float32)
    w[..., 5, 7] = np.arange(1, 10).reshape(3, 3)
    expected = np.zeros((1, 3, 3, 16))
    expected[0, ..., 7] = [[6, 5, 4], [3, 2, 1], [0, 0, 0]]
    for m in (2, 4):
        y = jax.jit(lambda x, w: handler(
            of(1, 3, 16, 16), x.shape, x, w, method=m))(x, w)
        np.testing.assert_allclose(y, expected, atol=1e-5)


def test_not_finite_pixels_reach_their_own_tiles_alone(tile):
    spec = of(2, 12, 16, 16)
    x, w, _ = arrays(spec)
    y = jax.jit(lambda x, w: convolution.fastest.forward(x, w, spec))(
        x.at[1, 5, 5, 3].set(jnp.nan), w)
    assert np.isnan(y[1, 4:7, 4:7]).all()
    assert np.isfinite(y[0]).all() and np.isfinite(y[1, 9:]).all()


def test_bfloat16_is_float32_rounded_once(tile):
    """The bits are equal, including ties and NaN."""
    if not library.load().bfloat16:
        pytest.skip("this CPU has no bfloat16 instructions")
    spec = of(3, (9, 6), 32, 48)
    x, w, g = (a.astype(jnp.bfloat16) for a in arrays(spec))
    w = w.at[..., 7].set(0).at[1, 1, 0, 7].set(1)  # channel 7 sums integers
    x = x.at[..., 0].set(jnp.arange(500, 500 + 3 * 9 * 6).reshape(3, 9, 6))
    x = x.at[0, 0, 0, 3].set(jnp.nan).at[2, 8, 5, 1].set(jnp.inf)

    @jax.jit
    def passes(x, w, g):
        return (convolution.fastest.forward(x, w, spec),
                convolution.fastest.input_gradient(g, w, spec),
                convolution.fastest.weight_gradient(x, g, spec))
    for low, high in zip(passes(x, w, g), passes(*(a.astype(jnp.float32)
                                                   for a in (x, w, g)))):
        assert low.dtype == jnp.bfloat16
        np.testing.assert_array_equal(*(np.asarray(a.astype(jnp.bfloat16), np.float32)
                                        for a in (low, high)))


def test_two_threads_at_once(tile):
    spec = of(4, 9, 32, 48)
    x, w, g = arrays(spec)

    def work(seed):
        """Computes repeatedly; tells whether the bits stay the same."""
        f = jax.jit(lambda x, w, g: (
            convolution.fastest.forward(x, w + seed, spec),
            convolution.fastest.weight_gradient(x, g + seed, spec)))
        first = [np.asarray(a) for a in f(x, w, g)]
        return all(map(np.array_equal, first * 100,
                       [a for _ in range(100) for a in f(x, w, g)]))
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        assert list(pool.map(work, range(3))) == [True] * 3


def test_repeated_calls_give_the_same_bits(tile):
    spec = of(8, 20, 32, 64)

    @jax.jit
    def f(x, w):
        return jax.value_and_grad(lambda x, w: jnp.sin(
            convolution.fastest.forward(x, w, spec)).sum(), (0, 1))(x, w)
    x, w, _ = arrays(spec)
    first = jax.tree.map(np.asarray, f(x, w))
    for _ in range(20):
        assert all(map(np.array_equal, jax.tree.leaves(first),
                       jax.tree.leaves(f(x, w))))


# Selecting the method.

@needs_onednn
@pytest.mark.parametrize("images, side, channels, outputs, m", [
    (128, 32, 64, 64, 4), (128, 4, 512, 512, 4), (128, 2, 512, 512, 2),
    (8, 56, 64, 64, 4), (8, 14, 256, 256, 4), (32, 28, 32, 32, 4), (32, 7, 128, 128, 4),
    (128, 32, 16, 16, 4), (128, (32, 1), 64, 64, 0),
    (1, 4, 512, 32, 0), (1, 2, 64, 32, 0), (128, 1, 512, 32, 0),  # few tiles
    (128, 32, 3, 64, 0), (128, 32, 64, 40, 0)])                     # odd channels
def test_the_cheapest_is_chosen(images, side, channels, outputs, m):
    spec = of(images, side, channels, outputs)
    assert cost.tile_of(spec, F32) == m
    assert select("auto", spec, F32)[1:] == convolution.fastest
    methods = [cost.method_of(kind, spec, F32) for kind in range(3)]
    assert set(methods) <= ({m} if m else {cost.ONEDNN, cost.IM2COL})
    assert select("auto", spec, F32).name.startswith(cost.NAMES[methods[0]])
    assert select("onednn", spec, F32).name == "onednn"
    x, w = (jax.ShapeDtypeStruct(s, F32) for s in (spec.x_shape, spec.w_shape))
    assert tiles_in(jax.grad(lambda x, w: correlate(
        x, w, padding="SAME").sum(), (0, 1)), x, w) == methods[1:]


@pytest.mark.parametrize("change", [
    {"strides": (2, 1)}, {"rhs_dilation": (2, 2)}, {"lhs_dilation": (1, 2)},
    {"groups": 2, "w_shape": (3, 3, 32, 64)}, {"w_shape": (3, 5, 64, 64)},
    {"precision": lax.Precision.HIGHEST}, {"precision": lax.Precision.HIGH},
    {"precision": "highest"}, {"precision": (None, lax.Precision.HIGHEST)}])
def test_convolutions_that_are_left_to_onednn(change):
    spec = of(8, 32, 64, 64)
    assert cost.tile_of(spec, F32) == 4
    assert cost.tile_of(spec._replace(**change), F32) == 0
    for dtype in ("float64", "float16"):
        assert cost.tile_of(spec, jnp.dtype(dtype)) == 0


@pytest.mark.parametrize("precision", [
    None, "default", lax.Precision.DEFAULT, (lax.Precision.DEFAULT, "default")])
def test_default_precision_allows_it(precision):
    assert cost.tile_of(of(8, 32, 64, 64)._replace(precision=precision), F32) == 4


@needs_onednn
def test_highest_precision_is_direct():
    spec = of(8, 16, 64, 64)
    x, w, _ = arrays(spec)
    for precision, m in ((None, 4), (lax.Precision.HIGHEST, 0)):
        gradients = jax.grad(lambda x, w: jnp.sin(conv_general_dilated("auto")(
            x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=precision)).sum(), (0, 1))
        assert tiles_in(gradients, x, w) == [m] * 3
    assert tiles_in(lambda x, w: correlate(
        x, w, padding="SAME", implementation="onednn"), x, w) == [0]
    for precision, m in (("highest", 0), ("float32", 0), ("default", 4), (None, 4)):
        with jax.default_matmul_precision(precision):
            assert cost.tile_of(spec, F32) == m
            both = spec._replace(precision=(None, None))
            assert cost.tile_of(both, F32) == m
            assert tiles_in(jax.grad(lambda x, w: jnp.sin(correlate(
                x, w, padding="SAME")).sum(), (0, 1)), x, w) == [m] * 3


@needs_onednn
def test_the_summary_knows_the_images_of_a_step():
    network = networks.create("tf2_vgg16")
    for images in (1, 128):
        x = jax.ShapeDtypeStruct((images, 32, 32, 3), F32)
        variables = jax.eval_shape(lambda x: network.init(
            jax.random.key(0), x, train=False), x)
        tiles = tiles_in(lambda v, x: network.apply(v, x, train=False), variables, x)
        convs = [row.conv for row in layer_table(network, (32, 32, 3), images).rows
                 if row.conv]
        assert [conv.partition(" / ")[0] for conv in convs] == [  # of the forward pass
            cost.NAMES[m] for m in tiles]
        assert tiles.count(4) == (3 if images == 1 else 9)


# Transformations.

def loss(f):
    return lambda x, w: jnp.sin(f(x, w)).sum()


@pytest.mark.parametrize("f", [
    lambda f: f,
    lambda f: jax.grad(jax.checkpoint(loss(f)), (0, 1)),
    lambda f: lambda x, w: jax.jvp(jax.grad(loss(f), (0, 1)), (x, w), (x + 1, 2 * w)),
    lambda f: jax.grad(lambda x, w: sum(
        (g ** 2).sum() for g in jax.grad(loss(f), (0, 1))(x, w)), (0, 1)),
    lambda f: jax.vmap(jax.grad(lambda x, w: loss(f)(x[None], w), (0, 1)), (0, None)),
    lambda f: lambda x, w: jax.vmap(f)(jnp.stack([x, 2 * x]), jnp.stack([w, w + 1])),
], ids=["value", "remat", "jvp of grad", "grad of grad", "of each image", "vmap"])
def test_transformations(tile, f):
    x, w = f32(0, 3, 6, 7, 16), f32(1, 3, 3, 16, 32) / 10
    actual, expected = (jax.tree.leaves(jax.jit(f(lambda x, w: correlate(
        x, w, padding="SAME", implementation=name)))(x, w)) for name in ("auto", "lax"))
    assert max(map(relative_error, actual, expected)) <= 1e-5


# Bad arguments.

@pytest.mark.parametrize("spec, tile", [
    (of(1, 6, 16, 16), 3), (of(1, 6, 16, 16), -2), (of(1, 6, 16, 20), 4),
    (of(1, 6, 12, 16), 4), (of(1, 6, 16, 16)._replace(strides=(1, 2)), 2),
    (of(1, 6, 16, 16)._replace(w_shape=(5, 3, 16, 16), padding=((2, 2), (1, 1))), 4),
    (of(1, 6, 16, 16)._replace(groups=2, w_shape=(3, 3, 8, 16)), 4)])
def test_the_library_refuses_other_problems(spec, tile):
    x, w, _ = arrays(spec)
    with pytest.raises(Exception, match="Winograd's method.*: x"):
        handler(spec, spec.y_shape, x, w, method=tile).block_until_ready()


def test_the_gradient_of_the_kernel_is_the_transpose_of_the_convolution(tile):
    """<g, conv(x, w)> = <dx, x> = <dw, w>, each computed by its own pass."""
    spec = of(5, (9, 10), 32, 48, ((2, 1), (0, 2)))
    x, w, g = arrays(spec)
    y, dx, dw = jax.jit(lambda x, w, g: (
        convolution.fastest.forward(x, w, spec),
        convolution.fastest.input_gradient(g, w, spec),
        convolution.fastest.weight_gradient(x, g, spec)))(x, w, g)
    products = [np.vdot(np.float64(a), np.float64(b)) for a, b in (
        (g, y), (dx, x), (dw, w))]
    size = np.linalg.norm(g) * np.linalg.norm(y)
    for a, b in itertools.pairwise(products):
        assert abs(a - b) <= 1e-6 * size
    assert relative_error(y, conv_lax.forward(x, w, spec)) <= 5e-6


# Long checks.

@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_thousands_of_random_problems(seed):
    fuzz_winograd(1000, seed)


@pytest.mark.slow
def test_without_avx512(tmp_path):
    """The code with vectors of 8 numbers, which other processors run, is correct."""
    done = subprocess.run(
        [sys.executable, "fuzz_onednn.py", "300", "9", "winograd"], cwd=HERE, text=True,
        capture_output=True, env=os.environ | {
            "PYTHONPATH": str(ROOT), "CNN_JAX_CACHE": str(tmp_path),
            "CXX": "g++ -mno-avx512f"})
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
