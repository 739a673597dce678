"""Weights, activations and dead units equal cases worked by hand."""

import numpy as np
import pytest
from tests.support.inspected_runs import inspect_settings, inspected
from tests.support.small_network import PARAMS, PIXELS, Small

from cnn_jax import layers
from cnn_jax.inspection.draw import activation_stats as drawn
from cnn_jax.inspection.explain import activation_stats as stats

LABELS = np.array([0, 1])


@pytest.mark.parametrize("kind,dead", [
    ("relu", [True, False, False]),      # below zero in every image
    ("relu6", [True, False, True]),      # and above six
    ("sigmoid", [True, False, True]),    # saturated
    ("tanh", [True, False, True]),
    ("lecun_tanh", [True, False, True]),
    ("selu", [True, False, False]),      # a slope of exp(-97) counts as 0
])
def test_dead_units_of_a_network_by_hand(kind, dead):
    run = inspected(Small(kind), {"params": PARAMS}, PIXELS, LABELS)
    pictures = {picture.name: picture
                for picture in drawn.activations(run, inspect_settings())}
    assert pictures["dead_units"].arrays["act"].tolist() == dead
    assert f"{sum(dead)} units of 3 " in pictures["dead_units"].alt
    expected = layers.ACTIVATIONS[kind](np.float32([-99, -97, 0.5, -2.5, 102, 100]))
    values = pictures["activations"].arrays["act"]
    assert np.abs(values[:, None] - np.asarray(expected)[None]).min(1).max() < 1e-5


def test_a_unit_that_lives_in_one_image_is_not_dead():
    slope = np.array([[0, 0, 0.5], [0, 1e-3, 0], [1e-7, 0, 0]])
    assert stats.is_dead(slope).tolist() == [True, False, False]


def test_weights_are_those_of_the_kernels_in_order():
    params = dict(reversed(PARAMS.items()))
    run = inspected(Small("relu"), {"params": params}, PIXELS, LABELS)
    picture, = drawn.weights(run, inspect_settings())
    assert list(picture.arrays) == ["fc", "head"]
    np.testing.assert_array_equal(picture.arrays["fc"], [1, -1, 0, 0, 0.5, 1])
    assert len(stats.subsample(np.arange(10), 4)) == 4


def test_values_whose_squares_overflow_have_a_deviation():
    values = {"fc": np.array([-1e30, 1e30, 3e30], np.float32)}
    assert "1.6e+30" in drawn.describe_values(values, "kernel")


def test_histograms_of_a_deep_network_show_its_ends():
    names = [f"layer{i}" for i in range(61)]
    shown = [axes.get_title().split("\n")[0] for axes in drawn.histograms(
        dict.fromkeys(names, np.arange(3.0)), str).axes]
    assert len(shown) == 24 and (shown[0], shown[-1]) == ("layer0", "layer60")
    dead = {name: np.arange(61) < i for i, name in enumerate(names)}
    assert drawn.deadest(dead) == names[21:]  # those with the most dead units
    picture = drawn.draw_dead(dead, "3 images")
    assert "40 of 61" in picture.caption and "1830 units of 3,721" in picture.alt
