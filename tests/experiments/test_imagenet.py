"""The ImageNet configs are valid; a set of that layout can be drawn and loaded."""

import pytest

from cnn_jax import data
from cnn_jax.config import check
from cnn_jax.errors import InputError
from configs import imagenet
from experiments import fake_imagenet


@pytest.mark.parametrize("variant", imagenet.VARIANTS)
def test_configs_are_valid(variant):
    check(imagenet.get_config(variant))


def test_unknown_variant_lists_the_known_ones():
    with pytest.raises(ValueError, match="resnet51.*resnet50_90"):
        imagenet.get_config("resnet51")


def test_a_drawn_set_is_loaded_as_imagenet(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    fake_imagenet.main([str(tmp_path / "set"), "--classes=2", "--images=5"])
    config = imagenet.get_config().data
    config.dir = str(tmp_path / "set")
    config.image_size, config.shorter_side, config.validation_count = (24, 24), 32, 2
    dataset = data.load(config, 0)
    assert dataset.class_names == ("n00000001", "n00000002")
    assert dataset.train.images.shape == (8, 24, 24, 3)
    assert (len(dataset.validation.labels), len(dataset.test.labels)) == (2, 2)
    with pytest.raises(InputError):
        fake_imagenet.main([str(tmp_path), "--classes=1"])
