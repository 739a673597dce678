"""The features before the last layer and their PCA plane equal cases by hand."""

import flax.linen as nn
import numpy as np
import pytest
from tests.support.inspected_runs import inspect_settings, inspected
from tests.support.small_network import PARAMS, PIXELS, Small

from cnn_jax import layers
from cnn_jax.inspection.draw.embedding import embedding, penultimate
from cnn_jax.inspection.draw.maximize import classes
from cnn_jax.inspection.explain.embedding import principal_plane
from cnn_jax.inspection.selection import NotForThisNetwork


def test_axes_of_the_plane_have_one_sign():
    """The axis of points along (3, 0, -1.5) has a positive largest loading."""
    t, s = np.array([-2.0, -1, 0, 1, 2]), np.array([1.0, -1, 0, -1, 1])
    values = np.stack([3 * t, 0.1 * s, -1.5 * t], axis=1) + 5
    points, explained = principal_plane(values)
    np.testing.assert_allclose(points[:, 0], t * np.sqrt(11.25), atol=1e-12)
    np.testing.assert_allclose(points[:, 1], 0.1 * s, atol=1e-12)
    np.testing.assert_allclose(explained, [112.5 / 112.54, 0.04 / 112.54])
    np.testing.assert_array_equal(principal_plane(-values).points[:, 0], -points[:, 0])


def test_a_plane_of_one_feature_and_of_equal_points():
    points, explained = principal_plane(np.array([[1.0], [3.0]]))
    np.testing.assert_allclose(points, [[-1, 0], [1, 0]])
    np.testing.assert_allclose(explained, [1, 0])
    assert not principal_plane(np.ones((4, 3))).points.any()


def test_features_are_the_input_of_the_last_layer():
    run = inspected(Small("relu"), {"params": PARAMS}, PIXELS, np.array([0, 1]))
    values, labels = penultimate(run)
    np.testing.assert_allclose(values, [[0, 0.5, 102], [0, 0, 100]])
    assert labels.tolist() == [0, 1]


class Pixels(nn.Module):
    """Predicts a class for each pixel, from features of half the height and width."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = layers.AvgPool((2, 2), (2, 2), "VALID", name="pool")(x)
        return layers.ConvTranspose(2, (2, 2), 2, name="head")(x)


def test_features_of_pixels_have_the_labels_of_their_places():
    images = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)
    labels = (np.arange(16) % 7).reshape(1, 4, 4).astype(np.uint8)
    params = {"head": {"kernel": np.ones((2, 2, 2, 1), np.float32),
                       "bias": np.zeros(2, np.float32)}}
    run = inspected(Pixels(), {"params": params}, images, labels, task="segment")
    values, labels = penultimate(run)
    corner = {2.5: 0, 4.5: 2, 10.5: 8, 12.5: 10}  # the mean is that of the first pixel
    assert {value: label for value, label in zip(values[:, 0].tolist(), labels)} == {
        mean: first % 7 for mean, first in corner.items()}


def test_a_network_without_a_head_has_no_plane():
    run = inspected(Headless(), {"params": {}}, np.ones((2, 4, 4, 1), np.uint8),
                    np.array([0, 1]))
    with pytest.raises(NotForThisNetwork, match="parameters"):
        list(embedding(run, inspect_settings()))


class OtherName(nn.Module):
    """Names its last layer as a user may; no parameters follow it."""

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Dense(3, name="fc1")(x.reshape(len(x), -1))
        return layers.Activation("tanh", name="last")(nn.Dense(2, name="fc2")(x))


def test_the_last_layer_may_have_another_name():
    pixels = np.array([[[[3], [1]]], [[[2], [7]]]], np.uint8)
    kernel = np.array([[1, 0, 2], [0, 3, 1]], np.float32)
    params = {"fc1": {"kernel": kernel, "bias": np.array([0, 1, 0], np.float32)},
              "fc2": {"kernel": np.ones((3, 2), np.float32),
                      "bias": np.zeros(2, np.float32)}}
    run = inspected(OtherName(), {"params": params}, pixels, np.array([0, 1]))
    assert run.last_layer == "fc2"
    np.testing.assert_allclose(penultimate(run)[0], [[3, 4, 7], [2, 22, 11]])
    assert len(list(embedding(run, inspect_settings()))) == 1
    picture, = classes(run, inspect_settings(steps=2))
    assert picture.arrays["images"].shape == (2, 1, 2, 1)


class Headless(nn.Module):
    """Has no layer with parameters."""

    @nn.compact
    def __call__(self, x, train: bool):
        return layers.GlobalAvgPool(name="pool")(x)


def test_images_with_several_classes_have_no_plane():
    run = inspected(Small("relu"), {"params": PARAMS}, PIXELS,
                    np.array([[1, 1], [0, 1]], np.uint8), task="multilabel")
    with pytest.raises(NotForThisNetwork, match="several"):
        list(embedding(run, inspect_settings()))
