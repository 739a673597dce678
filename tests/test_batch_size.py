"""experiments/batch_size.py on the digits: its figures are those of the library."""

import json

import pytest
from PIL import Image

from cnn_jax import training
from cnn_jax.errors import RunError
from experiments import batch_size

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def digits(monkeypatch):
    """The experiment, on the digits in place of MNIST."""
    original = batch_size.make_config

    def make_config(batch: int, images: int):
        config = original(batch, images)
        config.data.name = "digits"
        return config

    monkeypatch.setattr(batch_size, "make_config", make_config)
    return make_config


def test_table_picture_and_figures(digits, tmp_path, capsys):
    batch_size.main(["--out", str(tmp_path), "--epochs=1", "--updates=6", "--seeds=2",
                     "--images=256", "--batches", "16", "64"])
    results = json.loads((tmp_path / "batch_size.json").read_text())
    small, large = results["rows"]
    assert (small["updates_per_epoch"], large["updates_per_epoch"]) == (16, 4)
    for row in (small, large):
        assert row["training_images"] == 256 and row["updates_per_second"] > 0
        assert row["seconds_per_epoch"] == pytest.approx(
            row["updates_per_epoch"] / row["updates_per_second"])
        assert len(row["after_equal_epochs"]) == len(row["after_equal_updates"]) == 2
    text = (tmp_path / "batch_size.txt").read_text()
    assert "256 training images" in text and "n = 2" in text
    assert f"{sum(small['after_equal_epochs']) / 2:.4f} ±" in text
    assert text in capsys.readouterr().out
    assert Image.open(tmp_path / "batch_size.png").size[0] > 500

    config = digits(16, 256)
    config.epochs, config.seed = 1, 0
    ran = training.run(config, tmp_path / "run", quiet=True)
    assert small["after_equal_epochs"][0] == pytest.approx(ran["test_accuracy"])


def test_a_loss_that_is_not_finite_ends_it(digits, monkeypatch):
    monkeypatch.setattr(batch_size, "RATE", 1e30)
    with pytest.raises(RunError, match="batch 32: the loss is (nan|inf) at update"):
        batch_size.Trainer(32, 256).train(0, [8])
