"""A range test finds a learning rate, and training can use it."""

import numpy as np
import pytest
from tests.support.tiny_runs import tiny

from cnn_jax import training
from cnn_jax.cli import commands, config_file
from cnn_jax.cli.request import Request
from cnn_jax.config import check
from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.training.lr_find import (HIGH, LOW, UPDATES, RangeTest, find_rate,
                                      rising_rate)
from cnn_jax.workdir.folder import read_config


def valley(steepest: float, minimum: float) -> RangeTest:
    """Makes losses over log rates: flat, falling around one rate, rising after another.
    """
    rates = np.array([rising_rate(update) for update in range(UPDATES)])
    x = np.log10(rates)
    losses = (2 - 1.5 / (1 + np.exp(-6 * (x - np.log10(steepest))))
              + 0.01 * np.maximum(x - np.log10(minimum), 0) * 100)
    return RangeTest(rates, losses, losses)


def test_suggested_rates():
    curve = valley(1e-3, 1e-1)
    assert curve.rates[0] == pytest.approx(LOW) and curve.rates[-1] == pytest.approx(
        HIGH)
    assert curve.steepest == pytest.approx(1e-3, rel=0.2)
    assert curve.at_minimum == pytest.approx(1e-1, rel=0.3)
    assert curve.tenth == pytest.approx(curve.at_minimum / 10)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"optimizer.name": "sgd"}, {"optimizer.accumulate_steps": 2, "data.stream": True}])
def test_a_range_test_of_the_real_step(tmp_path, monkeypatch, changes):
    """Plain SGD learns nothing at 1e-6 and diverges at 10."""
    monkeypatch.chdir(tmp_path)
    curve = find_rate(tiny(changes | {"epochs": 1}), Reporter(quiet=True))
    assert np.isfinite(curve.losses).all() and curve.losses[0] > curve.smoothed.min()
    assert 1e-5 < curve.steepest <= curve.at_minimum
    assert list(tmp_path.iterdir()) == []  # it keeps nothing


def test_the_command_and_auto(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    config, curve, trained = tiny(), valley(1e-2, 1.0), []
    monkeypatch.setattr(training, "run",
                        lambda config, *_, **__: trained.append(config))
    monkeypatch.setattr("cnn_jax.cli.lr_find.find_rate", lambda *_: curve)
    commands.run(Request("train", config, None, auto_rate=True))
    rate = trained[0].optimizer.learning_rate
    assert rate == pytest.approx(curve.steepest, rel=0.05)
    check(trained[0])
    for workdir in (None, tmp_path / "run"):
        commands.run(Request("lr_find", config, workdir))
        out = capsys.readouterr().out
        assert f"--config.optimizer.learning_rate={rate:.2g}" in out
        picture = (workdir or tmp_path) / "lr_find.png"
        assert picture.stat().st_size > 5000


def test_auto_is_taken_from_the_command_line(tmp_path):
    argv, is_auto = config_file.without_auto_rate(
        ["main.py", "--config.optimizer.learning_rate=auto", "--config.epochs=3"])
    assert is_auto and argv == ["main.py", "--config.epochs=3"]
    for argv in (["main.py", "--config.optimizer.learning_rate", "auto"],
                 ["main.py", "--config.optimizer.learning_rate=auto"]):
        assert config_file.without_auto_rate(argv) == (["main.py"], True)
    other = ["main.py", "--config.optimizer.learning_rate=0.1"]
    assert config_file.without_auto_rate(other) == (other, False)
    with pytest.raises(InputError, match="auto.*lr_find"):
        commands.run(Request("eval", tiny(), None, auto_rate=True))


def test_a_resumed_run_keeps_the_rate_that_was_found(tmp_path, monkeypatch):
    from cnn_jax.cli.lr_find import with_found_rate
    from cnn_jax.config import to_json
    config = tiny({"optimizer.learning_rate": 0.03})
    (tmp_path / "config.json").write_text(to_json(config))
    kept = with_found_rate(tiny(), tmp_path)
    assert kept.optimizer.learning_rate == 0.03
    assert read_config(tmp_path).optimizer.learning_rate == 0.03
