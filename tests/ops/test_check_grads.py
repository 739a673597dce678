"""Finite differences in float64 for every operation: order 1 fast, order 2 slow.

Every hand-written backward is a `custom_vjp`, so only reverse mode is defined.
"""

import functools

import jax
from jax.test_util import check_grads
import numpy as np
import pytest

from cnn_jax import ops
from tests.support.gradcheck import finite_differences, normal

SHAPES = [(2, 6, 5, 4), (1, 3, 7, 4), (3, 4, 4, 4), (2, 1, 1, 4)]
CONV = functools.partial(ops.correlate, padding="SAME")


def distinct(seed, *shape):
    """Draws values at least 0.1 apart, so that a finite step changes no maximum."""
    size = int(np.prod(shape))
    return np.random.default_rng(seed).permutation(size).reshape(shape) * .1 - size / 20


def conv_case(shape):
    return normal(0, *shape), normal(1, 3, 3, 4, 2), normal(2, 2)


def cases(shape):
    """Returns {name: (function of arrays, arrays)}."""
    x, c = normal(0, *shape), shape[-1]
    n, m = shape[0], shape[2]  # rows and classes: (2, 5), (1, 7), (3, 4), (2, 1)
    channel = normal(3, c), normal(4, c)
    table = {f"conv {name}": (functools.partial(CONV, implementation=name),
                              conv_case(shape))
             for name in ops.ALGORITHMS if name not in ("loops", "numba")}
    table |= {
        "conv stride dilation groups": (
            functools.partial(CONV, strides=(2, 1), dilation=(1, 2), groups=2),
            (x, normal(1, 3, 2, 2, 4))),
        "convolve": (functools.partial(ops.convolve, padding=2), conv_case(shape)),
        "conv_transpose": (
            functools.partial(ops.conv_transpose, strides=2, output_padding=1),
            (x, normal(1, 3, 2, 3, 4), normal(2, 3))),
        "depthwise": (functools.partial(ops.depthwise_conv, padding="SAME"),
                      (x, normal(1, 3, 3, 1, 8))),
        "pointwise": (ops.pointwise_conv, (x, normal(1, 4, 3))),
        "separable": (functools.partial(ops.separable_conv, padding="SAME", strides=2),
                      (x, normal(1, 3, 3, 1, 4), normal(2, 4, 3), normal(3, 3))),
        "global_avg_pool": (ops.global_avg_pool, (x,)),
        "global_max_pool": (ops.global_max_pool, (distinct(0, *shape),)),
        "batch_norm": (lambda *a: ops.batch_norm(*a)[0],
                       (normal(0, 3, *shape[1:]), *channel)),
        "batch_norm mean": (lambda *a: ops.batch_norm(*a)[1], (x, *channel)),
        "batch_norm var": (lambda *a: ops.batch_norm(*a)[2], (x, *channel)),
        "batch_norm_inference": (
            ops.batch_norm_inference,
            (x, normal(5, c), normal(6, c) ** 2 + 1, *channel)),
        "local_response_norm": (
            functools.partial(ops.local_response_norm, alpha=.5), (x,)),
        "dense": (ops.dense, (normal(0, n, 4), normal(1, 4, m), normal(2, m))),
        "cross entropy": (lambda z: ops.softmax_cross_entropy(
            z, np.arange(n) % m), (normal(0, n, m),)),
        "cross entropy soft": (
            ops.softmax_cross_entropy, (normal(0, n, m), normal(1, n, m) ** 2)),
    }
    for name in ops.POOLS:
        pools = {
            "avg_pool": functools.partial(ops.avg_pool, window=3, strides=2,
                                          count_include_pad=False),
            "max_pool": functools.partial(ops.max_pool, window=3, strides=2),
            "max_pool disjoint": functools.partial(ops.max_pool, window=2)}
        table |= {f"{pool} {name}": (
            functools.partial(f, padding="SAME", implementation=name),
            (distinct(0, *shape),)) for pool, f in pools.items()}
    return table


NAMES = list(cases(SHAPES[0]))


@pytest.mark.parametrize("name", NAMES)
def test_order_one(name):
    f, args = cases(SHAPES[0])[name]
    finite_differences(f, *args)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_check_grads(name, shape, order):
    if shape == SHAPES[3] and name == "batch_norm var":
        pytest.skip("the slope of a variance that is clipped at 0")
    if order == 2 and name.endswith("loops"):
        pytest.skip("a callback, which has no second derivative")
    with jax.enable_x64(True):
        f, args = cases(shape)[name]
        args = tuple(jax.numpy.asarray(a) for a in args)
        check_grads(f, args, order, modes=["rev"], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["loops", "numba"])
@pytest.mark.parametrize("shape", [SHAPES[0], *(
    pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES[1:3]), SHAPES[3]])
def test_order_two_of_the_loops(name, shape):
    if name == "numba":
        pytest.importorskip("numba")
    finite_differences(functools.partial(CONV, implementation=name), *conv_case(shape),
                       order=2)


def test_operations_without_a_derivative_raise_an_error():
    x, w = normal(0, 1, 4, 4, 2).astype("f4"), normal(1, 3, 3, 2, 2).astype("f4")

    def conv(w):
        return ops.correlate(x, w, implementation="im2col")
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(conv, (w,), (w,))
    with pytest.raises(ValueError, match="[Pp]ure callbacks"):
        pool = functools.partial(ops.max_pool, window=2, implementation="loops")
        jax.grad(lambda x: jax.grad(lambda x: (pool(x) ** 2).sum())(x).sum())(x)
