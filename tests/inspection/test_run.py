"""--mode=inspect draws pictures from a workdir; errors are one line."""

import csv
import dataclasses
import io
import json
import re
import shutil
from pathlib import Path

import msgspec
import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image
from rich.console import Console
from sklearn.datasets import load_digits
from tests.support import forked
from tests.support.inspected_runs import inspect_settings
from tests.support.tiny_runs import prepare, save_run, tiny

from cnn_jax import data
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.console import Reporter
from cnn_jax.data.info import describe
from cnn_jax.errors import InputError
from cnn_jax.files import write_json
from cnn_jax.inspection import output
from cnn_jax.inspection import run as inspection
from cnn_jax.inspection.draw.saliency import completeness
from cnn_jax.inspection.explain.grad_cam import grad_cam
from cnn_jax.inspection.forward import compiled
from cnn_jax.inspection.inspected_run import choose_examples
from cnn_jax.inspection.output import PICTURES
from cnn_jax.inspection.selection import NotForThisNetwork
from cnn_jax.tasks import TASKS
from cnn_jax.training.recipe import first_state
from cnn_jax.workdir.folder import read_config, read_data_info
from cnn_jax.workdir.recorder import COLUMNS

pytestmark = pytest.mark.usefixtures("compiled_once")
QUICK = {"images": 2, "steps": 2, "samples": 2, "max_filters": 3}


def leave_run(path: Path, config: ConfigDict) -> Path:
    """Saves a run with initial parameters, since training would take most of the time.
    """
    dataset, recipe, image_shape = prepare(config)
    info = describe(dataset, config.data)
    state = first_state(recipe, image_shape).replace(step=np.array(7, np.int32))
    save_run(path, config, info, state)
    row = dict(zip(COLUMNS, (1, 7, 2.5, 0.25, 2.4, 0.5, 1e-3, 1.5, 80)))
    (path / "history.csv").write_text(
        f"{','.join(row)}\n{','.join(map(str, row.values()))}\n")
    return path


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, compiled_once):
    """Makes a run of the network 'baseline' on digits of 8 x 8 pixels."""
    return leave_run(tmp_path_factory.mktemp("runs") / "short", tiny(epochs=1))


@pytest.fixture(scope="module")
def loaded(workdir):
    """Loads that run to inspect two of its images."""
    return inspection.load_run(workdir, changed(workdir))


def changed(workdir: Path, **fields) -> ConfigDict:
    """Returns the run's own config with other fields of `inspect`."""
    config = read_config(workdir)
    with config.unlocked():
        config.inspect.update(QUICK | fields)
    return config


def index(workdir: Path) -> dict[str, dict]:
    rows = json.loads((workdir / "pictures" / "pictures.json").read_text())
    return {row["name"]: row for row in rows}


def test_pictures_of_a_run(workdir, capsys):
    config = changed(workdir, layers="group1_conv1/conv",
                     only="kernels,feature_maps,receptive_field,error_analysis")
    commands.run(Request("inspect", config, workdir))
    rows = index(workdir)
    for name in ("kernels", "feature_maps_group1_conv1_conv", "receptive_field",
                 "highest_loss", "confusion_cells", "neighbours"):
        assert all(len(rows[name][word]) > 10 for word in ("title", "caption", "alt"))
        with Image.open(workdir / "pictures" / f"{name}.png") as image:
            assert min(image.size) > 100
            assert len(np.unique(np.asarray(image.convert("L")))) > 50
    assert f"{len(rows)} pictures in {workdir / 'pictures'}" in capsys.readouterr().out
    images, labels = load_digits(return_X_y=True)
    test = data.load(config.data, config.seed).test
    with open(workdir / "predictions_test.csv", newline="") as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == len(test.labels)
    for row, pixels in zip(predictions, test.images):
        number = int(row["image"].removeprefix("train image of digits "))
        np.testing.assert_allclose(pixels.ravel(), images[number] * 255 / 16, atol=0.5)
        assert row["label"] == str(labels[number])


def test_the_users_own_images_are_explained(workdir, tmp_path):
    """They are converted to the size and channels of the training data, and have no
    true classes."""
    path = tmp_path / "own.png"
    Image.fromarray(np.arange(600, dtype=np.uint8).reshape(20, 30)).save(path)
    run = inspection.load_run(workdir, None, [str(path)])
    assert run.pixels.shape == (1, 8, 8, 1) and run.labels is None
    assert run.titles == ("own.png",)
    many = inspection.load_run(workdir, changed(workdir), [str(path)] * 3)
    assert len(many.pixels) == QUICK["images"]
    inverted = inspection.load_run(workdir, None, [str(path)], invert=True)
    np.testing.assert_array_equal(inverted.pixels, 255 - run.pixels)
    picture, = PICTURES["saliency"](run, inspect_settings(**QUICK))
    assert picture.arrays["gradient"].shape == (1, 8, 8)
    assert picture.arrays["completeness_error"].max() < 1e-3
    assert picture.arrays["class"] == run.image_logits.argmax(-1)
    label = picture.figure.axes[0].get_ylabel()
    assert "own.png" in label and "predicted" in label and "is " not in label
    titles = [axes.get_title() for axes in picture.figure.axes]
    assert titles == ["image", "gradient", "SmoothGrad", "integrated\ngradients",
                      "guided\nbackprop.", "occlusion", "Grad-CAM"]
    other = inspect_settings(**QUICK, target="3")
    chosen, = PICTURES["saliency"](run, other)
    assert chosen.arrays["class"].tolist() == [3]


def test_images_with_several_classes(few_shapes, tmp_path, capsys):
    """Scores of the classes replace the confusion matrix."""
    config = tiny({"data.name": "shapes_multilabel", "data.split": "first",
                   "model.name": "lenet5"})
    run = leave_run(tmp_path / "run", config)
    settings = changed(run, only="classification_metrics")
    commands.run(Request("inspect", settings, run))
    assert {"class_scores", "calibration", "mistakes"} == index(run).keys()
    text = (run / "report.html").read_text()
    assert ">AP<" in text and "Average precision" in text
    test = data.load(config.data, config.seed).test
    Image.fromarray(test.images[0]).save(tmp_path / "one.png")
    capsys.readouterr()
    commands.run(Request("predict", settings, run, paths=(str(tmp_path / "one.png"),),
                         json=True))
    answer, = json.loads(capsys.readouterr().out)
    assert all(probability > 0.5 for probability in answer["probabilities"])
    assert len(answer["classes"]) == len(answer["probabilities"])


@pytest.mark.slow
def test_names_that_look_like_mathematics(workdir, tmp_path, capsys, monkeypatch):
    """Classes and files may be named '$x^$', which matplotlib cannot parse."""
    strange = shutil.copytree(workdir, tmp_path / "run")
    info = read_data_info(strange)
    names = ("$x^$", "a$b", *info.class_names[2:])
    write_json(strange / "data.json",
               msgspec.structs.replace(info, class_names=names))
    load = data.load
    monkeypatch.setattr(data, "load", lambda *arguments: load(*arguments)._replace(
        class_names=names))
    file = tmp_path / "$y^$ \x1b[2J\udcff.png"
    Image.new("L", (8, 8), 77).save(file)
    config = changed(strange, only="maximized_classes,feature_maps,saliency,"
                     "classification_metrics", layers="group1_conv1/conv", images=1)
    commands.run(Request("inspect", config, strange, paths=(str(file),)))
    assert {"maximized_head", "saliency", "confusion"} <= index(strange).keys()
    capsys.readouterr()
    commands.run(Request("predict", config, strange, paths=(str(file),), top=10))
    text = capsys.readouterr().out
    assert r"$y^$ \x1b[2J\udcff.png: " in text and "$x^$" in text and "\x1b" not in text


def test_incomplete_integrated_gradients_are_labelled():
    """Rounded, 0.0014 would look like the target."""
    assert " complete within 0.0005" in completeness(0.00049, 576)
    text = completeness(0.0014, 1728)
    assert "1728" in text and " incomplete" in text and "0.0014" in text


def test_pictures_that_a_network_does_not_have(tmp_path, monkeypatch, capsys):
    """They are left out, and a line says so, unless the user asked for them by name."""
    dense = leave_run(tmp_path / "dense", tiny({"model.name": "ai_edu_mnist_dnn"}))
    monkeypatch.setattr(inspection, "chosen_names",
                        lambda only: ["feature_maps", "kernels"])
    path, = inspection.draw(dense, changed(dense))
    assert path.name == "kernels.png"
    assert re.search("feature_maps.*AiEduDNN", capsys.readouterr().out)
    with pytest.raises(NotForThisNetwork, match="AiEduDNN"):
        inspection.draw(dense, changed(dense, only="feature_maps"), quiet=True)


def test_mistakes_are_explained_for_both_classes(loaded):
    run = loaded
    picture, = PICTURES["mistake_maps"](run, inspect_settings(**QUICK))
    index, truth = picture.arrays["index"], run.examples.labels
    named, cam = run.predictions[0][index], compiled(grad_cam)
    assert len(index) == 6 and (named != truth[index]).all()
    for name, classes in (("predicted", named), ("true", truth[index])):
        explained = cam(run.network, run.variables,
                        run.inputs(run.examples.images[index]), classes)
        np.testing.assert_allclose(picture.arrays[name], explained, atol=1e-5)
    right = dataclasses.replace(run, examples=run.examples._replace(
        labels=run.predictions[0]))
    with pytest.raises(NotForThisNetwork):
        next(PICTURES["mistake_maps"](right, inspect_settings(**QUICK)))


@pytest.mark.parametrize("init_from", [None, "torchvision:resnet18"])
def test_a_run_from_other_weights_ends_with_its_mistakes_explained(
        loaded, tmp_path, monkeypatch, init_from):
    drawn = []
    monkeypatch.setattr(output, "draw_pictures",
                        lambda run, names, *rest: drawn.extend(names))
    config = loaded.config.copy_and_resolve_references()
    run = dataclasses.replace(loaded, config=config)
    with run.config.unlocked():
        run.config.model.init_from = init_from
    output.draw_at_end(run, tmp_path, Reporter(quiet=True))
    assert ("mistake_maps" in drawn) == bool(init_from) and "weights" in drawn


def test_examples_alternate_by_class():
    labels = np.array([1, 0, 0, 2, 1, 1])
    assert choose_examples(labels, TASKS["classify"], 5).tolist() == [1, 0, 3, 2, 4]
    assert choose_examples(labels, TASKS["classify"], 64).tolist() == [
        1, 0, 3, 2, 4, 5]
    for task, shape in (("segment", (3, 2, 2)), ("multilabel", (3, 4))):
        examples = choose_examples(np.zeros(shape, np.uint8), TASKS[task], 2)
        assert examples.tolist() == [0, 1]


@pytest.mark.parametrize("fields, pattern", [
    ({"layers": "conv1"}, "inspect.layers = 'conv1'.*group1_pool"),
    ({"layers": "group1_conv1/con"}, "mean group1_conv1/conv.*group1_conv1/bn"),
    ({"filters": "6"}, "group1_conv1/conv.*0 to 5.*'6'"),
    ({"filters": "-1"}, "'-1'"),
    ({"position": (8, 0)}, r"8 x 8.*\(0, 0\) to \(7, 7\)"),
    ({"cam_layer": "head"}, "inspect.cam_layer = 'head'.*height"),
    ({"window": 9}, "inspect.window = 9 .*8 x 8.*1 to 8"),
    ({"target": "ten"}, "inspect.target = 'ten'.*0, 1.*0 to 9"),
    ({"only": "kernel"}, "'kernel'.*kernels")])
def test_names_that_do_not_exist_are_refused_in_one_line(workdir, fields, pattern):
    config = changed(workdir, **fields)
    with pytest.raises(InputError, match=pattern) as error:
        inspection.draw(workdir, config, quiet=True)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_an_image_is_refused(workdir, tmp_path):
    path = tmp_path / "words.png"
    path.write_text("no picture")
    with pytest.raises(InputError, match="words.png"):
        inspection.draw(workdir, None, [str(path)], quiet=True)
    with pytest.raises(InputError, match="nothing.png"):
        inspection.draw(workdir, None, [str(tmp_path / "nothing.png")], quiet=True)


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_reported(terminal):
    """A terminal shows it while it lasts; a file gets one line."""
    report, file = Reporter(), io.StringIO()
    report.console = Console(file=file, force_terminal=terminal, width=60)
    with pytest.raises(InputError), report.under_way("reading [it]"):
        raise InputError("no")
    if not terminal:
        assert file.getvalue() == "reading [it] ...\n"
        return
    assert "reading [it] 0:00:00" in re.sub(r"\x1b\[[\d;?]*\w", "", file.getvalue())
    assert file.getvalue().endswith("\x1b[2K")  # the line is erased


def test_computed_values_are_reused(loaded):
    run, lines = loaded, []
    layers = run.layers
    other = run.with_progress(lines.append)
    assert other.layers is layers and list(other.track("one", "a")) == ["a"]
    assert lines == ["one 0/1"]


def test_the_command_line(workdir, tmp_path):
    """A changed field of the run is refused; test_commands.py changes one of inspect.
    """
    refused = forked.main(
        ["--mode=inspect", f"--workdir={workdir}", "--config.inspect.position=(1, 2)",
         "--config.epochs=7"], tmp_path)
    assert refused.returncode == 2 and "epochs: 1 -> 7" in refused.stderr
