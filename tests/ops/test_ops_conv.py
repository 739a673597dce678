"""Convolution as an operation: transformations, layers, named operations, bad input."""

import functools
import itertools
import sys

from flax import linen as nn
from hypothesis import given, settings, strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import ops
from cnn_jax.ops.conv import numba as conv_numba
from tests.support.gradcheck import compiled, equivalent, normal, relative_error
from tests.support.quick_compile import QUICK_FLAGS, flags_for
from tests.support.tiny_runs import end, start_module

BY_HAND = [name for name in ops.ALGORITHMS if name != "lax"]
DN = ("NHWC", "HWIO", "NHWC")


def f32(seed, *shape):
    return jnp.asarray(normal(seed, *shape), jnp.float32)


def skip_without_numba(name):
    if name == "numba":
        pytest.importorskip("numba")


def conv(name, **options):
    return functools.partial(ops.correlate, implementation=name, **options)


def loss(f):
    return lambda x, w: jnp.sum(jnp.sin(f(x, w)))


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.data())
def test_any_shape_equals_the_specification(data):
    draw = data.draw
    rank = draw(st.integers(1, 3))
    largest = 3 if rank == 3 else 5  # the specification is slow

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(rank))
    groups, c, m = (draw(st.integers(1, 2)) for _ in range(3))
    x = normal(0, draw(st.integers(0, 2)), *each(1, largest), groups * c)
    w = normal(1, *each(1, 3), c, groups * m)
    strides, dilation, pads = each(1, 3), each(1, 2), each(0, 3)
    padding = draw(st.sampled_from(["SAME", "VALID", tuple(zip(pads, pads[::-1]))]))
    name = draw(st.sampled_from(["im2col", "taps", "banded", "fft", "auto"]))
    with jax.enable_x64(True):
        f, specification = (conv(n, strides=strides, padding=padding, groups=groups,
                                 dilation=dilation) for n in (name, "loops"))
        equivalent(f, specification, x, w, tolerance=1e-13)


@pytest.mark.parametrize("name", BY_HAND)
def test_transformations_give_the_same_values(name):
    skip_without_numba(name)
    x, w = f32(0, 3, 2, 5, 4, 4), f32(1, 3, 3, 4, 4)  # three batches
    ours, theirs = (conv(n, padding="SAME") for n in (name, "lax"))
    for transform in (
            lambda f: jax.vmap(f, (0, None)),
            lambda f: jax.vmap(jax.grad(loss(f), (0, 1)), (0, None)),
            lambda f: jax.grad(jax.checkpoint(loss(jax.vmap(f, (0, None)))), (0, 1))):
        actual, expected = (compiled(transform(f))(x, w) for f in (ours, theirs))
        for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
            assert relative_error(a, b) <= 5e-6
    per_kernel = jax.vmap(ours, (None, 0))(x[0], jnp.stack([w, 2 * w]))
    assert relative_error(per_kernel[1], 2 * theirs(x[0], w)) <= 5e-6


@pytest.mark.parametrize("name", BY_HAND + ["lax"])
def test_a_float32_bias_on_bfloat16(name):
    skip_without_numba(name)
    args = [f32(0, 2, 5, 4, 3).astype(jnp.bfloat16),
            f32(1, 3, 3, 3, 4).astype(jnp.bfloat16), f32(2, 4)]

    gradient = compiled(jax.grad(lambda *a: jnp.sin(conv(name)(*a)).sum(), (0, 1, 2)))
    actual, exact = gradient(*args), gradient(*(a.astype(jnp.float32) for a in args))
    assert [a.dtype for a in actual] == [a.dtype for a in args]
    for a, b in zip(actual, exact):
        assert relative_error(a, b) <= 2e-2


@pytest.mark.parametrize("cases", ["few", pytest.param("all", marks=pytest.mark.slow)])
def test_sharded_inputs_give_the_same_values(cases):
    code, output, errors = end(start_module(
        "tests.support.sharded_operations", cases, variables={
            "JAX_ENABLE_X64": "1", "XLA_FLAGS": f"{flags_for(2)} {QUICK_FLAGS}"}))
    assert code == 0 and "sharded values are the same" in output, errors[-3000:]


@pytest.mark.parametrize("name", BY_HAND)
def test_any_implementation_plugs_into_flax(name):
    skip_without_numba(name)
    x = f32(0, 2, 6, 5, 3)

    def network(f):
        return nn.Conv(4, (3, 3), conv_general_dilated=f)
    variables = network(None).init(jax.random.key(0), x)
    actual, expected = (compiled(network(f).apply)(variables, x)
                        for f in (ops.conv_general_dilated(name), None))
    assert relative_error(actual, expected) <= 5e-6


def test_the_loops_train_a_tiny_network():
    x, labels = f32(0, 4, 5, 5, 1), jnp.array([0, 1, 1, 0])
    params = {"w": .5 * f32(1, 3, 3, 1, 2), "b": jnp.zeros(2), "d": f32(2, 2, 2)}

    @jax.jit
    def step(params):
        def mean_loss(p):
            h = jax.nn.relu(ops.correlate(x, p["w"], p["b"], implementation="loops"))
            h = ops.global_avg_pool(ops.max_pool(h, 2, 1, implementation="loops"))
            return ops.softmax_cross_entropy(ops.dense(h, p["d"]), labels).mean()
        value, grads = jax.value_and_grad(mean_loss)(params)
        return value, jax.tree.map(lambda p, g: p - .5 * g, params, grads)

    losses = []
    for _ in range(10):
        value, params = step(params)
        losses.append(float(value))
    assert losses[-1] < losses[0] - .01, losses


def test_other_layouts_are_lax_layouts():
    x, w = f32(0, 2, 3, 6, 5), f32(1, 4, 3, 3, 2)
    for numbers in (None, ("NCHW", "OIHW", "NHWC"), ("NCHW", "OIHW", "CHWN")):
        actual, expected = (ops.conv_general_dilated(name)(
            x, w, (1, 2), "SAME", dimension_numbers=numbers)
            for name in ("im2col", "lax"))
        assert relative_error(actual, expected) <= 5e-6


# Operations made of convolutions.

@pytest.mark.parametrize("name, stride, padding, extra, dilation, groups", [
    pytest.param(name, *options, marks=[pytest.mark.slow] * ((i + j) % 5 > 1))
    for i, name in enumerate(["loops", "im2col", "fft", "lax", "auto"])
    for j, options in enumerate([
        (1, "VALID", 0, 1, 1), (2, 0, 1, 1, 2),
        ((3, 2), ((1, 2), (0, 1)), (2, 0), 1, 1), (2, "SAME", 0, 1, 4),
        (2, 1, 0, 2, 1)])])
def test_transposed_convolution_is_the_gradient(name, stride, padding, extra, dilation,
                                                groups):
    x, w = f32(0, 2, 3, 4, 8), f32(1, 3, 2, 4 // groups, 8)
    y = ops.conv_transpose(x, w, None, stride, padding, extra, dilation, groups, name)
    if padding == "SAME":
        assert y.shape == (2, 6, 8, 4)
    forward = functools.partial(ops.correlate, w=w, strides=stride, padding=padding,
                                dilation=dilation, groups=groups,
                                implementation="lax")
    expected, = jax.linear_transpose(forward, jnp.zeros_like(y))(x)
    assert relative_error(y, expected) <= 5e-6


@pytest.mark.parametrize("name", ["loops", "im2col", "lax", "auto"])
@pytest.mark.parametrize("stride, dilation, low, high, extra", [
    (1, 2, 0, 0, 1), (2, 3, 1, 2, 2), (2, 5, 0, 3, 3), (3, 2, 1, 0, 2)])
def test_output_padding_by_definition(name, stride, dilation, low, high, extra):
    """Each x w adds to y[s p + d k - lo], also if the stride is below the dilation."""
    x, w = f32(0, 2, 4, 3), f32(1, 3, 5, 3)
    size = 3 * stride + 2 * dilation + 1 - low - high + extra
    expected = np.zeros((2, size, 5))
    for p, k in itertools.product(range(4), range(3)):
        if 0 <= (at := stride * p + dilation * k - low) < size:
            expected[:, at] += np.asarray(x[:, p] @ w[k].T)
    y = ops.conv_transpose(x, w, None, stride, ((low, high),), extra, dilation,
                           implementation=name)
    assert y.shape == expected.shape and relative_error(y, expected) <= 5e-6


def test_depthwise_and_separable_by_definition():
    x, w, p = f32(0, 2, 5, 5, 3), f32(1, 3, 3, 1, 6), f32(2, 6, 4)
    y = ops.depthwise_conv(x, w, padding="SAME")
    for c in range(3):  # channel c has the kernels 2 c and 2 c + 1
        one = ops.correlate(x[..., c:c + 1], w[..., 2 * c:2 * c + 2], padding="SAME",
                            implementation="loops")
        assert relative_error(y[..., 2 * c:2 * c + 2], one) <= 5e-6
    whole = ops.separable_conv(x, w, p, padding="SAME")
    assert relative_error(whole, y @ p) <= 5e-6
    assert relative_error(ops.pointwise_conv(y, p), y @ p) <= 5e-6


# Bad input.

X, W = jnp.zeros((2, 6, 5, 4)), jnp.zeros((3, 3, 4, 8))


@pytest.mark.parametrize("name", ops.ALGORITHMS)
@pytest.mark.parametrize("call, pattern", [
    (lambda f: f(X[0], W, (1, 1), "SAME"), r"\(6, 5, 4\).*\(3, 3, 4, 8\).*rank"),
    (lambda f: f(X[..., :3], W, (1, 1), "SAME"),
     r"\(2, 6, 5, 3\).*\(3, 3, 4, 8\).*3 channels.*4 x 1 groups"),
    (lambda f: f(X, W[:, :, :2], (1, 1), "SAME", feature_group_count=3),
     "2 x 3 groups"),
    (lambda f: f(X, W[:, :, :2, :7], (1, 1), "SAME", feature_group_count=2),
     "7 output channels.*2 groups"),
    (lambda f: f(X, W, (1, 1), "SAME", feature_group_count=0), "count 0.*>= 1"),
    (lambda f: f(X, W[:0], (1, 1), "SAME"), r"\(0, 3, 4, 8\).*tap"),
    (lambda f: f(X, W, (0, 1), "SAME"), r"window_strides \(0, 1\)"),
    (lambda f: f(X, W, (1, 1, 1), "SAME"), r"window_strides \(1, 1, 1\).*2 integers"),
    (lambda f: f(X, W, (1, 1), "SAME", rhs_dilation=(1, -1)), "rhs_dilation"),
    (lambda f: f(X, W, (1, 1), "FULL"), "'FULL'.*'SAME'"),
    (lambda f: f(X, W, (1, 1), ((1, 1),)), r"padding \(\(1, 1\),\).*pair"),
    (lambda f: f(X, W, (1, 1), ((-9, 1), (0, 0))), "-9, 1.*cuts"),
    (lambda f: f(X, W, (1, 1), "SAME", lhs_dilation=(2, 1)), "lhs_dilation"),
    (lambda f: f(X, W.astype(jnp.bfloat16), (1, 1), "SAME"), "dtype"),
])
def test_bad_input_is_one_clear_line(name, call, pattern):
    f = functools.partial(ops.conv_general_dilated(name), dimension_numbers=DN)
    with pytest.raises(ValueError, match=pattern) as error:
        call(f)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["winograd", "fft"])
def test_integers_that_would_be_rounded_are_refused(name):
    for call in (lambda: ops.correlate(X.astype(int), W.astype(int),
                                       implementation=name),
                 lambda: ops.conv_transpose(X.astype(int), W.astype(int).swapaxes(2, 3),
                                            implementation=name)):
        with pytest.raises(ValueError, match=f"'{name}'.*int"):
            call()


def test_problems_that_a_callback_cannot_solve_are_refused_early():
    pytest.importorskip("numba")
    with pytest.raises(ValueError, match="'numba'.*at most 3"):
        ops.correlate(jnp.zeros((1, 2, 2, 2, 2, 1)), jnp.zeros((1, 1, 1, 1, 1, 1)),
                      implementation="numba")
    with pytest.raises(ValueError, match="complex64"):
        ops.correlate(X.astype(complex), W.astype(complex), implementation="loops")


OPERATIONS = {
    "correlate": (ops.correlate, (X, W)),
    "conv_transpose": (ops.conv_transpose, (X, W.swapaxes(2, 3))),
    "depthwise": (ops.depthwise_conv, (X, W[:, :, :1])),
    "separable": (ops.separable_conv, (X, W[:, :, :1], W[0, 0].T)),
    "max_pool": (functools.partial(ops.max_pool, window=2), (X,)),
    "avg_pool": (functools.partial(ops.avg_pool, window=2), (X,))}
BAD_OPTIONS = [
    {"strides": (1.5, 2)}, {"strides": 1.5}, {"strides": True}, {"strides": "2"},
    {"strides": (1, 1, 1)}, {"strides": 0}, {"padding": ((1.5, 1), (1, 1))},
    {"padding": 1.5}, {"padding": None}, {"padding": True}, {"padding": "FULL"},
    {"padding": ((1, 1, 1),) * 2}, {"dilation": 1.5}, {"dilation": (1, 2.)},
    {"groups": True}, {"groups": 1.}, {"groups": None}, {"window": (2.7, 2)},
    {"window": True}, {"window": [2, None]}, {"output_padding": .5},
    {"output_padding": (-1, 0)}, {"output_padding": True}]


def takes(name, option):
    if name in ("max_pool", "avg_pool"):
        return option in ("window", "strides", "padding")
    if name in ("depthwise", "separable") and option == "groups":
        return False
    return option != "window" and (name == "conv_transpose"
                                   or option != "output_padding")


@pytest.mark.parametrize("name, options", [
    (name, options) for name in OPERATIONS for options in BAD_OPTIONS
    if takes(name, *options)])
def test_a_bad_option_is_named_with_the_shapes(name, options):
    (option, value), = options.items()
    f, args = OPERATIONS[name]
    with pytest.raises(ValueError) as error:
        f(*args, **options)
    line = str(error.value)
    assert option in line and repr(value) in line and "\n" not in line
    for shape in [a.shape for a in args[:2]]:  # or its depthwise part
        assert str(shape) in line


@pytest.mark.parametrize("name", OPERATIONS)
def test_numpy_integers_are_integers(name):
    f, args = OPERATIONS[name]
    options = {"strides": np.int64(2), "padding": ((np.int64(1), 0), np.array([0, 1]))}
    if name == "correlate":
        options["groups"] = np.int64(1)
    elif name == "conv_transpose":
        options |= {"groups": np.int32(1), "output_padding": (np.int8(1), 0)}
    elif name.endswith("pool"):
        options["window"] = np.array([2, 3])
    plain = {key: jax.tree.map(lambda a: np.asarray(a).tolist(), value)
             for key, value in options.items()}
    assert jax.eval_shape(lambda *a: f(*a, **options), *args) == jax.eval_shape(
        lambda *a: f(*a, **plain), *args)


@pytest.mark.parametrize("name", ["correlate", "conv_transpose", "depthwise",
                                  "separable", "pointwise"])
def test_bad_operands_are_named(name):
    f, args = OPERATIONS.get(name) or (ops.pointwise_conv, (X, W[0, 0]))
    x, w, *rest = args
    one_axis = 1 if name == "pointwise" else 0  # its w does not give the rank of x
    bad = [(x[(0,) * i], w) for i in range(1 + one_axis, 5)]
    bad += [(x, w[0]), (x[..., :3], w), (x.astype(jnp.bfloat16), w)]
    for x, w in bad:
        with pytest.raises(ValueError) as error:
            f(x, w, *rest)
        line = str(error.value)
        assert str(x.shape) in line and str(w.shape)[1:] in line
        assert "-1 integers" not in line and "\n" not in line
    for b in ([0.] * 8, 0., jnp.zeros(5), jnp.zeros((1, 8))):
        with pytest.raises(ValueError, match=r"x \(2, .*bias"):
            f(*args, b)


def test_unsupported_convolutions_are_refused():
    f = ops.conv_general_dilated("winograd")
    with pytest.raises(ValueError, match="winograd.*3 x 3.*stride 1"):
        f(X, W, (2, 2), "SAME", dimension_numbers=DN)
    with pytest.raises(ValueError, match="batch_group_count"):
        ops.conv_general_dilated("taps")(
            X, W, (1, 1), "SAME", dimension_numbers=DN, batch_group_count=2)
    with pytest.raises(ValueError, match=r"XLA.*padding.*\(-1, 3\)"):
        ops.conv_general_dilated("auto")(
            X, W, (1, 1), ((-1, 3), (0, 0)), dimension_numbers=DN,
            preferred_element_type=jnp.float32)
    with pytest.raises(ValueError, match=r"x \(.*pointwise"):
        ops.separable_conv(X, W[:, :, :1], W[0, 0])
    with pytest.raises(ValueError, match="'wino'.*loops, numba"):
        ops.correlate(X, W, implementation="wino")
    with pytest.raises(ValueError, match="output_padding"):
        ops.conv_transpose(X, W.swapaxes(2, 3), output_padding=1)
    with pytest.raises(ValueError, match="padding"):
        ops.conv_transpose(X[:, :1, :1], W[..., :4], padding=2)


def test_without_numba_there_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    conv_numba._compiled.cache_clear()
    with pytest.raises(ValueError, match="pip install numba"):
        jax.jit(functools.partial(ops.correlate, implementation="numba"))(X, W)
    conv_numba._compiled.cache_clear()


def test_four_spatial_axes():
    x, w = f32(0, 1, 4, 4, 3, 4, 2), f32(1, 2, 2, 2, 2, 2, 3)
    expected = ops.correlate(x, w, implementation="im2col")
    for name in ("lax", "auto"):
        y = ops.correlate(x, w, implementation=name)
        assert relative_error(y, expected) <= 1e-5, name
