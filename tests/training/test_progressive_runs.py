"""Training images grow, resident and streamed; runs resume bit for bit in between."""

import contextlib
import io
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.caches import own_cache
from tests.support.tiny_runs import (assert_same_run, killed_after, losses,
                                     picture_folder, read_rows, tiny)

from cnn_jax import training
from cnn_jax.data.scaling import scale
from cnn_jax.errors import InputError
from cnn_jax.training import recipe

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")

STEPS = 4  # an epoch
PLAIN = {
    "data.limit": 64, "epochs": 3, "augment.horizontal_flip": True,
    "optimizer.ema_decay": 0.9, "schedule.name": "cosine", "checkpoint.every_steps": 1,
    "checkpoint.keep": 100, "log.every_steps": 1}
# 7 x 7 pixels in the first epoch, then 8 x 8, the size of the images. The network has
# the same parameters for both.
GROWING = PLAIN | {"progressive.sides": (7, 8), "progressive.epochs": (0, 2),
                   "progressive.multiple": 4}
IN_CALLS = GROWING | {  # two calls an epoch
    "steps_per_call": 2, "data.scaling": "standard", "data.prefetch": 1}


@pytest.fixture(scope="module")
def streamed_crops(tmp_path_factory):
    """Makes a config of pictures whose crops are cut when they are read."""
    root = tmp_path_factory.mktemp("data")
    flags = picture_folder(root / "set", ["ant", "bee"], 256)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNN_JAX_CACHE", own_cache(root / "cache"))
        yield GROWING | flags | {"epochs": 3, "batch_size": 3, "data.stream": True,
                                 "augment.crop_scale": (0.3, 1.0)}


# Before the fixture `fused`, since it compares runs of the same programs.
@pytest.mark.slow
def test_streamed_crops_resume_in_mid_growth_with_the_same_bits(
        streamed_crops, tmp_path):
    whole = tmp_path / "whole"
    training.run(tiny(streamed_crops), whole, quiet=True)
    workdir = killed_after(whole, tmp_path / "run", 6)  # 4 steps an epoch
    training.run(tiny(streamed_crops), workdir, quiet=True)
    assert_same_run(workdir, whole)


class Whole(NamedTuple):
    """A finished run with growing images."""

    workdir: Path
    lines: list[str]  # that it printed
    shapes: set[tuple[int, ...]]  # of the batches that it scaled


@pytest.fixture(scope="module")
def grown(tmp_path_factory, compiled_once, fused, undrawn):
    run = Whole(tmp_path_factory.mktemp("runs") / "whole", [], set())

    def noted(pixels, scaling):
        run.shapes.add(pixels.shape)
        return scale(pixels, scaling)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "scale", noted)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            training.run(tiny(IN_CALLS), run.workdir)
    run.lines.extend(printed.getvalue().splitlines())
    return run


@pytest.fixture(scope="module")
def whole(grown):
    return grown.workdir


def test_each_epoch_has_its_size_and_nothing_else_changes(grown, tmp_path):
    assert [line for line in grown.lines if "training images of" in line] == [
        f"epoch {n}: training images of {side} x {side} pixels"
        for n, side in ((1, 7), (2, 8))]
    trained = {shape[1:3] for shape in grown.shapes if shape[0] == 16}
    others = {shape[1:3] for shape in grown.shapes if shape[0] != 16}
    assert trained == {(7, 7), (8, 8)} and others == {(8, 8)}
    training.run(tiny(IN_CALLS | {"progressive.sides": None,
                                  "progressive.epochs": None}), tmp_path, quiet=True)
    ours, theirs = map(read_rows, (grown.workdir, tmp_path))
    for field in ("kind", "step", "learning_rate"):
        assert [row[field] for row in ours] == [row[field] for row in theirs]
    assert ours[0]["loss"] != theirs[0]["loss"]


@pytest.mark.parametrize("step", [
    2, *(pytest.param(step, marks=pytest.mark.slow) for step in (STEPS, STEPS + 2))])
def test_it_resumes_in_mid_growth_with_the_same_bits(whole, tmp_path, step, capsys):
    workdir = killed_after(whole, tmp_path / "run", step)
    training.run(tiny(IN_CALLS), workdir)
    assert_same_run(workdir, whole)
    output = capsys.readouterr().out
    assert ("7 x 7 pixels" in output) == (step < STEPS)
    assert "8 x 8 pixels" in output


@pytest.mark.slow
def test_a_streamed_run_is_that_in_memory(whole, tmp_path):
    """This holds also for a set that is not a folder, and for several steps a call."""
    training.run(tiny(IN_CALLS | {"data.stream": True}), tmp_path, quiet=True)
    assert losses(tmp_path) == losses(whole)
    assert_same_run(tmp_path, whole)


@pytest.mark.slow
def test_masks_grow_with_their_images(tmp_path):
    training.run(tiny(GROWING | {
        "model.name": "shapes_fcn", "data.name": "shapes_segmentation",
        "data.split": "first", "data.validation_count": 12, "data.limit": 32,
        "progressive.sides": (16, 32)}), tmp_path, quiet=True)


@pytest.mark.parametrize("changes, message", [
    ({"progressive.sides": (4, 8)},
     "CBAPDNet.* 4 x 4 .* 8 x 8"),
    ({"data.image_size": (8, 10)}, "8 x 10"),
    ({"model.name": "vgg16"}, "VGG")])
def test_sizes_that_a_network_does_not_support_are_refused(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as error:
        training.run(tiny(GROWING | changes), tmp_path, quiet=True)
    assert "\n" not in str(error.value)
