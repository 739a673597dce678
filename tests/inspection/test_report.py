"""report.html and TensorBoard's pictures show the facts of a run."""

import io
import json
import re

import msgspec
import numpy as np
import pytest
from tests.support.made_runs import DIGITS, made_metrics, made_run, summary
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tests.support.tiny_runs import read_results, tiny

from cnn_jax import training
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.errors import InputError, RunError
from cnn_jax.inspection import output
from cnn_jax.inspection.draw import classification_metrics as drawn_metrics
from cnn_jax.inspection.draw.learning_curves import curves, learning_curves
from cnn_jax.inspection.draw.picture import write
from cnn_jax.inspection.explain import classification_metrics as metrics
from cnn_jax.inspection.pages import compare, headline, record, rendering, report
from cnn_jax.training import loop

pytestmark = pytest.mark.usefixtures("compiled_once")
NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compiled_once):
    """Trains a run of one epoch to its end."""
    workdir = tmp_path_factory.mktemp("runs") / "short"
    training.run(tiny(epochs=1), workdir, quiet=True)
    return workdir


def page(workdir) -> str:
    return report.write_report(workdir).read_text()


# The end of a run

def test_a_run_leaves_a_report_and_its_pictures(trained):
    text = (trained / "report.html").read_text()
    results = read_results(trained)
    assert f"{results['test_accuracy']:.2%}" in text and "13,874" in text
    assert results["command"] in text.replace("&#39;", "'")
    assert text.count("data:image/png;base64,") == 3 + 4  # curves; and these:
    assert {path.stem for path in (trained / "pictures").glob("*.png")} == {
        "confusion", "calibration", "mistakes", "weights"}
    assert not re.search(r'(?:src|href)="(?!data:|#)', text), "loads something"
    assert not list(trained.rglob("*.partial"))


def test_figures_of_the_classes_agree_with_the_results(trained):
    scores, results = metrics.load(trained), read_results(trained)
    assert scores.examples == np.sum(scores.confusion) == results["test_examples"]
    assert scores.correct / 359 == pytest.approx(results["test_accuracy"])
    assert (scores.split, [row.name for row in scores.classes]) == ("test", [*DIGITS])


def test_tensorboard_gets_pictures_and_histograms(trained):
    events = EventAccumulator(str(trained / "inspection"), {"images": 0,
                                                            "histograms": 0})
    events.Reload()
    tags = events.Tags()
    assert set(tags["images"]) == {f"pictures/{name}" for name in (
        "confusion", "calibration", "mistakes", "weights")}
    shown, = events.Images("pictures/confusion")
    ours = Image.open(trained / "pictures" / "confusion.png")
    assert (shown.width, shown.height) == ours.size and shown.step == 8
    theirs = Image.open(io.BytesIO(shown.encoded_image_string))
    assert np.array_equal(np.asarray(theirs.convert("RGB")),
                          np.asarray(ours.convert("RGB")))
    layers = record.read_record(trained).summary.layers
    kernels = {row.layer: row for row in layers
               if row.kind.startswith(("Conv", "Dense"))}
    assert {f"weights/{name}" for name in kernels} == set(tags["histograms"])
    event, = events.Histograms("weights/head")
    assert event.histogram_value.num == 10 * (kernels["head"].params - 10) / 10


def test_a_report_that_cannot_be_drawn_leaves_complete_results(
        tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("no ink")

    with monkeypatch.context() as patch:
        patch.setattr(output, "draw_at_end", fail)
        with pytest.raises(RuntimeError, match="no ink"):
            training.run(tiny(epochs=1), tmp_path, quiet=True)
    results = read_results(tmp_path)
    assert results["test_examples"] == 359
    assert not (tmp_path / "report.html").exists()
    again = training.run(tiny(epochs=1), tmp_path, quiet=True)
    assert again.test_loss == results["test_loss"]
    assert read_results(tmp_path) == results
    assert (tmp_path / "report.html").exists()  # the same command writes it later


def test_a_run_that_died_has_a_report(tmp_path, monkeypatch):
    """A run that died after the first of three epochs, or before it, has a report."""
    def die(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", die)
    with pytest.raises(KeyboardInterrupt):
        training.run(tiny(epochs=3), tmp_path, quiet=True)
    text = page(tmp_path)
    assert "1 of 3 epochs" in text and "not been measured" in text
    assert "Validation accuracy" in text and "Test accuracy" not in text
    assert text.count("data:image/png;base64,") == 3
    (tmp_path / "history.csv").unlink()
    (tmp_path / "summary.json").unlink()
    text = page(tmp_path)
    assert "0 of 3 epochs" in text and "no layer table" in text


def test_modes_name_the_page(trained, capsys):
    (trained / "report.html").unlink()
    commands.run(Request("report", None, trained))
    assert capsys.readouterr().out.strip() == str(trained / "report.html")
    assert (trained / "report.html").exists()


# What the page says

def test_changed_config_fields_come_first(tmp_path):
    text = page(made_run(tmp_path / "run", {"optimizer.learning_rate": 0.25}))
    differing, whole = text.split("<details>")
    differing = differing.split('id="config"')[1]
    assert "learning_<wbr>rate" in differing and "0.25" in differing
    assert "momentum" not in differing and "momentum" in whole
    assert whole.split("</details>")[0].count('<th scope="row"') == len(
        record.fields(tiny()))


def test_everything_from_the_workdir_is_escaped(tmp_path):
    names = (NASTY, "a & b", "\"quoted'", "café", *DIGITS[4:])
    workdir = made_run(tmp_path / "run", class_names=names, source=NASTY)
    results = read_results(workdir)
    (workdir / "results.json").write_text(json.dumps(
        results | dict(command=NASTY, machine=NASTY, versions={NASTY: NASTY})))
    table = json.loads((workdir / "summary.json").read_text())
    table["layers"][0]["layer"] = table["model"] = NASTY
    (workdir / "summary.json").write_text(json.dumps(table))
    write(drawn_metrics.draw_confusion(made_metrics(90, names, 24))._replace(
        title=NASTY, caption=NASTY, alt=f'"><b>{NASTY}'), workdir / "pictures", 24)
    text = page(workdir)
    assert "<script" not in text and "<b>" not in text
    assert text.count("&lt;script&gt;") >= 10
    assert "a &amp; b" in text and "caf&#233;" in text and text.isascii()


def test_scores_of_the_classes_are_a_table(tmp_path):
    workdir = made_run(tmp_path / "run", accuracy=0.95)
    text = page(workdir)
    assert "95 of 100 images of the test split" in text and "(95.00%)" in text
    row = re.search(r'<th scope="row">9</th>(.*?)</tr>', text, re.DOTALL)[1]
    assert re.findall(r">([\d.-]+)</td>", row) == ["10", "1.000", "0.500", "0.667"]
    assert "standard error 2.18%" in text  # sqrt(0.95 * 0.05 / 100)
    assert "step 8" not in text and 'id="errors"' not in text
    metrics.save(made_metrics(95, DIGITS, 8), workdir)  # not of the best checkpoint
    assert "step 8" in page(workdir)


def test_an_accuracy_is_shown_with_that_of_guessing(tmp_path):
    """Chance is 1 / C for unbalanced classes too; the most frequent class is shown too.
    """
    workdir = made_run(tmp_path / "run", accuracy=0.95)
    test, validation, *_ = headline.headline(record.read_record(workdir))
    assert test[2].endswith("; chance is 10%") and validation[2].endswith("is 10%")
    labels = np.repeat([0, 7], [30, 70])
    metrics.save(metrics.measure(labels, labels, np.ones(100), DIGITS, "test", 24,
                                 "image"), workdir)
    test, validation, *_ = headline.headline(record.read_record(workdir))
    assert test[2].endswith("chance is 10%; the most frequent class, 7, has 70.0%")
    assert validation[2].endswith("chance is 10%")  # its labels were not counted
    several = record.read_record(made_run(
        tmp_path / "several", {"data.name": "shapes_multilabel"}))
    assert not headline.guesses(several, "test")


def test_many_layers_are_folded_by_stage():
    few = summary()
    stage, = report.stages(few)
    assert not stage.title and len(stage.layers.rows) == len(few.layers)
    layers = [msgspec.structs.replace(row, layer=f"stage{k // 30}_block{k}/{row.layer}")
              for k, row in enumerate((few.layers * 9)[:90])]
    stages = report.stages(msgspec.structs.replace(few, layers=layers))
    assert [len(stage.layers.rows) for stage in stages] == [30, 30, 30]
    params = sum(row.params for row in layers[30:60])
    assert stages[1].title.startswith("stage1: 30 layers")
    assert f"{params:,} parameters" in stages[1].title


def test_many_classes_are_folded_behind_the_worst(tmp_path):
    names = tuple(f"class {i}" for i in range(40))
    workdir = made_run(tmp_path / "run")
    labels = np.arange(80) % 40
    metrics.save(metrics.measure(labels, np.where(labels == 31, 5, labels), np.ones(80),
                                 names, "test", 24, "image"), workdir)
    text = page(workdir)
    shown, folded = text.split("All 40 classes")
    assert shown.count('<th scope="row"') == 15 and ">class 31<" in shown
    assert shown.index(">class 31<") < shown.index(">class 5<")  # F1 0 and 0.667
    assert folded.split("</details>")[0].count('<th scope="row"') == 41


def test_files_of_predictions_are_named(tmp_path):
    workdir = made_run(tmp_path / "run")
    (workdir / "predictions_test.csv").write_text("index\n")
    text = page(workdir)
    assert 'id="errors"' in text and "predictions_test.csv" in text
    assert 'href="#contents"' in text and 'id="contents"' in text  # a way back


def test_pictures_are_embedded_with_their_captions(tmp_path):
    workdir = made_run(tmp_path / "run")
    one = learning_curves(({"epoch": 1, "loss": 2.0, "accuracy": 0.5},))
    write(one._replace(name="kernels", title="Kernels", caption="Read so.",
                       alt="Six kernels"), workdir / "pictures", step=8)
    text = page(workdir)
    assert 'alt="Six kernels"' in text and "step 8." in text
    write(one, workdir / "pictures", step=24)  # the report draws its own curves
    assert page(workdir).count("data:image/png;base64,") == 4
    (workdir / "pictures" / "kernels.png").unlink()
    assert re.search("kernels.png.*missing", page(workdir))


@pytest.mark.parametrize("name", ["results.json", "summary.json", "data.json",
                                  "history.csv", "pictures/pictures.json"])
def test_damaged_files_are_one_line(tmp_path, name):
    workdir = made_run(tmp_path / "run")
    (workdir / "pictures").mkdir()
    (workdir / name).write_bytes(b"epoch,loss\n\xff\xfe{")
    with pytest.raises(InputError, match=name) as error:
        page(workdir)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{}, {"params": "1"}], ids=["lost", "another type"])
def test_fields_of_another_type_are_one_line(tmp_path, change):
    workdir, other = made_run(tmp_path / "run"), made_run(tmp_path / "other")
    path = workdir / "results.json"
    values = json.loads(path.read_text())
    del values["params"]
    path.write_text(json.dumps(values | change))
    for use in (lambda: page(workdir), lambda: compare.write_comparison(
            [workdir, other], tmp_path / "page.html")):
        with pytest.raises(InputError, match=f"^{path}.*params") as error:
            use()
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("column", ["epoch", "step", "loss", "seconds", "val_loss"])
@pytest.mark.parametrize("rows", [slice(0, 3), slice(1, 2)], ids=["all", "one"])
def test_a_history_that_lacks_values_is_one_line(tmp_path, column, rows):
    path = made_run(tmp_path / "run") / "history.csv"  # the run monitors val_loss
    header, *epochs = (line.split(",") for line in path.read_text().splitlines())
    for epoch in epochs[rows]:
        epoch[header.index(column)] = ""
    path.write_text("\n".join(map(",".join, [header, *epochs])) + "\n")
    with pytest.raises(InputError, match="history.csv") as error:
        page(tmp_path / "run")
    assert "\n" not in str(error.value)


def test_curves_have_a_text_alternative():
    history = [{"epoch": i, "loss": 2.0 / i, "val_loss": 3.0 / i, "accuracy": i / 4,
                "mean_iou": i / 8, "val_mean_iou": i / 10, "learning_rate": 0.1}
               for i in (1, 2, 4)]
    loss, accuracy, iou, rate = curves(history, best_epoch=4)
    assert loss.alt == ("Training loss: from 2 to 0.5 in 3 epochs. "
                        "Validation loss: from 3 to 0.75 in 3 epochs.")
    assert iou.title == "Mean IoU" and rate.alt.startswith("Learning rate: from 0.1")
    np.testing.assert_allclose(accuracy.arrays["accuracy"], [0.25, 0.5, 1])
    assert {line.get_label() for line in loss.figure.axes[0].lines} == {
        "training", "validation", "best epoch, 4"}


def test_a_single_epoch_is_a_point_at_a_tick():
    loss, _ = curves([{"epoch": 1, "loss": 2.0, "learning_rate": 0.1}], best_epoch=1)
    axes, = loss.figure.axes
    line = axes.lines[0]
    assert line.get_marker() == "o" and line.get_markersize() >= 6
    assert axes.get_xlim() == (0.5, 1.5)
    assert [tick for tick in axes.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_durations_and_standard_errors():
    assert [headline.duration(s) for s in (12.34, 250, 3600 * 3 + 299)] == [
        "12.3 s", "4 min 10 s", "3 h 4 min"]
    assert headline.precision(0.5, 100) == "100 images, standard error 5.00%"
    assert "12 images" in headline.precision(1.0, 12)
    assert "above 77.9%" in headline.precision(1.0, 12)  # 0.779^12 = 0.05
    assert "below 22.1%" in headline.precision(0.0, 12)


def test_templates_are_in_the_package():
    assert {path.name for path in rendering.TEMPLATES.iterdir()} == {
        "style.css", "page.html", "parts.html", "report.html", "compare.html",
        "diagram.html"}
    with pytest.raises(Exception, match="undefined"):
        rendering.render("report.html", title="a value is missing")


def test_pages_are_written_atomically(tmp_path, monkeypatch):
    workdir = made_run(tmp_path / "run")
    before = page(workdir)

    def broken(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", broken)
    with pytest.raises(RunError, match="report.html.*No space"):
        page(workdir)
    assert (workdir / "report.html").read_text() == before
