"""Theoretical and effective receptive fields equal cases worked by hand."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import networks
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw.receptive_field import frame, intersection, size
from cnn_jax.inspection.explain.receptive_field import (PixelBox, effective_field,
                                                        fit_box, theoretical_field)
from cnn_jax.layers import Layers

PLAIN = Layers(conv="lax", pool="lax")


class Twice(nn.Module):
    """Two convolutions of 3 x 3, the second with two filters."""

    @nn.compact
    def __call__(self, x, train):
        x = PLAIN.convolution(1, (3, 3), padding="VALID", name="conv1")(x)
        return PLAIN.convolution(2, (3, 3), padding="VALID", name="conv2")(x)


ONES = {"params": {
    "conv1": {"kernel": jnp.ones((3, 3, 1, 1)), "bias": jnp.zeros(1)},
    "conv2": {"kernel": jnp.stack([jnp.ones((3, 3, 1)), -2 * jnp.ones((3, 3, 1))], -1),
              "bias": jnp.zeros(2)}}}
IMAGES = jnp.zeros((2, 9, 8, 1))


def test_the_theoretical_field_of_a_unit():
    # LeNet on 28 x 28: conv1 is padded by 2; a unit of conv2 sees 5 + 1 + 4 * 2 = 14
    # pixels, and its stride is 2.
    network = networks.create("lenet5", layers=PLAIN)
    field_at = functools.partial(theoretical_field, network, (28, 28, 1))
    assert field_at("conv1", (0, 3)) == PixelBox(-2, 1, 5, 5)
    assert field_at("conv2", (5, 2)) == PixelBox(8, 2, 14, 14)
    assert field_at("pool2", (0, 4)) == PixelBox(-2, 14, 16, 16)


def test_the_field_inside_a_separable_convolution():
    """conv1 and conv2 see 3 and 5 pixels, the pool 6, the next conv 6 + 2 * 2."""
    network = networks.create("separable_cnn", layers=PLAIN)
    field_at = functools.partial(theoretical_field, network, (28, 28, 1))
    for part in ("", "/depthwise", "/pointwise"):
        assert field_at(f"group2_conv1{part}", (0, 1)) == PixelBox(
            -4, -2, 10, 10)


def test_the_effective_field_of_two_convolutions():
    """Pixels in the middle have more paths to the unit: 1, 2, 3, 2, 1 along an axis."""
    ways = np.outer([1, 2, 3, 2, 1], [1, 2, 3, 2, 1])
    field = np.asarray(effective_field(Twice(), ONES, IMAGES, "conv2", (3, 1), (1,)))
    expected = np.zeros((9, 8))
    expected[3:8, 1:6] = 2 * ways
    np.testing.assert_allclose(field, expected)
    both = np.asarray(effective_field(Twice(), ONES, IMAGES, "conv2", (3, 1)))
    np.testing.assert_allclose(both, expected / 2)  # 1 - 2 of both filters together
    # Their spread is that of two fields of 3 pixels, variance 2/3 each.
    box = fit_box(field)
    side = np.sqrt(12 * (2 / 3 + 2 / 3) + 1)
    np.testing.assert_allclose(box, (5.5 - side / 2, 3.5 - side / 2, side, side))
    assert size(box) == "4.12 x 4.12"


def test_a_uniform_field_is_fitted_exactly():
    weights = np.zeros((10, 12))
    weights[2:7, 4:11] = 0.25
    np.testing.assert_allclose(fit_box(weights), PixelBox(2, 4, 5, 7))
    pixel = np.zeros((4, 4))
    pixel[1, 3] = 3
    np.testing.assert_allclose(fit_box(pixel), PixelBox(1, 3, 1, 1))
    assert fit_box(np.zeros((4, 4))) is None and size(None) == "unknown"


def test_layers_without_positions_have_no_field():
    network = networks.create("lenet5", layers=PLAIN)
    variables = jax.eval_shape(lambda: network.init(
        jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False))
    with pytest.raises(InputError, match="fc1 of LeNet5"):
        effective_field(network, variables, jnp.zeros((1, 28, 28, 1)), "fc1", (0, 0))


@pytest.mark.parametrize("box, limits, part", [
    (PixelBox(2, 3, 4, 4), ((-0.5, 7.5), (24.5, -0.5)), PixelBox(2, 3, 4, 4)),
    # Above the image one pixel is shown; below it 0.12 of the image, the maximum.
    (PixelBox(-1, 3, 40, 4), ((-0.5, 7.5), (27.5, -1.5)), PixelBox(-1, 3, 29, 4)),
    (None, ((-0.5, 7.5), (24.5, -0.5)), None)])
def test_a_part_of_a_field_beyond_the_image_is_shown(box, limits, part):
    from matplotlib.figure import Figure
    axes = Figure().subplots()
    shown = frame(axes, box, 25, 8)
    assert (axes.get_xlim(), axes.get_ylim()) == limits
    assert intersection(box, shown) == part
