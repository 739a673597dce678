"""Activation maximization equals closed forms of linear units."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import quick_jit

from cnn_jax import networks
from cnn_jax.inspection.explain.maximize import (AscentConfig, blur, maximize,
                                                 penalty)
from cnn_jax.layers import Flatten, Layers
from cnn_jax.networks.trace import features

PLAIN = Layers(conv="lax", pool="lax")
SHAPE = (5, 4, 2)


class Linear(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(3, name="head")(Flatten(name="flatten")(x))


WEIGHTS = np.asarray(jax.random.normal(jax.random.key(0), (3, *SHAPE)))


@quick_jit
def ascend(weights, filters, input_range=(0.0, 1.0), rate=0.1, jitter=0, l2=0.0):
    """Takes forty steps on linear units with weights [3, H, W, C], in one program."""
    params = {"head": {"kernel": weights.reshape(3, -1).T, "bias": jnp.zeros(3)}}
    config = AscentConfig(40, rate, jitter=jitter, blur=0.0, l2=l2, variation=0.0)
    return maximize(Linear(), {"params": params}, filters, jax.random.key(1), "head",
                    SHAPE, input_range, config)


def test_a_linear_unit_is_largest_in_a_corner():
    """It is white where its weight is positive and black elsewhere, in input units."""
    peaks = ascend(WEIGHTS, np.array([2, 0]), (-1.0, 3.0), rate=9.0)
    chosen = WEIGHTS[[2, 0]]
    np.testing.assert_allclose(peaks.images, np.where(chosen > 0, 3.0, -1.0), atol=1e-5)
    np.testing.assert_allclose(
        peaks.last, np.where(chosen > 0, 3 * chosen, -chosen).sum((1, 2, 3)), rtol=1e-5)
    assert (peaks.last > 2 * np.abs(peaks.first) + 1).all()


def test_l2_balances_the_ascent():
    """The ascent ends where n(w) = 2 l2 (u - 1/2), as far as 0..1 allows."""
    peaks = ascend(WEIGHTS, np.array([1, 0]), rate=0.3, l2=1.5)
    slope = WEIGHTS[1] / np.sqrt((WEIGHTS[1] ** 2).mean())
    np.testing.assert_allclose(peaks.images[0], np.clip(0.5 + slope / 3, 0, 1),
                               atol=1e-3)


def test_filters_are_maximized_independently():
    """A filter's image is reproducible, and does not depend on other filters."""
    together = ascend(WEIGHTS, np.array([0, 1]), rate=0.01)
    swapped = ascend(WEIGHTS, np.array([0, 2]), rate=0.01)
    np.testing.assert_array_equal(together.images[0], swapped.images[0])
    assert np.abs(together.images[1] - swapped.images[1]).max() > 0.1


def test_jitter_is_undone():
    """The image moves before each step and back after it: a sum of all pixels is not
    affected."""
    ones = np.ones_like(WEIGHTS)
    still = ascend(ones, np.array([0, 1]), rate=0.01)
    moved = ascend(ones, np.array([0, 1]), rate=0.01, jitter=3)
    np.testing.assert_allclose(still.images, moved.images, atol=1e-6)
    other = ascend(WEIGHTS, np.array([0, 1]), rate=0.01, jitter=3)
    assert np.abs(other.images - ascend(WEIGHTS, np.array([0, 1]), rate=0.01).images
                  ).max() > 0.01


def test_the_penalty_by_hand():
    u = jnp.array([[0.5, 0.75], [0.0, 0.5]])[..., None]
    # Differences down the columns: 0.5 and 0.25; along the rows: 0.25 and 0.5.
    assert float(penalty(u, AscentConfig(l2=2.0, variation=3.0))) == pytest.approx(
        2 * (0.25 ** 2 + 0.5 ** 2) + 3 * (0.5 + 0.25 + 0.25 + 0.5))


def test_blur_spreads_a_pixel_and_keeps_constants():
    point = np.zeros((7, 6, 1), np.float32)
    point[3, 2] = 1
    run = quick_jit(blur)
    blurred = np.asarray(run(point, np.float32(1.0)))[..., 0]
    bell = np.exp(-0.5 * np.arange(-2, 3) ** 2)
    bell /= bell.sum()
    np.testing.assert_allclose(blurred[1:6, 0:5], np.outer(bell, bell), atol=1e-6)
    flat = np.full((4, 3, 2), 0.3, np.float32)
    np.testing.assert_allclose(run(flat, np.float32(2.0)), flat, rtol=1e-6)
    np.testing.assert_allclose(run(point, np.float32(0.0)), point, atol=1e-6)


def test_the_values_of_a_network_rise_at_least_threefold():
    """Filters behind a ReLU and a pool are compared with 20 images of noise.

    The input's range is -1..1, so grey is 0 and only a pattern can raise the values.
    """
    network = networks.create("ai_edu_shape_cnn", layers=PLAIN)
    shape = (12, 12, 1)
    noise = 2 * 0.05 * jax.random.normal(jax.random.key(2), (20, *shape))

    @quick_jit
    def run(key):
        variables = network.init(key, noise, train=False)
        peaks = maximize(network, variables, jnp.arange(6), key, "conv2", shape,
                         (-1.0, 1.0), AscentConfig(steps=48), position=(2, 1))
        on_noise = features(network, variables, noise)["conv2"][:, 2, 1, :6]
        return peaks, on_noise

    peaks, on_noise = run(jax.random.key(0))
    assert peaks.images.shape == (6, *shape)
    assert peaks.images.min() >= -1 and peaks.images.max() <= 1
    typical = np.sqrt(np.mean(np.square(on_noise), 0))
    assert (peaks.last > 3 * typical).all(), peaks.last / typical
    assert (peaks.last > np.maximum(peaks.first, on_noise.max(0))).all()
