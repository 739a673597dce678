"""Finite differences in float64 for every operation: order 1 fast, order 2 slow.

Every hand-written backward is a `custom_vjp`, so only reverse mode is defined.
"""

import functools

import jax
from jax.test_util import check_grads
import pytest

from cnn_jax import ops
from experiments.device.operations import CONV, cases, conv_case
from tests.support.gradcheck import finite_differences, normal

SHAPES = [(2, 6, 5, 4), (1, 3, 7, 4), (3, 4, 4, 4), (2, 1, 1, 4)]
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
        # Layer norm bends so much where its four channels are nearly equal that JAX's
        # step of 1e-4 is too long: the difference grows with the square of the step.
        step = 1e-5 if name == "layer_norm" else None
        check_grads(f, args, order, modes=["rev"], atol=1e-6, rtol=1e-6, eps=step)


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
