"""The tutorials' configs are valid and have the published sizes and training."""

import importlib
import re

import jax
import numpy as np
import pytest

from cnn_jax import networks
from cnn_jax.data.batches import steps_per_epoch
from cnn_jax.networks.summary import layer_table
from cnn_jax.layers import INITIALIZERS
from cnn_jax.config import check
from configs import cifar10, default, fashion, mnist, monkeys, segmentation, shapes
from experiments.published import EXPERIMENTS, Experiment, one_run

FILES = {"shapes": shapes, "mnist": mnist, "fashion": fashion, "cifar10": cifar10,
         "monkeys": monkeys, "segmentation": segmentation}


def config_of(experiment: Experiment):
    name, variant = re.fullmatch(r"(\w+)\.py:(\w+)", experiment.config).groups()
    return importlib.import_module(f"configs.{name}").get_config(variant)


def test_every_variant_is_an_experiment_and_the_reverse():
    variants = {f"{name}_{variant}": f"{name}.py:{variant}"
                for name, file in FILES.items() for variant in file.VARIANTS}
    rows = {name: row.config for name, row in EXPERIMENTS.items()
            if not name.startswith("lenet_") and row.protocol == "held_out"}
    assert rows == variants


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_config_is_valid_and_of_the_published_size(name):
    experiment = EXPERIMENTS[name]
    config = config_of(experiment)
    if experiment.folder:
        config.data.dir = experiment.folder
    check(config)
    shape = networks.NETWORKS[config.model.name].input_shape
    size = config.data.image_size or shape[:2]
    classes = 10 if experiment.folder else None  # of the monkeys, not of ImageNet
    channels = config.data.channels or shape[2]
    table = layer_table(networks.from_config(config, classes), (*size, channels))
    assert table.params == experiment.params


@pytest.mark.parametrize("file", FILES)
def test_unknown_variant_lists_the_known_ones(file):
    with pytest.raises(ValueError, match="selv.*there are [a-z]"):
        FILES[file].get_config("selv")


# optimizer, rate, batch size, epochs, validation images, which of them, scaling,
# initial values; from the tutorials' code and text.
PUBLISHED = {
    "shapes_colour_dnn": ("sgd", 0.01, 16, 100, 500, "first", "minmax", "ai_edu_msra"),
    "shapes_colour_cnn": ("sgd", 0.1, 16, 20, 500, "first", "minmax", "ai_edu_msra"),
    "shapes_shape_dnn": ("sgd", 0.1, 16, 50, 500, "first", "minmax", "ai_edu_msra"),
    "shapes_shape_cnn": ("sgd", 0.1, 16, 50, 500, "first", "minmax", "ai_edu_msra"),
    "shapes_both_dnn": (
        "momentum", 0.01, 16, 50, 540, "first", "minmax", "ai_edu_msra"),
    "shapes_both_cnn": ("sgd", 0.1, 16, 20, 540, "first", "minmax", "ai_edu_msra"),
    "mnist_keras": ("adam", 0.001, 128, 15, 6000, "last", "unit", "keras"),
    "mnist_cnn": ("momentum", 0.1, 128, 5, 5000, "first", "minmax", "ai_edu_xavier"),
    "mnist_dnn": ("sgd", 0.2, 128, 40, 5000, "first", "minmax", "ai_edu_xavier"),
    "fashion_selu": ("sgd", 0.01, 32, 10, 5000, "first", "standard", "keras"),
    "fashion_separable": ("sgd", 0.01, 32, 10, 5000, "first", "standard", "keras"),
    "fashion_dnn": ("momentum", 0.1, 128, 10, 5000, "first", "minmax", "ai_edu_msra"),
    "fashion_cnn": (
        "momentum", 0.01, 128, 10, 5000, "first", "minmax", "ai_edu_xavier"),
    "cifar10_baseline": ("adam", 0.001, 32, 5, 5000, "last", "unit", "keras"),
    "cifar10_lenet5": ("adam", 0.001, 32, 5, 5000, "last", "unit", "keras"),
    "cifar10_alexnet8": ("adam", 0.001, 32, 5, 5000, "last", "unit", "keras"),
    "cifar10_vgg16": ("adam", 0.001, 32, 5, 5000, "last", "unit", "keras"),
    "cifar10_inception10": ("adam", 0.001, 1024, 5, 5000, "last", "unit", "keras"),
    "cifar10_resnet18": ("adam", 0.001, 128, 4, 5000, "last", "unit", "keras"),
    "cifar10_keras": ("rmsprop", 0.0001, 32, 10, 5000, "last", "unit", "keras"),
    "cifar10_keras_25": ("rmsprop", 0.0001, 32, 25, 5000, "last", "unit", "keras"),
}
TRAINING_IMAGES = {"shapes_colour": 5000, "shapes_shape": 5000, "shapes_both": 5400,
                   "mnist": 60_000, "fashion_mnist": 60_000, "cifar10": 50_000}


def test_no_faithful_row_is_left_out():
    faithful = {name for name, row in EXPERIMENTS.items()
                if not name.endswith(("_ours", "_published"))
                and row.published is not None}
    assert faithful == set(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_trained_as_published(name):
    config = config_of(EXPERIMENTS[name])
    validation = config.data.validation_count or (
        config.data.validation * TRAINING_IMAGES[config.data.name])
    assert PUBLISHED[name] == (
        config.optimizer.name, config.optimizer.learning_rate, config.batch_size,
        config.epochs, round(validation), config.data.split, config.data.scaling,
        config.model.init)
    assert dict(config.augment) == dict(default.get_config().augment) | (
        {"width_shift_range": 0.1, "height_shift_range": 0.1, "horizontal_flip": True,
         "fill_mode": "nearest"} if name.startswith("cifar10_keras") else {})
    assert config.schedule.name == ("inverse" if "keras" in name and "cifar" in name
                                    else "constant")


def test_settings_of_single_experiments():
    """They have 1,719 steps as Keras printed, L2 on one kernel, early stopping."""
    selu = fashion.get_config("selu")
    assert steps_per_epoch(60_000 - 5000, selu.batch_size) == 1719
    stop = selu.early_stopping
    assert (stop.monitor, stop.patience, stop.min_delta) == ("val_loss", 5, 1e-3)
    resnet = cifar10.get_config("resnet18").optimizer
    assert (resnet.weight_decay, resnet.decay_parts) == (0.02, "head")
    assert mnist.get_config("dnn").early_stopping.patience is None
    assert cifar10.get_config("keras").schedule.decay == 1e-6
    assert cifar10.get_config("inception10").model.fields.batch_statistics is False
    monkeys_config = monkeys.get_config()
    assert (monkeys_config.optimizer.name, monkeys_config.optimizer.learning_rate,
            monkeys_config.batch_size, monkeys_config.epochs, monkeys_config.seed,
            monkeys_config.data.scaling) == ("adam", 0.001, 64, 10, 7, "unit")


@pytest.mark.parametrize("shape,deviation,bound", [
    ((5, 5, 8, 16), 2 ** 0.5, 0.6 ** 0.5),
    ((3, 3, 8, 32), 2 ** 0.5, 1.0),
    ((784, 128), 0.125, (6 / 912) ** 0.5)])
def test_initial_values_are_those_of_the_tutorials_code(shape, deviation, bound):
    normal, uniform = (np.asarray(INITIALIZERS[name].kernel(jax.random.key(0), shape))
                       for name in ("ai_edu_msra", "ai_edu_xavier"))
    assert np.std(normal) == pytest.approx(deviation, rel=0.05)
    assert 0.98 * bound < np.abs(uniform).max() <= bound
    assert np.std(uniform) == pytest.approx(bound / 3 ** 0.5, rel=0.05)


def test_band_of_one_run():
    """The band is 2 sqrt(0.9 * 0.1 / 900) = 0.02, or a larger fall between epochs."""
    assert one_run(0.9, 900)[:2] == (0.9, 0.02)
    assert "900 test images" in one_run(0.9, 900)[2]
    assert one_run(0.9, 900, fall=0.05)[1] == 0.05
    assert one_run(0.9, 900, fall=0.01)[1] == 0.02


def test_our_recipes_must_reach_the_published_accuracy():
    for name, row in EXPERIMENTS.items():
        if name.endswith("_ours"):
            assert row.published == EXPERIMENTS[name.removesuffix("_ours")].published
            assert row.band == 0
        if row.published is not None:
            assert row.reason and 0 <= row.band < 0.15
