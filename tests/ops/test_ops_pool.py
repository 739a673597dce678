"""Every implementation of pooling equals the loops, including ties and padding."""

import functools
import re

from flax import linen as nn
from hypothesis import assume, given, settings, strategies as st
import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec
import numpy as np
import pytest

from cnn_jax import ops
from tests.support.gradcheck import (compiled, equivalent, finite_differences, normal,
                                     relative_error)

FAST = ["windows", "lax", "auto"]


def ties(seed, *shape):
    """Draws small integers, so that most windows have their maximum more than once."""
    return np.random.default_rng(seed).integers(-2, 2, shape).astype(np.float64)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_any_pooling_equals_the_specification(data):
    draw = data.draw
    rank = draw(st.integers(1, 2))
    window = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    x = ties(draw(st.integers(0, 99)), draw(st.integers(0, 2)),
             *(draw(st.integers(1, 7)) for _ in range(rank)), 2)
    options = {"window": window, "ceil_mode": draw(st.booleans()),
               "strides": draw(st.none() | st.tuples(*[st.integers(1, 4)] * rank)),
               "dilation": draw(st.just(1) | st.tuples(*[st.integers(1, 3)] * rank)),
               "padding": draw(st.sampled_from(["SAME", "VALID"]) | st.tuples(*(
                   st.tuples(*[st.integers(0, k - 1)] * 2) for k in window)))}
    pool = ops.max_pool
    if draw(st.booleans()):
        pool = functools.partial(ops.avg_pool, count_include_pad=draw(st.booleans()))
    try:
        jax.eval_shape(functools.partial(pool, **options), x)
    except ValueError as error:
        assume("no tap" not in str(error))
        raise
    with jax.enable_x64(True):
        f, specification = (functools.partial(pool, implementation=name, **options)
                            for name in (draw(st.sampled_from(FAST)), "loops"))
        equivalent(f, specification, x, tolerance=1e-14)


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
def test_second_derivatives(name, pool):
    """The inputs have no ties, so that the maximum has second derivatives."""
    x = normal(0, 1, 5, 4, 2)

    def f(x):
        return pool(x, (3, 2), 2, "SAME", implementation=name) ** 3
    finite_differences(f, x, order=2)


@pytest.mark.parametrize("name", ["windows", "lax"])
@pytest.mark.parametrize("pool", [
    ops.max_pool, functools.partial(ops.avg_pool, count_include_pad=False)])
def test_dilated_windows_have_derivatives(name, pool):
    """They hold to second order, with a stride below and one above the dilation."""
    def f(x):
        return pool(x, (3, 2), (2, 3), ((3, 2), (1, 1)), ceil_mode=True,
                    implementation=name, dilation=(3, 2)) ** 3
    finite_differences(f, normal(0, 1, 7, 6, 2), order=2)


@pytest.mark.parametrize("name", ops.POOLS)
def test_indices_of_the_maxima(name):
    """They hold for ties, NaNs, padding and vmap; only the maximum has a gradient."""
    x = jnp.asarray(ties(0, 2, 6, 5, 3), jnp.float32)
    x = x.at[0, 1, 3, 0].set(jnp.nan).at[0, 2, 1, 0].set(jnp.nan)
    options = dict(window=(3, 2), strides=2, padding=1, dilation=(1, 2),
                   ceil_mode=True, implementation=name)

    @compiled
    def run(x):
        y, index = jax.vmap(functools.partial(ops.max_pool_with_indices, **options))(
            x[:, None])
        dx = jax.grad(lambda x: ops.max_pool_with_indices(x, **options)[0].sum())(x)
        return y[:, 0], index[:, 0], dx

    y, index, dx = run(x)
    assert index.dtype == jnp.int32
    flat = np.asarray(x).reshape(2, 30, 3)
    taken = np.take_along_axis(flat, np.asarray(index).reshape(2, -1, 3), axis=1)
    np.testing.assert_array_equal(taken.reshape(y.shape), y)
    expected = np.zeros(flat.shape)
    for n, c in np.ndindex(2, 3):
        np.add.at(expected[n, :, c], np.asarray(index)[n, ..., c].ravel(), 1)
    clean = slice(1, None)  # image 0 has NaNs
    np.testing.assert_array_equal(dx.reshape(flat.shape)[clean], expected[clean])
    assert index[0, 1, 1, 0] == 1 * 5 + 3 and jnp.isnan(y[0, 1, 1, 0])


@pytest.mark.parametrize("name, window, strides, padding", [
    pytest.param(name, *options, marks=[pytest.mark.slow] * ((i + j) % 2))
    for i, name in enumerate(FAST) for j, options in enumerate([
        (2, 2, "VALID"), (3, 2, "SAME"), (3, 1, "VALID"), ((2, 3), (2, 3), "SAME")])])
def test_equals_flax_and_transforms(name, window, strides, padding):
    x = jnp.asarray(normal(0, 3, 2, 8, 7, 3), jnp.float32)
    both = [(window,) * 2 if isinstance(window, int) else window,
            (strides,) * 2 if isinstance(strides, int) else strides]
    for ours, theirs in ((ops.max_pool, nn.max_pool), (ops.avg_pool, nn.avg_pool)):
        f = functools.partial(ours, window=window, strides=strides, padding=padding,
                              implementation=name)

        def reference(x):
            return theirs(x, *both, padding)
        for transform in (lambda f: jax.vmap(f), lambda f: jax.vmap(jax.grad(
                lambda x: jnp.sin(f(x)).sum()))):
            actual, expected = (compiled(transform(g))(x) for g in (f, reference))
            assert relative_error(actual, expected) <= 1e-6


@pytest.mark.parametrize("pool", [
    functools.partial(ops.max_pool, window=3, strides=2, padding="SAME"),
    functools.partial(ops.avg_pool, window=3, strides=2, padding="SAME"),
    ops.global_avg_pool, ops.global_max_pool])
def test_bfloat16_and_no_images(pool):
    pool = jax.jit(pool)
    x = jnp.asarray(normal(0, 2, 5, 5, 3), jnp.bfloat16)
    assert pool(x).dtype == jnp.bfloat16
    assert relative_error(pool(x), pool(x.astype(jnp.float32))) <= 1e-2
    empty, vjp = jax.vjp(pool, jnp.zeros((0, 5, 5, 3)))
    assert empty.shape[0] == 0 and vjp(empty)[0].shape == (0, 5, 5, 3)


def test_integers_and_infinities():
    x = jnp.array([[[[-9], [-7]], [[-8], [-5]]]])
    assert ops.max_pool(x, 2, 1, "SAME").ravel().tolist() == [-5, -5, -5, -5]
    x = jnp.full((1, 2, 2, 1), -jnp.inf)
    for name in ops.POOLS:
        assert ops.max_pool(x, 2, implementation=name).item() == -jnp.inf
        assert jnp.isnan(ops.max_pool(x.at[0, 0, 1].set(jnp.nan), 2,
                                      implementation=name)).item()


@pytest.mark.parametrize("padding", ["VALID", [(1, 1), (2, 1)]])
@pytest.mark.parametrize("name", ["windows", "auto", "loops"])
def test_a_window_of_nothing_but_minus_infinity_has_a_gradient(name, padding):
    x = jnp.full((1, 5, 6, 2), -jnp.inf)

    def gradient(x, name):
        y, vjp = jax.vjp(lambda x: ops.max_pool(
            x, 3, 2, padding, implementation=name), x)
        return y, *vjp(jnp.asarray(normal(0, *y.shape), y.dtype))

    y, dx = compiled(lambda x: gradient(x, name))(x)
    g = normal(0, *y.shape)
    assert relative_error(dx.sum((1, 2)), g.sum((1, 2))) <= 1e-6
    # All zeros, so all are ties.
    _, first = compiled(lambda x: gradient(x, "lax"))(jnp.zeros_like(x))
    assert relative_error(dx, first) <= 1e-6


@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
@pytest.mark.parametrize("window, strides", [(3, 2), (2, 2), (3, 1)])
def test_over_a_mesh_with_explicit_axes(pool, window, strides):
    mesh = jax.make_mesh((1,), ("batch",), axis_types=(AxisType.Explicit,))
    x = jnp.asarray(normal(0, 2, 9, 8, 3), jnp.float32)
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("batch")))
    step = jax.jit(jax.grad(lambda x: (pool(x, window, strides) ** 2).sum()))
    assert relative_error(step(split), step(x)) <= 1e-6


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA does on a CPU")
def test_the_backward_pass_of_overlapping_windows_reuses_the_indices():
    """XLA would fuse the search into it, which took 20 times as long in ResNet-50."""
    def loss(x):
        return (jnp.tanh(ops.max_pool(jax.nn.relu(3 * x), 3, 2)) ** 2).sum()

    x, step = jnp.zeros((2, 9, 9, 4)), jax.jit(jax.grad(loss))
    assert re.search(r"= s8\[2,4,4,4\]\S* call\(", step.lower(x).compile().as_text())
    elsewhere = jax.export.export(step, platforms=["cuda"])(x).mlir_module()
    assert "inlineable" not in elsewhere


@pytest.mark.parametrize("dtype", ["uint8", "int32", "bool"])
@pytest.mark.parametrize("name", ops.POOLS)
def test_the_mean_of_integers_is_float32(name, dtype):
    for x in ([200, 200, 200, 200], [1, 2, 3, 4], [255, 0, 254, 1]):
        x = np.array(x).astype(dtype)
        y = ops.avg_pool(jnp.asarray(x).reshape(1, 2, 2, 1), 2, implementation=name)
        assert y.dtype == jnp.float32 and y.item() == x.mean()


@pytest.mark.parametrize("name", FAST)
def test_pooling_integers_equals_the_specification(name):
    x = jnp.asarray(np.random.default_rng(0).integers(0, 256, (2, 7, 6, 3)), jnp.uint8)
    for pool in (ops.max_pool, ops.avg_pool):
        actual, expected = (compiled(functools.partial(
            pool, window=3, strides=2, padding="SAME", implementation=n))(x)
            for n in (name, "loops"))
        assert actual.dtype == expected.dtype
        assert relative_error(actual, expected) <= 1e-6


def test_windows_larger_than_auto_writes_out():
    x = jnp.asarray(normal(0, 1, 9, 9, 2), jnp.float32)
    for pool in (ops.max_pool, ops.avg_pool):
        auto, windows = (compiled(functools.partial(
            pool, window=9, implementation=name))(x) for name in ("auto", "windows"))
        assert relative_error(auto, windows) <= 1e-6  # 81 taps


@pytest.mark.parametrize("call, pattern", [
    (lambda: ops.max_pool(jnp.zeros((4, 4)), 2), r"\(4, 4\)"),
    (lambda: ops.max_pool(jnp.zeros((1, 4, 4, 1)), (2, 2, 2)), r"window \(2, 2, 2\)"),
    (lambda: ops.max_pool(jnp.zeros((1, 4, 4, 1)), 0), "window 0.*>= 1"),
    (lambda: ops.avg_pool(jnp.zeros((1, 4, 4, 1)), 2, -1), "strides -1"),
    (lambda: ops.avg_pool(jnp.zeros((1, 4, 4, 1)), 2, 2, 2), r"\(1, 4, 4, 1\).*less"),
    (lambda: ops.avg_pool(jnp.zeros((1, 4, 4, 1)), 2, 2, "FULL"), "'FULL'"),
    (lambda: ops.max_pool(jnp.zeros((1, 4, 4, 1)), 2, implementation="fast"),
     "'fast'.*loops, windows, lax, auto"),
    (lambda: ops.max_pool(jnp.zeros((1, 4, 4, 1), bool), 2),
     r"bool \(1, 4, 4, 1\)"),
    (lambda: ops.max_pool(jnp.zeros((1, 4, 4, 1)), 2, implementation=["lax"]),
     r"\['lax'\]"),
    (lambda: ops.max_pool(jnp.zeros((1, 4, 4, 1)), 2, ceil_mode="no"),
     "ceil_mode 'no'"),
    (lambda: ops.max_pool(jnp.zeros((1, 4, 4, 1)), 2, dilation=0), "dilation 0"),
    (lambda: ops.avg_pool(jnp.zeros((1, 4, 4, 1)), 2, 1, 3, dilation=2),
     r"\(1, 4, 4, 1\).*\(3, 3\)"),
    (lambda: ops.avg_pool(jnp.zeros((1, 2, 4, 1)), 2, 1, 3, dilation=3),
     r"\(1, 2, 4, 1\).*dilation \(3, 3\)"),
    (lambda: ops.avg_pool(jnp.zeros((1, 0, 4, 1)), 2, 1, 1),
     r"\(1, 0, 4, 1\).*padding"),
    (lambda: ops.global_max_pool(jnp.zeros((1, 0, 4, 1))), r"\(1, 0, 4, 1\)"),
])
def test_bad_input_is_one_clear_line(call, pattern):
    with pytest.raises(ValueError, match=pattern):
        call()
