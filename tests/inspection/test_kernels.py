"""Kernels and feature maps show the arrays of networks of every kind."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.inspected_runs import inspect_settings, inspected
from tests.support.quick_compile import quick_jit

from cnn_jax import networks
from cnn_jax.data.scaling import Scaling
from cnn_jax.inspection.draw.feature_maps import feature_maps
from cnn_jax.inspection.draw.kernels import first_layer
from cnn_jax.inspection.explain.kernels import kernel_images
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import NotForThisNetwork, chosen_layers
from cnn_jax.layers import Layers
from cnn_jax.networks.named_layers import default_layers, layers_of, with_followers
from cnn_jax.networks.trace import features

PLAIN = Layers(conv="lax", pool="lax")


def run_of(network, shape, count=2) -> InspectedRun:
    """Inspects a network with its first parameters, on random pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, *shape), np.uint8)
    variables = quick_jit(lambda key: network.init(
        key, jnp.zeros((1, *shape)), train=False))(jax.random.key(0))
    return inspected(network, jax.tree.map(np.asarray, variables), pixels,
                     np.arange(count) % 2, Scaling(0.0, 1 / 255), shown=count)


def known(name, shape, **fields):
    network = networks.create(name, layers=PLAIN, **fields)
    variables = jax.eval_shape(lambda: network.init(
        jax.random.key(0), jnp.zeros((1, *shape)), train=False))
    return layers_of(network, variables, shape)


@pytest.mark.parametrize("name, fields, shape, kernel, caption", [
    ("mnist_cnn", {}, (10, 10, 1), (3, 3, 1, 32), "32 of 32 kernels of 3 x 3"),
    ("shapes_fcn", {"widths": (5, 4)}, (8, 8, 3), (3, 3, 3, 5), "red, green and blue"),
    ("shapes_fcn", {"widths": (5, 4)}, (8, 8, 4), (3, 3, 4, 5), "5 of 5 kernels"),
    ("ai_edu_shape_dnn", {}, (6, 5, 1), (6, 5, 1, 64), "64 of 128 units of a dense")])
def test_the_kernels_of_the_first_layer(name, fields, shape, kernel, caption):
    run = run_of(networks.create(name, layers=PLAIN, **fields), shape)
    picture, = first_layer(run, inspect_settings())
    kernels = picture.arrays["kernels"]
    assert kernels.shape == kernel and caption in picture.caption
    first = run.variables["params"][picture.title.split()[-1]]["kernel"]
    np.testing.assert_array_equal(
        kernels, first.reshape(*kernel[:3], -1)[..., :kernel[3]])
    drawn = [axes.images[0].get_array() for axes in picture.figure.axes if axes.images]
    if shape[2] == 3:  # grey is 0, and the largest weight is at an end of its colour
        assert np.abs(np.stack(drawn) - 0.5).max() == pytest.approx(0.5)
        np.testing.assert_allclose(
            drawn[1] - 0.5, kernels[..., 1] / (2 * np.abs(kernels).max()), atol=1e-6)
    else:
        np.testing.assert_allclose(drawn[0], kernels[..., 0, 0], atol=1e-6)


def test_a_dense_layer_that_reads_no_pixels_has_no_images():
    class Dense(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            return nn.Dense(2, name="head")(x.reshape(x.shape[0], -1))

    with pytest.raises(NotForThisNetwork, match="head"):
        list(first_layer(run_of(Dense(), (4, 4, 1)), inspect_settings()))


def test_kernels_of_every_kind_as_images():
    """They are [h, w, input channels, filters], whatever the layout of the layer."""
    rng = np.random.default_rng(1)
    sparse = known("lenet5_1998", (32, 32, 1))["c3"]
    kernel = rng.normal(size=sparse.kernel)
    full, caption = kernel_images(sparse, kernel, {})
    assert full.shape == (5, 5, 6, 16) and "some of the channels" in caption
    np.testing.assert_allclose(full[..., :3, 0], kernel[..., [0, 1, 2]])
    assert not full[..., 3:, 0].any() and full[..., 15].all()

    up = known("shapes_fcn", (8, 8, 3))["decoder_up1"]
    kernel = rng.normal(size=up.kernel)  # [4, 4, features 32, channels 64]
    turned, caption = kernel_images(up, kernel, {})
    assert turned.shape == (4, 4, 64, 32) and "transposed" in caption
    np.testing.assert_array_equal(turned[..., 5, 7], kernel[..., 7, 5])

    depthwise = known("mobilenet_v1", (32, 32, 3))["stage1_layer1_depthwise/conv"]
    assert "depthwise" in kernel_images(
        depthwise, rng.normal(size=depthwise.kernel), {})[1]
    grouped = known("alexnet", (67, 67, 3))["conv2"]
    assert "in 2 groups, each reads 48" in kernel_images(
        grouped, rng.normal(size=grouped.kernel), {})[1]


@pytest.mark.parametrize("name, shape, first, stage", [
    ("lenet5", (28, 28, 1), "conv1", ["conv1", "act1", "pool1"]),
    ("tf2_alexnet8", (32, 32, 3), "conv1/conv",
     ["conv1/conv", "conv1/bn", "conv1/act", "pool1"]),
    ("cifar_resnet20", (8, 8, 3), "stage2_block1/conv1",
     ["stage2_block1/conv1", "stage2_block1/bn1", "stage2_block1/act1"]),
    # The pool of an inception cell reads the cell's input, not the layer before it.
    ("tf2_inception10", (8, 8, 3), "block1_cell1/c2/conv",
     [f"block1_cell1/c2/{name}" for name in ("conv", "bn", "act")])])
def test_the_stages_after_a_convolution(name, shape, first, stage):
    layers = known(name, shape)
    assert [layer.name for layer in with_followers(layers[first], layers)] == stage


@pytest.mark.parametrize("name, shape, without, count", [
    ("cifar_resnet20", (8, 8, 3), r"stage\d_block\d/conv2", 10),
    # No activation directly follows a layer whose output is summed or concatenated.
    ("resnet18_v2", (32, 32, 3), r"stage\d_block\d/conv2", 9),
    pytest.param("mobilenet_v2", (32, 32, 3), r".*/project/conv", 35,
                 marks=pytest.mark.slow),
    ("lenet5", (28, 28, 1), "nothing", 2)])
def test_layers_with_an_activation_are_shown(name, shape, without, count):
    layers = known(name, shape)
    names = [layer.name for layer in default_layers(layers)]
    assert len(names) == count
    assert not any(re.fullmatch(without, name) for name in names)


def test_a_network_without_activations_shows_what_it_has():
    class Linear(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = PLAIN.convolution(2, (3, 3), name="conv1")(x)
            return nn.Dense(2, name="head")(x.mean((1, 2)))

    run = run_of(Linear(), (4, 4, 1))
    assert [layer.name for layer in chosen_layers(run, inspect_settings())] == ["conv1"]


def test_feature_maps_hold_what_the_layers_compute():
    run = run_of(networks.create("lenet5", layers=PLAIN, activation="relu"),
                 (16, 16, 1))
    settings = inspect_settings(layers="conv2", filters="3,15")
    picture, = feature_maps(run, settings)
    values = features(run.network, run.variables, run.images)
    assert list(picture.arrays) == ["images", "filters", "kernel", "conv2", "act2",
                                    "pool2"]
    for name in ("conv2", "act2", "pool2"):
        np.testing.assert_allclose(picture.arrays[name], values[name][..., [3, 15]],
                                   atol=1e-6)
    np.testing.assert_array_equal(
        picture.arrays["kernel"],
        run.variables["params"]["conv2"]["kernel"][..., [3, 15]])
    titles = [axes.get_title() for axes in picture.figure.axes]
    assert titles.count("relu") == titles.count("mean pool") == 2
    assert "10 x 10" in picture.caption and "6 channels" in picture.caption
