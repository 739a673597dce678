"""--mode=show_data shows the images of training, and refuses bad requests."""

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tests.support.tiny_runs import main, picture_folder, refusal, tiny

from cnn_jax import data
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.data.batches import concatenate, train_order
from cnn_jax.data.crops import training_crop
from cnn_jax.data.info import describe
from cnn_jax.data.scaling import SCALINGS, scale
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw import contact_sheet
from cnn_jax.inspection.draw.overlays import overlays
from cnn_jax.tasks import TASKS
from cnn_jax.training.recipe import create_recipe
from cnn_jax.training.steps import TrainState, gather, train_step

pytestmark = pytest.mark.usefixtures("compiled_once", "few_shapes")
MIXED = {"augment.mixup": 0.4, "augment.cutmix": 1.0, "data.scaling": "standard"}
ROTATED = MIXED | {"augment.rotation_range": 20.0}


class Handed(Exception):
    """Carries the images that reached the network."""


@pytest.mark.parametrize("changes", [
    {}, MIXED, {"data.name": "shapes_segmentation", "data.split": "first"},
    pytest.param(ROTATED, marks=pytest.mark.slow)],
    ids=["plain", "mixed", "masks", "rotated"])
def test_the_sheet_shows_the_images_that_the_network_gets(changes, monkeypatch):
    """The sheet equals the images that the first training step gives its network."""
    config = tiny({"model.name": "shapes_fcn"} | changes)
    dataset = data.load(config.data, config.seed)
    examples, spans = concatenate(dataset)
    recipe = create_recipe(config, describe(dataset, config.data))

    def apply(self, variables, images, **options):
        raise Handed(images)

    monkeypatch.setattr(type(recipe.model), "apply", apply)
    order = train_order(config.seed, 0, spans["train"], config.batch_size)[0]
    batch = gather(examples, jnp.asarray(order), jnp.ones(len(order)), None)
    state = TrainState(jnp.int32(0), {"w": jnp.zeros(1)}, {}, (), {}, {})
    with pytest.raises(Handed) as handed:
        train_step(state, batch, recipe)
    shown, = contact_sheet.seen(dataset, config, 1)
    np.testing.assert_allclose(shown.inputs, handed.value.args[0][:8], atol=1e-4)
    assert len(shown.targets) == (2 if "augment.mixup" in changes else 1)
    np.testing.assert_array_equal(shown.targets[0][0], examples.labels[order[:8]])


def test_crops_of_a_streamed_set_are_those_of_training(tmp_path):
    """Column k shows the crops of epoch k; without crops the sheet is that in memory.
    """
    flags = picture_folder(tmp_path, ["ant", "bee"], 256)
    plain, cropped, stored = (
        tiny(flags | changes) for changes in (
            {"data.stream": True},
            {"data.stream": True, "augment.crop_scale": (0.2, 0.5)},
            {"data.stream": False}))
    dataset = data.load(plain.data, 0)
    shown, = contact_sheet.seen(dataset, plain, 1)
    expected, = contact_sheet.seen(data.load(stored.data, 0), stored, 1)
    np.testing.assert_array_equal(shown.inputs, expected.inputs)
    rows = contact_sheet.first_batch(dataset, cropped)
    for epoch, shown in enumerate(contact_sheet.seen(dataset, cropped, 2)):
        images = dataset.train.images.read_rows(rows, lambda row: training_crop(
            cropped.seed, epoch, row, (0.2, 0.5), cropped.augment.crop_ratio))
        np.testing.assert_allclose(shown.inputs, images[:8] / np.float32(255), 1e-6)


def test_names_that_look_like_mathematics(tmp_path):
    """A class and a data path may be '$x^$', which matplotlib cannot parse."""
    names = ("$x^$", "a$b$", "\\$z", "$_$ and some more words")
    for name in names:
        folder = tmp_path / "$y^$" / name
        folder.mkdir(parents=True)
        for i in range(8):
            Image.new("L", (8, 8), 30 * i).save(folder / f"{i}.png")
    config = tiny({"data.name": "folder", "data.dir": str(tmp_path / "$y^$"),
                   "data.test": 0.25, "data.validation": 0.25, "batch_size": 8,
                   "augment.mixup": 0.4})
    commands.run(Request("show_data", config, None, output=tmp_path / "sheet.png"))
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    drawn = overlays(pixels, pixels[..., 0], names, "$x^$", "$x^$", ["$x^$"])
    drawn.figure.savefig(tmp_path / "overlays.png")


@pytest.mark.parametrize("changes", [
    pytest.param(MIXED | {"data.limit": 5}, marks=pytest.mark.slow),
    {"data.name": "shapes_segmentation", "data.split": "first",
     "augment.crop_padding": 3},
    {"data.name": "shapes_multilabel", "data.split": "first"}],
    ids=["mixed", "masks", "several classes"])
def test_a_sheet_is_drawn(tmp_path, changes, capsys):
    config = tiny({"batch_size": 4 if "data.limit" in changes else 16} | changes)
    path = tmp_path / "deep" / "sheet.png"
    commands.run(Request("show_data", config, None, output=path))
    with Image.open(path) as image:
        assert image.mode in ("RGB", "RGBA") and min(image.size) > 400
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.min() == 0 and pixels.max() == 255
    assert capsys.readouterr().out.endswith(f"{path}\n")


def test_pixels_come_back_from_every_scaling(monkeypatch):
    """Without augmentation the sheet shows the stored image."""
    shown = []
    monkeypatch.setattr(contact_sheet, "show",
                        lambda axes, pixels, mask: shown.append(pixels))
    for scaling in SCALINGS:
        config = tiny({"data.scaling": scaling, "data.limit": 16, "data.channels": 3})
        dataset = data.load(config.data, 0)
        picture = contact_sheet.contact_sheet(dataset, config)
        stored, inputs = picture.arrays["stored"], picture.arrays["inputs"]
        np.testing.assert_array_equal(stored, shown[-16::2])
        measured = SCALINGS[scaling](dataset.train.images)
        np.testing.assert_allclose(inputs, scale(stored, measured)[None], atol=1e-5)
        for stored, seen in zip(shown[::2], shown[1::2]):
            np.testing.assert_allclose(seen, stored, atol=0.01)
    assert len(shown) == 16 * len(SCALINGS)


def test_shares_of_a_mixed_image_in_words():
    targets = ((np.array([2, 1]), np.array([0.7, 0.25])),
               (np.array([0, 1]), np.array([0.3, 0.75])))
    names, task = ("grey_cat", "dog", "ape"), TASKS["classify"]
    assert contact_sheet.mixture(targets, 0, task, names, 1.2) == (
        "70 % ape\n30 % grey_cat")
    assert contact_sheet.mixture(targets, 1, task, names, 1.2) == "100 % dog"


def test_requests_that_are_refused(tmp_path):
    config = tiny()
    (tmp_path / "file").touch()
    for pattern, request in (
            ("--config", Request("show_data", None, None)),
            (r"\.png", Request("show_data", config, None,
                                         output=tmp_path / "a.jpg")),
            ("file", Request("show_data", config, None,
                                          output=tmp_path / "file" / "a.png")),
            ("--mode=show_data", Request(
                "summary", config, None, output=tmp_path / "a.png"))):
        with pytest.raises(InputError, match=pattern):
            commands.run(request)


def test_the_command_line(tmp_path):
    """The picture goes into the workdir, unless that belongs to another config."""
    code, output, errors = main(tmp_path / "a", {}, "--mode=show_data")
    assert code == 0, errors
    assert (tmp_path / "a" / "data.png").is_file() and "data: digits" in output
    bad = main(tmp_path / "a", {}, "--mode=show_data", f"--output={tmp_path}/x.txt")
    line = refusal(bad, 2)
    assert "x.txt" in line and ".png" in line
