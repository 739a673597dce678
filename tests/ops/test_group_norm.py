"""Group norm and layer norm equal Flax, cases worked by hand and finite differences."""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import networks, ops
from cnn_jax.layers import Layers
from cnn_jax.layers.modules import group_count
from cnn_jax.networks.residual import ResidualBlock
from tests.support.gradcheck import (compiled, equivalent, finite_differences, normal,
                                     relative_error)

SHAPE = (3, 4, 5, 6)


def arguments(*shape):
    return normal(0, *shape) + 2, normal(1, shape[-1]), normal(2, shape[-1])


def of_flax(module, x, scale, bias):
    return module.apply({"params": {"scale": scale, "bias": bias}}, x)


CASES = {
    "groups": (functools.partial(ops.group_norm, groups=3),
               nn.GroupNorm(3, epsilon=1e-5, param_dtype=jnp.float64)),
    "image": (functools.partial(ops.group_norm, groups=1),
              nn.GroupNorm(1, epsilon=1e-5, param_dtype=jnp.float64)),
    "channels": (ops.layer_norm, nn.LayerNorm(param_dtype=jnp.float64)),
}


@pytest.mark.parametrize("ours, theirs", CASES.values(), ids=CASES)
def test_equals_flax_in_values_and_gradients(ours, theirs):
    with jax.enable_x64(True):
        for shape in (SHAPE, (4, 12)):
            equivalent(ours, functools.partial(of_flax, theirs), *arguments(*shape),
                       tolerance=1e-12)


@pytest.mark.parametrize("norm", [ops.layer_norm,
                                  functools.partial(ops.group_norm, groups=2)])
def test_gradients_equal_finite_differences_to_second_order(norm):
    finite_differences(norm, *arguments(2, 3, 2, 4), order=2)


def test_by_hand():
    """Two images of two pixels: the groups of image 0 are (1 2 / 3 6), (5 5 / 5 9)."""
    x = jnp.array([[[1, 2, 5, 5], [3, 6, 5, 9]], [[0, 0, 1, 3], [0, 0, 1, 3]]], float)
    scale, bias = jnp.array([1., 2, 1, -1]), jnp.array([0., 0, 10, 0])
    y = ops.group_norm(x, scale, bias, groups=2, eps=0.5)
    # Means 3 and 6, variances 3.5 and 3; with eps 0.5 the divisors are 2 and sqrt(3.5).
    a = np.sqrt(3.5)
    np.testing.assert_allclose(
        y[0], [[-1, -1, 10 - 1 / a, 1 / a], [0, 3, 10 - 1 / a, -3 / a]], rtol=1e-6)
    b = np.sqrt(1.5)  # for the second image: 1 3 / 1 3
    np.testing.assert_allclose(y[1], [[0, 0, 10 - 1 / b, -1 / b]] * 2, rtol=1e-6)
    # Channels of the first pixel, 1 2 5 5: mean 3.25, variance 3.1875.
    z = (np.array([1, 2, 5, 5]) - 3.25) / np.sqrt(3.1875 + 1)
    np.testing.assert_allclose(ops.layer_norm(x, scale, bias, eps=1.)[0, 0],
                               z * np.asarray(scale) + np.asarray(bias), rtol=1e-6)


def test_a_large_mean_keeps_the_variance_exact():
    """In float32, the mean of x^2 minus the square of the mean would be noise."""
    x = jnp.asarray(normal(0, 2, 8, 8, 4) + 3000, jnp.float32)
    expected = (x - x.mean((1, 2, 3), keepdims=True)) / x.std((1, 2, 3), keepdims=True)
    y = ops.group_norm(x, jnp.ones(4), jnp.zeros(4), groups=1)
    assert relative_error(y, expected) <= 1e-3


@pytest.mark.parametrize("norm", [ops.layer_norm,
                                  functools.partial(ops.group_norm, groups=2)])
def test_bfloat16_and_no_images(norm):
    x, scale, bias = (jnp.asarray(a, jnp.bfloat16) for a in arguments(4, 5, 5, 4))
    y = norm(x, scale, bias)
    wide = norm(*(a.astype(jnp.float32) for a in (x, scale, bias)))
    assert y.dtype == jnp.bfloat16 and relative_error(y, wide) <= 1e-2
    assert norm(x[:0], scale, bias).shape == (0, 5, 5, 4)


@pytest.mark.parametrize("call, pattern", [
    (lambda x, c: ops.group_norm(x, c, c, 4), r"groups 4.*6 channels.*\(2, 3, 6\)"),
    (lambda x, c: ops.group_norm(x, c, c, 0), "groups 0"),
    (lambda x, c: ops.group_norm(x, c[:2], c, 2), r"group norm.*scale.*\(2,\)"),
    (lambda x, c: ops.layer_norm(x, c, c[:1]), r"layer norm.*bias.*\(1,\)"),
    (lambda x, c: ops.layer_norm(x.astype(int), c, c), r"layer norm.*int\d+ \(2, 3"),
])
def test_bad_input_is_one_clear_line(call, pattern):
    with pytest.raises(ValueError, match=pattern):
        call(jnp.zeros((2, 3, 6)), jnp.zeros(6))


@pytest.mark.parametrize("preset", ["group_norm", "layer_norm"])
def test_resnets_without_batch_norm(preset):
    """They have the parameters of the usual ones, and no running statistics."""
    ours, usual = (jax.eval_shape(functools.partial(
        networks.create("resnet18", 5, Layers(bn=bn)).init, train=False),
        jax.random.key(0), jnp.zeros((1, 32, 32, 3))) for bn in (preset, "paper"))
    assert ours.keys() == {"params"} and ours["params"] == usual["params"]


def test_a_block_normalizes_each_image_separately():
    block = ResidualBlock(8, layers=Layers(bn="group_norm"))
    x = jnp.asarray(normal(0, 3, 6, 6, 8), jnp.float32)

    @compiled
    def run(x):
        params = block.init(jax.random.key(0), x, train=False)
        return (block.apply(params, x, train=True),
                block.apply(params, x[1:2], train=False))
    all_three, alone = run(x)
    assert relative_error(all_three[1:2], alone) <= 1e-5


def test_no_group_is_a_single_channel():
    for channels, groups in ((64, 32), (48, 16), (16, 8), (6, 2), (2, 1), (1, 1)):
        assert group_count(32, channels) == groups
