"""experiments/batch_size.py gives the library's figures on the digits."""

import json
from pathlib import Path

import pytest
from PIL import Image

from cnn_jax import data, training
from cnn_jax.errors import InputError, RunError
from experiments import batch_size

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")
ROOT = Path(__file__).parents[2]
TINY = ("--epochs=1", "--updates=6", "--seeds=2", "--images=256")


@pytest.fixture
def digits(monkeypatch):
    """Loads the experiment on the digits instead of MNIST."""
    original = batch_size.make_config

    def make_config(batch: int, images: int):
        config = original(batch, images)
        config.data.name = "digits"
        return config

    monkeypatch.setattr(batch_size, "make_config", make_config)
    return make_config


def test_table_picture_and_figures(digits, tmp_path, capsys):
    batch_size.main([f"--out={tmp_path}", *TINY, "--batches", "16", "64", "16"])
    results = json.loads((tmp_path / "batch_size.json").read_text())
    small, large = results["rows"]
    assert (small["updates_per_epoch"], large["updates_per_epoch"]) == (16, 4)
    for row in (small, large):
        assert row["training_images"] == 256
        assert row["updates_per_second"] == pytest.approx(
            2 / sum(row["seconds_per_update_by_seed"]))
        assert row["seconds_per_epoch"] == pytest.approx(
            row["updates_per_epoch"] / row["updates_per_second"])
        assert len(row["after_equal_epochs"]) == len(row["after_equal_updates"]) == 2
    assert results["machine"] and "jax" in results["versions"]
    text = (tmp_path / "batch_size.txt").read_text()
    assert "256 training images" in text and "n = 2" in text
    assert "after 1 epoch " in text and "after 6 updates" in text
    assert f"{sum(small['after_equal_epochs']) / 2:.4f} ±" in text
    assert text in capsys.readouterr().out
    with Image.open(tmp_path / "batch_size.png") as image:
        assert image.size[0] > 500


def test_accuracy_is_that_of_a_run_of_the_library(digits, tmp_path):
    config = digits(16, 256)
    config.epochs, config.seed = 1, 0
    accuracies, _ = batch_size.Trainer(config, data.load(config.data, 0)).train(0, [16])
    ran = training.run(config, tmp_path / "run", quiet=True)
    assert accuracies[16] == pytest.approx(ran.test_accuracy)


def test_a_loss_that_is_not_finite_ends_it(digits, monkeypatch):
    monkeypatch.setattr(batch_size, "RATE", 1e30)
    config = digits(32, 256)
    with pytest.raises(RunError, match="batch 32.*(nan|inf) at update"):
        batch_size.Trainer(config, data.load(config.data, 0)).train(0, [8])


def made_row(batch: int) -> dict:
    return {"batch": batch, "training_images": 256, "updates_per_epoch": 256 // batch,
            "seconds_per_epoch": 2.0 + 1 / batch, "updates_per_second": 100 / batch,
            "after_equal_epochs": [0.9, 0.91], "after_equal_updates": [0.8, 0.82]}


def test_it_resumes_after_an_interruption(digits, monkeypatch, tmp_path):
    measured = []

    def measure(batch, dataset, flags):
        if batch == 64 and not measured[1:]:
            measured.append("interrupted")
            raise KeyboardInterrupt
        measured.append(batch)
        return made_row(batch)

    monkeypatch.setattr(batch_size, "measure", measure)
    command = [f"--out={tmp_path}", *TINY, "--batches", "16", "64"]
    with pytest.raises(KeyboardInterrupt):
        batch_size.main(command)
    written = json.loads((tmp_path / "batch_size.json").read_text())
    assert written["rows"] == [made_row(16)]
    assert (tmp_path / "batch_size.txt").exists()
    assert (tmp_path / "batch_size.png").exists()
    batch_size.main(command)
    assert measured == [16, "interrupted", 64]
    batch_size.main([*command, "--epochs=2"])  # other settings, so nothing is reused
    assert measured == [16, "interrupted", 64, 16, 64]
    (tmp_path / "batch_size.json").write_text("{")
    with pytest.raises(InputError, match="batch_size.json"):
        batch_size.main(command)


def test_values_within_one_decade_have_labels(monkeypatch, tmp_path):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: (
        figure.draw_without_rendering(), drawn.append(figure)))
    batch_size.picture(
        {"rows": [made_row(16), made_row(64)], "rate": 0.05, "seeds": 2,
         "epochs": 1, "updates": 6, "machine": "here"}, tmp_path / "picture.png")
    panels = drawn[0].axes
    assert [axes.get_ylabel() for axes in panels] == [
        "seconds per epoch", "updates per second", "test errors (%)"]
    for axes in panels:
        low, high = axes.get_ylim()
        shown = [label.get_text() for label in axes.get_yticklabels()
                 if low <= label.get_position()[1] <= high]
        assert len(shown) >= 2 and all(shown)
    assert [text.get_text() for text in panels[2].get_legend().get_texts()] == [
        "after 1 epoch", "after 6 updates"]


@pytest.mark.parametrize("flags, answer", [
    (["--seeds=0"], "--seeds=0"),
    (["--epochs=0"], "--epochs=0"),
    (["--updates=-3"], "--updates=-3"),
    (["--images=-1"], "--images=-1"),
    (["--batches", "0", "16"], "--batches: 0 .*1 to 1,294"),
    (["--images=256", "--batches", "16", "512", "1024"],
     "--batches: 512, 1024 .*256"),
    (["--out=setup.cfg"], "--out=setup.cfg")])
def test_bad_flags_are_refused_before_training(digits, monkeypatch, flags, answer):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(batch_size, "measure", None)
    with pytest.raises(InputError, match=answer):
        batch_size.main(flags)
