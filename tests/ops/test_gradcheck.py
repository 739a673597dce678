"""The gradient checks catch each kind of wrong gradient, with each of 20 seeds."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import pytest

from cnn_jax.ops import max_pool
from cnn_jax.ops.conv import conv_spec, im2col
from cnn_jax.ops.conv.spec import rotate, transposed
from cnn_jax.ops.conv.vjp import trilinear
from tests.support.gradcheck import equivalent, finite_differences, normal

SEEDS = range(20)


def wrong_conv(input_gradient=im2col.input_gradient,
               weight_gradient=im2col.weight_gradient):
    passes = trilinear(im2col.forward, input_gradient, weight_gradient)

    def conv(x, w):
        spec = conv_spec(x.shape, w.shape, (1, 1), ((1, 1), (1, 1)))
        return passes.forward(x, w, spec)
    return conv


def scaled_weight_gradient(x, g, spec):
    return 1.001 * im2col.weight_gradient(x, g, spec)


def swapped_weight_gradient(x, g, spec):
    return im2col.weight_gradient(x, g, spec).swapaxes(0, 1)


def permuted_weight_gradient(x, g, spec):
    return jnp.roll(im2col.weight_gradient(x, g, spec), 1, axis=-2)


def unrotated_input_gradient(g, w, spec):
    unrotated = lax.rev(rotate(w), (0, 1))
    return im2col.forward(g, unrotated, transposed(spec))


def swapped_input_gradient(g, w, spec):
    return im2col.input_gradient(g, w.swapaxes(0, 1), spec)


WRONG = {
    "dw off by 0.1 %": wrong_conv(weight_gradient=scaled_weight_gradient),
    "dw with H and W swapped": wrong_conv(weight_gradient=swapped_weight_gradient),
    "dw with channels permuted": wrong_conv(weight_gradient=permuted_weight_gradient),
    "dx by the kernel not rotated": wrong_conv(unrotated_input_gradient),
    "dx with H and W swapped": wrong_conv(swapped_input_gradient),
}


def arguments(seed):
    return normal(seed, 2, 5, 4, 3), normal(seed + 1000, 3, 3, 3, 2)


@pytest.mark.parametrize("kind", WRONG)
def test_finite_differences_catch_a_wrong_gradient(kind):
    for seed in SEEDS:
        with pytest.raises(AssertionError, match="finite differences"):
            finite_differences(WRONG[kind], *arguments(seed), seed=seed)


@pytest.mark.parametrize("kind", WRONG)
def test_equivalence_catches_a_wrong_gradient(kind):
    with jax.enable_x64(True), pytest.raises(AssertionError, match="relative errors"):
        equivalent(WRONG[kind], wrong_conv(), *arguments(0), tolerance=1e-5)


def test_a_gradient_of_nan_is_caught():
    def f(x, w):
        return x * jnp.sqrt(w)  # dw is infinite; its error has 0 * inf

    x = normal(0, 3)
    with pytest.raises(AssertionError, match="nan"):
        equivalent(f, f, x, jnp.zeros(3), tolerance=1.)


def test_correct_gradients_pass():
    conv = wrong_conv()  # compiled once
    for seed in SEEDS:
        finite_differences(conv, *arguments(seed), seed=seed)


def test_order_two_catches_errors_that_order_one_cannot():
    @jax.custom_vjp
    def square(x):
        return x * x

    # The first derivative is correct, but its own derivative is cut off.
    square.defvjp(lambda x: (x * x, x), lambda x, g: (2 * lax.stop_gradient(x) * g,))
    finite_differences(square, normal(0, 3))
    with pytest.raises(AssertionError, match="order 1"):
        finite_differences(square, normal(0, 3), order=2)


def tied_pool(x, tie):
    """Max-pools [N, H, W, C] by 2 x 2; the gradient goes to a chosen tie."""
    n, h, w, c = x.shape
    windows = x.reshape(n, h // 2, 2, w // 2, 2, c).transpose(0, 1, 3, 5, 2, 4)
    windows = windows.reshape(n, h // 2, w // 2, c, 4)
    if tie == "shared":
        return windows.max(-1)
    at = windows.argmax(-1) if tie == "first" else 3 - windows[..., ::-1].argmax(-1)
    return jnp.take_along_axis(windows, at[..., None], -1)[..., 0]


def test_a_wrong_tie_is_caught():
    x = jnp.asarray(normal(0, 2, 4, 6, 3) > 0, jnp.float32)  # many ties
    specification = functools.partial(max_pool, window=2, implementation="loops")
    equivalent(lambda x: tied_pool(x, "first"), specification, x, tolerance=1e-6)
    for tie in ("last", "shared"):
        with pytest.raises(AssertionError, match="relative errors"):
            equivalent(lambda x: tied_pool(x, tie), specification, x, tolerance=1e-6)
