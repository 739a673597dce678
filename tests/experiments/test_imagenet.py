"""The ImageNet configs are valid; a drawn set in ImageNet's layout trains."""

from pathlib import Path

import pytest
from absl import flags
from ml_collections import config_flags
from tests.support.pages import shown_file

from cnn_jax import data, optimizers
from cnn_jax.config import check
from cnn_jax.data.progressive import training_size
from cnn_jax.errors import InputError
from configs import imagenet
from experiments import fake_imagenet, imagenet_steps


@pytest.mark.parametrize("variant", imagenet.VARIANTS)
def test_configs_are_valid(variant):
    check(imagenet.get_config(variant))


@pytest.mark.parametrize("variant, sides", [
    ("resnet50_16", 12 * [160] + 4 * [192]), ("resnet50_40", 32 * [160] + 8 * [192])])
def test_images_grow_as_published(variant, sides):
    config = imagenet.get_config(variant)
    assert [training_size(config.progressive, epoch)[0]
            for epoch in range(config.epochs)] == sides


@pytest.mark.parametrize("variant, batch, rate", [
    ("resnet50_90", 256, 0.1), ("resnet50_16", 4096, 1.7), ("resnet50_40", 512, 0.2125),
    ("mobilenet_v2", 512, 0.09), ("mobilenet_v2_ema", 512, 0.09)])
def test_the_rate_is_scaled_with_the_batch_size(variant, batch, rate):
    config = imagenet.get_config(variant)
    config.batch_size = batch
    assert optimizers.peak_rate(config) == pytest.approx(rate)
    rates = optimizers.schedule(config, steps_per_epoch=100)
    warmup = config.schedule.warmup_epochs or 0
    assert float(rates(round(100 * warmup))) == pytest.approx(rate)
    assert float(rates(100 * config.epochs - 1)) < 0.01 * rate


def test_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match="resnet51.*resnet50_90"):
        imagenet.get_config("resnet51")


def as_published_by_kaggle(val, solution):
    """Moves the validation pictures into one folder; a table names their classes."""
    lines = ["ImageId,PredictionString"]
    for path in sorted(val.glob("*/*.JPEG")):
        lines.append(f"{path.stem},{path.parent.name} 10 20 30 40 ")
        path.rename(val / path.name)
    for folder in filter(Path.is_dir, list(val.iterdir())):
        folder.rmdir()
    solution.write_text("\n".join(lines))


def test_a_drawn_set_is_loaded_as_imagenet(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    root.parent.mkdir(parents=True)
    fake_imagenet.main([str(root), "--classes=2", "--images=5"])
    as_published_by_kaggle(root / "val", tmp_path / "LOC_val_solution.csv")
    monkeypatch.chdir(tmp_path)
    exec(shown_file("imagenet.md", "sort_val.py"), {})
    config = imagenet.get_config().data
    config.dir = str(root)
    config.image_size, config.shorter_side, config.validation_count = (24, 24), 32, 2
    dataset = data.load(config, 0)
    assert dataset.class_names == ("n00000001", "n00000002")
    assert dataset.train.images.shape == (8, 24, 24, 3)
    assert (len(dataset.validation.labels), len(dataset.test.labels)) == (2, 2)
    with pytest.raises(InputError):
        fake_imagenet.main([str(tmp_path), "--classes=1"])


@pytest.mark.parametrize("recipe", imagenet_steps.RECIPES)
def test_recipes_made_small_are_valid(tmp_path, recipe, monkeypatch):
    """They make about 200 steps and stop in mid-epoch, while growing images grow."""
    argv = imagenet_steps.command(recipe, tmp_path, tmp_path / "run")[1:]
    monkeypatch.setattr("sys.argv", argv)  # where ml_collections looks for overrides
    monkeypatch.chdir(imagenet_steps.ROOT)
    values = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=values)
    flags.DEFINE_string("workdir", None, "", flag_values=values)
    values(argv)
    config = values.config
    check(config)
    steps = config.data.limit // config.batch_size
    stop = imagenet_steps.RECIPES[recipe][1]
    assert 195 <= config.epochs * steps <= 210
    assert stop % steps and steps * config.batch_size == config.data.limit
    if config.progressive.sides:
        assert config.epochs == imagenet.get_config(recipe).epochs
        assert training_size(config.progressive, stop // steps) == (48, 48)


@pytest.mark.slow
def test_a_stop_and_a_resume_give_the_same_bits(tmp_path, monkeypatch, capsys):
    """It uses a small network, since a ResNet-50 takes a minute to compile."""
    recipe = "resnet50_16"
    monkeypatch.setattr(imagenet_steps, "SMALL", imagenet_steps.SMALL | {
        "model.name": "cifar_resnet20", "data.limit": 64})
    monkeypatch.setattr(imagenet_steps, "RECIPES", {recipe: (
        imagenet_steps.GROWING, 50)})
    imagenet_steps.main([str(tmp_path), recipe])
    output = capsys.readouterr().out
    assert f"{recipe}: " in output and "64 steps in 16 epochs" in output
    assert "after step 5" in output and "the same bits" in output
    assert "epoch 13: training images of 48 x 48 pixels" in output


def test_unknown_recipes_are_refused(tmp_path):
    with pytest.raises(InputError, match="resnet51.*resnet50_16"):
        imagenet_steps.main([str(tmp_path), "resnet51"])
