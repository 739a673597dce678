"""report.html, --mode=compare and TensorBoard's pictures: what they say of a run."""

import io
import json
import os
import re
import shutil

import numpy as np
import pytest
from made_runs import DIGITS, made_quality, made_run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_runs import read_results, tiny

from cnn_jax import modes, training
from cnn_jax.errors import InputError, RunError
from cnn_jax.inspection import (compare, output, quality, quality_pictures, record,
                                rendering, report)
from cnn_jax.inspection.picture import write
from cnn_jax.inspection.plots import curves, learning_curves
from cnn_jax.training import loop

pytestmark = pytest.mark.usefixtures("compiled_once")
NASTY = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, compiled_once):
    """A run as it ends, of one epoch."""
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
    found, results = quality.load(trained), read_results(trained)
    assert found.confusion.sum() == results["test_examples"]
    assert found.confusion.trace() / 359 == pytest.approx(results["test_accuracy"])
    assert (found.part, found.class_names) == ("test", DIGITS)


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
    layers = record.read_record(trained).layers["layers"]
    kernels = {row["layer"]: row for row in layers if row["kind"].startswith(
        ("Conv", "Dense"))}
    assert {f"weights/{name}" for name in kernels} == set(tags["histograms"])
    found, = events.Histograms("weights/head")
    assert found.histogram_value.num == 10 * (kernels["head"]["params"] - 10) / 10


def test_a_report_that_cannot_be_drawn_is_seen_and_the_results_are_whole(
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
    assert training.run(tiny(epochs=1), tmp_path, quiet=True) == results
    assert (tmp_path / "report.html").exists()  # the same command makes up for it


def test_a_run_that_died_is_reported_as_such(tmp_path, monkeypatch):
    """Killed after the first of three epochs; before it there is a report too."""
    def die(this, state, progress, score=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save", die)
    with pytest.raises(KeyboardInterrupt):
        training.run(tiny(epochs=3), tmp_path, quiet=True)
    text = page(tmp_path)
    assert "no results yet: 1 of 3 epochs have ended" in text
    assert "figures of each class have not been measured" in text
    assert "Validation accuracy" in text and "Test accuracy" not in text
    assert text.count("data:image/png;base64,") == 3
    (tmp_path / "history.csv").unlink()
    (tmp_path / "summary.json").unlink()
    text = page(tmp_path)
    assert "0 of 3 epochs" in text and "goes on or starts again" in text
    assert "No epoch has ended yet" in text and "no layer table yet" in text


def test_modes_name_the_page(trained, capsys):
    (trained / "report.html").unlink()
    modes.run(modes.Request("report", None, trained))
    assert capsys.readouterr().out.strip() == str(trained / "report.html")
    assert (trained / "report.html").exists()


# What the page says

def test_config_shows_what_differs_from_the_default_first(tmp_path):
    text = page(made_run(tmp_path / "run", {"optimizer.learning_rate": 0.25}))
    differing, whole = text.split("<details>")
    differing = differing.split('id="config"')[1]
    assert "learning_<wbr>rate" in differing and "0.25" in differing
    assert "momentum" not in differing and "momentum" in whole
    rows = re.findall(r'<th scope="row">(.*?)</th>', whole.split("</details>")[0])
    assert len(rows) == len(record.fields(tiny()))


def test_without_the_defaults_the_whole_config_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "defaults", lambda: None)
    assert "The defaults are not installed here" in page(made_run(tmp_path / "run"))


def test_everything_from_the_workdir_is_escaped(tmp_path):
    names = (NASTY, "a & b", "\"quoted'", "café", *DIGITS[4:])
    workdir = made_run(tmp_path / "run", class_names=names, source=NASTY)
    found = read_results(workdir)
    (workdir / "results.json").write_text(json.dumps(
        found | {"command": NASTY, "machine": NASTY, "versions": {NASTY: NASTY}}))
    table = json.loads((workdir / "summary.json").read_text())
    table["layers"][0]["layer"] = table["model"] = NASTY
    (workdir / "summary.json").write_text(json.dumps(table))
    write([quality_pictures.draw_confusion(quality.load(workdir))._replace(
        title=NASTY, caption=NASTY, alt=f'"><b>{NASTY}')], workdir / "pictures", 24)
    text = page(workdir)
    assert "<script" not in text and "<b>" not in text
    assert text.count("&lt;script&gt;") >= 10
    assert "a &amp; b" in text and "caf&#233;" in text and text.isascii()


def test_scores_of_the_classes_are_a_table(tmp_path):
    workdir = made_run(tmp_path / "run", accuracy=0.95)
    text = page(workdir)
    assert "95 of 100 images of the test part are right (95.00%)" in text
    row = re.search(r'<th scope="row">9</th>(.*?)</tr>', text, re.DOTALL)[1]
    assert re.findall(r">([\d.-]+)</td>", row) == ["10", "1.000", "0.500", "0.667"]
    assert "standard error 2.18%" in text  # sqrt(0.95 * 0.05 / 100)
    assert "which is not the best checkpoint" not in text
    quality.save(made_quality(95, DIGITS, 8), workdir)
    assert "They are of step 8, which is not the best checkpoint" in page(workdir)


def test_pictures_are_embedded_with_their_words(tmp_path):
    workdir = made_run(tmp_path / "run")
    one = learning_curves(({"epoch": 1, "loss": 2.0, "accuracy": 0.5},))
    write([one._replace(name="kernels", title="Kernels", caption="Read so.",
                        alt="Six kernels")], workdir / "pictures", step=8)
    text = page(workdir)
    assert 'alt="Six kernels"' in text and "Of the checkpoint of step 8." in text
    write([one], workdir / "pictures", step=24)  # the report draws curves of its own
    assert page(workdir).count("data:image/png;base64,") == 4
    (workdir / "pictures" / "kernels.png").unlink()
    assert "kernels.png is missing" in page(workdir)


@pytest.mark.parametrize("row,words", [
    ({"name": "../../secret", "title": "", "caption": "", "alt": ""}, "no name"),
    ({"name": "a", "title": "", "caption": ""}, "lacks its words"),
    ({"name": "text", "title": "", "caption": "", "alt": ""}, "no PNG")])
def test_what_is_no_picture_is_refused(tmp_path, row, words):
    """Above all a name that leads out of the folder."""
    workdir = made_run(tmp_path / "run")
    (workdir / "pictures").mkdir()
    (workdir / "pictures" / "pictures.json").write_text(json.dumps([row]))
    (workdir / "pictures" / "text.png").write_text("no picture")
    with pytest.raises(InputError, match=words):
        page(workdir)


@pytest.mark.parametrize("name", ["results.json", "summary.json", "data.json",
                                  "history.csv", "pictures/pictures.json"])
def test_damaged_files_are_one_line(tmp_path, name):
    workdir = made_run(tmp_path / "run")
    (workdir / "pictures").mkdir()
    (workdir / name).write_bytes(b"epoch,loss\n\xff\xfe{")
    with pytest.raises(InputError, match=f"{name} .*damaged"):
        page(workdir)


def test_curves_say_in_words_what_they_show():
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


def test_durations_and_standard_errors():
    assert [report.duration(s) for s in (12.34, 250, 3600 * 3 + 299)] == [
        "12.3 s", "4 min 10 s", "3 h 4 min"]
    assert report.precision(0.5, 100) == "100 images, standard error 5.00%"


# Several runs

@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three seeds of one config, two of another, and one that has not ended."""
    folder = tmp_path_factory.mktemp("compared")
    made = [made_run(folder / f"adam{seed}", {"seed": seed}, accuracy)
            for seed, accuracy in enumerate((0.90, 0.92, 0.97))]
    other = {"optimizer.name": "sgd", "data.channels": 3}
    made += [made_run(folder / f"sgd{seed}", other | {"seed": seed}, 0.80)
             for seed in (0, 1)]
    return made + [made_run(folder / "dead", {"optimizer.name": "muon"}, None, 1)]


def test_runs_that_differ_in_the_seed_alone_are_a_group(runs):
    groups = compare.grouped([record.read_record(run) for run in runs])
    assert [(group.letter, [run.name for run in group.runs]) for group in groups] == [
        ("A", ["adam0", "adam1", "adam2"]), ("B", ["sgd0", "sgd1"]), ("C", ["dead"])]
    unlike = compare.differing(groups)
    assert unlike == {"data.channels": [0, 3, 0],
                      "optimizer.name": ["adam", "sgd", "muon"]}
    assert compare.named(groups[1], groups, unlike) == "sgd, 3"
    many = {f"augment.{i}": [i, i, i] for i in range(6)} | unlike
    assert compare.named(groups[1], groups, many) == "sgd, 0, 1, 2 and 4 more"
    assert compare.named(groups[1], groups, {}) == "baseline on digits"


def test_fields_that_change_no_result_part_no_group(tmp_path, runs):
    again = made_run(tmp_path / "again", {"seed": 7, "log.every_steps": 3,
                                          "inspect.images": 2})
    assert len(compare.grouped([record.read_record(run)
                                for run in (runs[0], again)])) == 1


def test_spread_is_that_of_the_seeds():
    """0.90, 0.92, 0.97: mean 0.93, squares 9 + 1 + 16 = 26e-4, so sqrt(13e-4)."""
    assert compare.in_words([0.90, 0.92, 0.97], ".4f") == "0.9300 ± 0.0361"
    assert compare.in_words([0.8], ".4f") == "0.8000"
    assert compare.in_words([61706.0, 61706.0], ",.0f") == "61,706"
    assert compare.in_words([], ".4f") == "-"
    assert [compare.letters(i) for i in (0, 25, 26, 27, 52)] == [
        "A", "Z", "AA", "AB", "BA"]


def test_the_page_of_several_runs(runs, tmp_path, capsys):
    path = tmp_path / "new" / "page.html"
    modes.run(modes.Request("compare", None, None, images=tuple(map(str, runs)),
                            output=path))
    assert capsys.readouterr().out.strip() == str(path)
    text = path.read_text()
    assert "6 runs in 3 groups" in text
    assert "0.9300 &#177; 0.0361" in text and "0 of 1" in text
    assert "Without results, so in no mean: dead." in text
    assert text.count("data:image/png;base64,") == 5
    assert 'A ends at 0.7; B ends at 0.7; C ends at 0.1.' in text
    assert "Classes" not in text  # one group was not measured
    assert "different data" not in text  # only the seed's cut differs
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)


def test_classes_side_by_side_where_all_were_measured(runs):
    table = compare.class_table(compare.grouped(
        [record.read_record(run) for run in runs[:5]]))
    assert table["columns"] == [("class", False), ("group A", True), ("group B", True)]
    assert table["rows"][0] == ("0", "1.000", "1.000")
    # Class 9 is found in 0, 2 and 7 of 10 images: F1 0, 4/12 and 14/17.
    values = [0, 4 / 12, 14 / 17]
    assert table["rows"][9][1] == (f"{np.mean(values):.3f} ± "
                                   f"{np.std(values, ddof=1):.3f}")


def test_unlike_data_and_machines_are_said(runs, tmp_path):
    other = made_run(tmp_path / "other", counts={"train": 9, "validation": 50,
                                                 "test": 100}, sha256="other")
    found = read_results(other)
    (other / "results.json").write_text(json.dumps(found | {"machine": "a phone"}))
    said = " ".join(compare.warnings([record.read_record(run)
                                      for run in (runs[0], other)]))
    assert "different data" in said and "on different machines" in said
    assert "versions" not in said


def test_class_names_are_escaped_in_the_comparison(tmp_path):
    made = [made_run(tmp_path / f"<b>{i}", {"seed": i}, class_names=(
        NASTY, *DIGITS[1:])) for i in (0, 1)]
    compare.write_comparison(made, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text and "<b>" not in text and "&lt;b&gt;0" in text


@pytest.mark.parametrize("names,changes,words", [
    ([], {}, "at least two runs, not 0"),
    (["adam0"], {}, "at least two runs, not 1"),
    (["adam0", "."], {}, "is not the folder of a run"),
    (["adam0", "nowhere"], {}, "nowhere is not the folder of a run"),
    (["adam0", "adam1/../adam0"], {}, "is given twice"),
    (["adam0", "adam1"], {"output": "page.png"}, "must end in .html"),
    (["adam0", "adam1"], {"workdir": "adam0"}, "neither --workdir nor --config")])
def test_what_cannot_be_compared_is_one_line(runs, tmp_path, names, changes, words):
    folder = runs[0].parent
    changes = {name: tmp_path / value for name, value in changes.items()}
    request = modes.Request("compare", None, changes.pop("workdir", None), images=tuple(
        str(folder / name) for name in names), **changes)
    with pytest.raises(InputError, match=words) as refused:
        modes.run(request)
    assert "\n" not in str(refused.value)


def test_a_page_that_cannot_be_written_is_one_line(runs, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be used"):
        compare.write_comparison(runs[:2], tmp_path / "file" / "page.html")


def test_half_a_page_is_never_seen(tmp_path, monkeypatch):
    workdir = made_run(tmp_path / "run")
    before = page(workdir)

    def broken(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(RunError, match="report.html could not be written: No space"):
        page(workdir)
    assert (workdir / "report.html").read_text() == before


def test_templates_are_in_the_package():
    assert {path.name for path in rendering.TEMPLATES.iterdir()} == {
        "style.css", "page.html", "parts.html", "report.html", "compare.html"}
    with pytest.raises(Exception, match="undefined"):
        rendering.render("report.html", title="a value is missing")


def test_a_copied_workdir_keeps_its_report(trained, tmp_path):
    copy = shutil.copytree(trained, tmp_path / "elsewhere")
    assert "elsewhere" in page(copy)
