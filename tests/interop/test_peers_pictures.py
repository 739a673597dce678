"""Pictures are prepared as by torchvision, timm and Keras, pixel by pixel.

Needs the `peers` extra; then, in the environment that has it:
KERAS_BACKEND=jax python -m pytest -n 0 -m slow tests/interop/test_peers_pictures.py
"""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from PIL import Image

from cnn_jax.data.images import Preprocessing, read_image
from cnn_jax.interop.pretrained import PRETRAINED

os.environ.setdefault("KERAS_BACKEND", "jax")
torch = pytest.importorskip("torch", reason="needs the `peers` extra: torch")
torchvision = pytest.importorskip("torchvision", reason="needs the `peers` extra")
functional = pytest.importorskip("torchvision.transforms.v2.functional")
timm = pytest.importorskip("timm", reason="needs the `peers` extra: timm")
keras = pytest.importorskip("keras", reason="needs the `peers` extra: keras")
pytestmark = pytest.mark.slow

# Largest difference of a pixel, in levels of 255. The peers' float pixels are rounded
# to float32.
ROUNDING = 1e-4
# torchvision resizes tensors by other code than Pillow images.
ON_TENSORS = {"bilinear": 1, "bicubic": 1}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Lists two photographs, each wide and upright, and four of the monkeys."""
    folder, images = tmp_path_factory.mktemp("pictures"), []
    for path in (Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"):
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(
            folder / f"{path.stem}.png")
        images += [path, folder / f"{path.stem}.png"]
    root = os.environ.get("CNN_JAX_DATA")
    monkeys = sorted(Path(root, "monkey_species").rglob("*.jpg")) if root else []
    return images + monkeys[:1000:250]


def preparations(library):
    """Lists a source for each way in which a library prepares pictures."""
    seen = {}
    for source, row in PRETRAINED.items():
        if row.library == library:
            seen.setdefault((row.preprocessing, row.scaling), source)
    return list(seen.values())


def their_transforms(source):
    """Makes the library's own transforms; returns them, their mean and deviation."""
    library, name, *weights = source.split(":")
    if library == "torchvision":
        made = torchvision.models.get_model_weights(name)[
            weights[0] if weights else "IMAGENET1K_V1"].transforms()
        return made, made.mean, made.std
    config = timm.data.resolve_data_config(
        pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict(),
        use_test_size=True)
    return (timm.data.create_transform(**config, is_training=False), config["mean"],
            config["std"])


@pytest.mark.parametrize("source", preparations("torchvision") + preparations("timm"))
def test_pixels_are_those_of_torchvision_and_timm(source, photographs):
    row = PRETRAINED[source]
    transforms, mean, std = their_transforms(source)
    assert len(photographs) >= 4
    for path in photographs:
        ours = read_image(path, row.preprocessing)
        theirs = transforms(Image.open(path).convert("RGB")).numpy().transpose(1, 2, 0)
        pixels = 255 * (theirs * np.array(std) + np.array(mean))
        assert np.abs(ours - pixels).max() < ROUNDING
        if source not in ("torchvision:googlenet", "torchvision:inception_v3"):
            scaled = (ours - np.array(row.scaling.offset)) * row.scaling.factor
            assert np.abs(scaled - theirs).max() < 1e-5
        else:  # these networks scale a second time
            assert mean == [0.485, 0.456, 0.406]


def test_pixels_from_tensors_of_torchvision(photographs):
    """A decoded tensor is resized in torch, which rounds sums differently."""
    actual = {}
    for interpolation in ON_TENSORS:
        for path in photographs:
            ours = read_image(path, Preprocessing((224, 224), 3, 256, interpolation))
            tensor = functional.pil_to_tensor(Image.open(path).convert("RGB"))
            theirs = functional.center_crop(functional.resize(
                tensor, [256], torchvision.transforms.InterpolationMode(interpolation),
                antialias=True), [224, 224]).numpy().transpose(1, 2, 0)
            actual[interpolation] = max(actual.get(interpolation, 0), int(
                np.abs(ours.astype(int) - theirs.astype(int)).max()))
    assert actual == ON_TENSORS


@pytest.mark.parametrize("source", preparations("keras"))
def test_pixels_are_those_of_keras(source, photographs):
    """They are compared with load_img, which does not keep the aspect ratio, and with
    preprocess_input of the network."""
    row, name = PRETRAINED[source], source.partition(":")[2]
    name = re.sub(r"(mobilenet(?:_v2)?).*", r"\1", name)
    module = getattr(keras.applications, {"resnet": "resnet", "resnetv2": "resnet_v2",
                                          "densenet": "densenet"}.get(
        re.sub(r"\d\d+", "", name), name))
    size, _, _, interpolation = row.preprocessing
    for path in photographs:
        image = keras.utils.load_img(path, target_size=size,
                                     interpolation=interpolation)
        theirs = keras.utils.img_to_array(image)
        ours = read_image(path, Preprocessing(size, 3, None, interpolation))
        assert (ours == theirs).all()
        scaled = (ours - np.array(row.scaling.offset)) * np.array(row.scaling.factor)
        expected = module.preprocess_input(theirs.copy())
        expected = expected[..., ::-1] if row.bgr else expected
        level = np.array(row.scaling.factor)  # of one level of 255
        assert (np.abs(scaled - expected) / level).max() < ROUNDING
