"""Every field of a config has a rule, and every bad value gives one clear line."""

import json

import ml_collections
import pytest
from absl import flags
from ml_collections import config_flags

from cnn_jax import data, networks
from cnn_jax.cli.config_file import config_of
from cnn_jax.cli.overrides import accept_none
from cnn_jax.errors import InputError
from cnn_jax.config import (FIELDS, check, default_config, differences, fingerprint,
                            flat, from_json)
from configs import default, lenet, network

BAD = [
    ("seed", -1, "whole number from 0"),
    ("epochs", 0, "whole number from 1"),
    ("batch_size", -4, "whole number from 1"),
    ("batch_size", True, "whole number"),
    ("batch_size", 64.0, "whole number"),
    ("eval_batch_size", 0, "whole number"),
    ("dtype", "float16", "bfloat16, float32"),
    ("parallel", "pmpa", "jit, pmap"),
    ("devices", 0, "None"),
    ("steps_per_call", 0, "None"),
    ("coordinator", "localhost", "host:port"),
    ("coordinator", "localhost:70000", "host:port"),
    ("model.name", "lenet", "lenet5"),
    ("model.conv", "imcol", "im2col"),
    ("model.pool", "max", "windows"),
    ("model.init", "xavier", "keras"),
    ("model.bn", "tf", "keras"),
    ("model.remat", True, "lenet5"),
    ("model.num_classes", 200_000_000, "from 1 to 1000000"),
    ("model.fields", {"actvation": "tanh"}, "activation"),
    ("data.name", "mnst", "mnist"),
    ("data.name", "tfds:", "tfds:NAME"),
    ("data.image_size", (28,), "2 items"),
    ("data.image_size", (28, -28), "whole number"),
    ("data.image_size", (5000, 28), "4096"),
    ("data.image_size", (28.5, 28), "whole number"),
    ("data.channels", 2, "colour"),
    ("data.validation", -0.1, ">= 0"),
    ("data.validation", 10, "< 1"),
    ("data.validation_count", 0, "whole number from 1"),
    ("data.split", "shuffled", "stratified"),
    ("data.test", 1.0, "< 1"),
    ("data.limit", 0, "whole number"),
    ("data.scaling", "none", "unit"),
    ("data.seed", -1, "whole number"),
    ("data.biased_triangles", 1, "true or false"),
    ("data.biased_triangles", True, "shapes_colour and shapes_shape"),
    ("data.validation_is_test", True, "it is only for folder"),
    ("progressive.sides", (192, 160), "low <= high"),
    ("progressive.sides", (0, 160), "whole number from 1"),
    ("progressive.sides", 160, "(low, high)"),
    ("progressive.sides", (160, 192), "progressive.epochs = None go together"),
    ("progressive.epochs", (3, 5), "progressive.sides = None"),
    ("progressive.epochs", (5, 3), "low <= high"),
    ("progressive.multiple", 0, "whole number from 1"),
    ("augment.rotation_range", 200.0, "<= 180"),
    ("augment.zoom_range", 1.0, "< 1"),
    ("augment.fill_mode", "wrap", "nearest"),
    ("augment.horizontal_flip", 1, "true or false"),
    ("augment.crop_padding", 1000, "to 256"),
    ("augment.cutout", 2.5, "whole number"),
    ("augment.crop_scale", (0.0, 1.0), "> 0"),
    ("augment.crop_scale", (0.5, 0.2), "low <= high"),
    ("augment.crop_scale", 0.5, "(low, high)"),
    ("augment.crop_ratio", (0.75, float("inf")), "finite"),
    ("augment.brightness", -0.1, ">= 0"),
    ("augment.hue", 0.6, "<= 0.5"),
    ("augment.random_erasing", 1.5, "<= 1"),
    ("augment.trivial_augment", 1, "true or false"),
    ("augment.mixup", -0.1, ">= 0"),
    ("augment.cutmix", float("nan"), "finite"),
    ("loss.label_smoothing", 1.0, "< 1"),
    ("optimizer.name", "adagrad", "adamw"),
    ("optimizer.learning_rate", 0.0, "> 0"),
    ("optimizer.learning_rate", float("nan"), "finite"),
    ("optimizer.learning_rate", float("inf"), "finite"),
    ("optimizer.learning_rate", "0.1", "finite number"),
    ("optimizer.base_batch_size", 0, "whole number"),
    ("optimizer.momentum", 1.0, "< 1"),
    ("optimizer.weight_decay", -1e-4, ">= 0"),
    ("optimizer.clip_norm", float("nan"), "finite"),
    ("optimizer.accumulate_steps", 0, "whole number"),
    ("optimizer.ema_decay", 1.0, "< 1"),
    ("schedule.name", "exponential", "cosine"),
    ("schedule.boundaries_epochs", ("a",), "finite number"),
    ("schedule.warmup_epochs", 11.0, "config.epochs = 10"),
    ("schedule.factor", 0.0, "> 0"),
    ("schedule.final_factor", 2.0, "<= 1"),
    ("schedule.decay", -1e-6, ">= 0"),
    ("optimizer.decay_parts", 3, "string"),
    ("optimizer.decay_parts", "", "None"),
    ("epochs", None, "whole number from 1"),
    ("early_stopping.monitor", "val_acc", "val_accuracy"),
    ("early_stopping.patience", 0, "whole number"),
    ("checkpoint.monitor", "f1", "val_loss"),
    ("checkpoint.keep", 1, "whole number from 2"),
    ("log.every_steps", 0, "whole number"),
    ("inspect.images", 0, "whole number from 1 to 64"),
    ("inspect.layers", 3, "string"),
    ("inspect.position", (1,), "2 items"),
    ("inspect.position", (-1, 0), "whole number from 0"),
    ("inspect.noise", -0.1, ">= 0"),
    ("inspect.steps", 0, "whole number from 1"),
]


def with_value(field: str, value) -> ml_collections.ConfigDict:
    """Returns the default config with one field set to any value, whatever its type."""
    values = default.get_config().to_dict()
    part = values
    *parents, last = field.split(".")
    for key in parents:
        part = part[key]
    part[last] = value
    return ml_collections.ConfigDict(values)


@pytest.mark.parametrize("field,value,allowed", BAD)
def test_bad_value_is_refused_in_one_line(field, value, allowed):
    with pytest.raises(InputError) as error:
        check(with_value(field, value))
    message = str(error.value)
    assert field in message and allowed in message, message
    assert repr(value).lower() in message.lower(), message
    assert "\n" not in message


def test_the_nearest_names_come_first():
    with pytest.raises(InputError, match="vgg16.*--mode=list"):
        check(with_value("model.name", "vgg166"))


def test_good_configs_pass():
    check(default.get_config())
    for dataset in ("digits", "mnist", "fashion_mnist", "cifar10"):
        check(lenet.get_config(dataset))


def test_every_field_has_a_sentence_of_help_that_explains_none():
    assert set(flat(default_config())) == set(FIELDS)
    for name, field in FIELDS.items():
        assert field.help.endswith("."), name
        if field.default is None:
            assert "None " in field.help, name


def test_typo_in_a_file_is_refused_with_the_nearest_field():
    with pytest.raises(InputError, match="optimizer.lerning_rate.*learning_rate"):
        check(with_value("optimizer.lerning_rate", 0.1))


def test_missing_field_is_refused():
    values = default.get_config().to_dict()
    del values["optimizer"]["momentum"]
    with pytest.raises(InputError, match="optimizer.momentum"):
        check(ml_collections.ConfigDict(values))


def test_processes_need_a_number_each():
    config = default.get_config()
    config.coordinator = "127.0.0.1:1234"
    config.num_processes = 2
    with pytest.raises(InputError, match="process_id"):
        check(config)
    config.process_id = 1
    check(config)


def test_growing_images_reach_their_last_size():
    config = default.get_config()
    config.progressive.sides, config.progressive.epochs = (160, 192), (11, 13)
    with pytest.raises(InputError, match=r"epochs = \(11, 13\).*config.epochs = 10"):
        check(config)
    config.epochs = 14
    check(config)


def test_json_round_trip_has_no_differences():
    config = lenet.get_config("mnist")
    config.devices, config.inspect.position = 2, (1, 2)
    back = from_json(json.loads(config.to_json()))
    assert back.to_dict() == config.to_dict()
    assert differences(config, back) == []
    assert fingerprint(config) == fingerprint(back)


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_network_has_a_config_with_all_its_fields(name):
    config = network.get_config(name)
    check(config)
    back = from_json(json.loads(config.to_json()))
    assert (networks.from_config(back) == networks.from_config(config)
            == networks.create(name))
    assert config.data.image_size == networks.NETWORKS[name].input_shape[:2]


def test_differences_name_the_fields_that_matter():
    ours, theirs = default.get_config(), default.get_config()
    ours.optimizer.learning_rate = 0.5
    ours.devices = 3  # this changes where it runs, not what it computes
    assert differences(ours, theirs) == [
        "optimizer.learning_rate: 0.001 -> 0.5"]
    assert fingerprint(ours) != fingerprint(theirs)


@pytest.mark.parametrize("name", [*data.FOLDERS, "tfds:mnist", "mydata:photos"])
def test_data_dir_is_compared_only_if_it_identifies_the_data(name):
    ours, theirs = default.get_config(), default.get_config()
    for config, folder in ((ours, "a"), (theirs, "b")):
        config.data.name, config.data.dir = name, folder
    assert fingerprint(ours) != fingerprint(theirs)


def parse(monkeypatch, flag: str) -> ml_collections.ConfigDict:
    """Parses one flag as main.py does."""
    argv = ["main.py", flag]
    monkeypatch.setattr("sys.argv", argv)  # where ml_collections looks for overrides
    accept_none()
    values = flags.FlagValues()
    config = config_flags.DEFINE_config_dict(
        "config", default_config(), flag_values=values)
    values(argv)
    return config.value


@pytest.mark.parametrize("field,text,value", [
    ("devices", "2", 2), ("data.image_size", "(28,30)", (28, 30)),
    ("data.dir", "a b", "a b"), ("augment.horizontal_flip", "true", True),
    ("optimizer.clip_norm", "0.5", 0.5), ("optimizer.clip_norm", "2", 2.0),
    ("schedule.boundaries_epochs", "(1.0,)", (1.0,)),
    ("early_stopping.patience", "none", None), ("optimizer.momentum", "0", 0.0)])
def test_the_command_line_sets_every_type_and_none(monkeypatch, field, text, value):
    config = parse(monkeypatch, f"--config.{field}={text}")
    assert flat(config)[field] == value
    assert type(flat(config)[field]) is type(value)
    check(config)


def test_a_field_that_a_config_file_unsets_can_be_set():
    assert lenet.get_config().early_stopping.patience is None
    config = config_of("configs/lenet.py", ["early_stopping.patience=3"])
    assert config.early_stopping.patience == 3


def test_the_command_line_refuses_another_type(monkeypatch):
    with pytest.raises(flags.IllegalFlagValueError, match="config.devices"):
        parse(monkeypatch, "--config.devices=two")


def test_json_of_other_types_is_refused_with_the_field():
    values = json.loads(default_config().to_json())
    values["seed"] = "3"
    with pytest.raises(InputError, match="config.seed = '3'"):
        from_json(values)
