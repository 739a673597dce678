"""--mode=describe prints a run's data, progress, metrics and next command."""

import pytest
from tests.support.made_runs import made_run

from cnn_jax.cli.describe import described
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.inspection.pages.record import read_record


@pytest.mark.parametrize("accuracy, epochs, changes, progress, goes_on", [
    (0.9, 3, {"epochs": 3}, "3 of 3 epochs, finished", "--config.epochs=6"),
    (0.9, 3, {"epochs": 9, "early_stopping.patience": 1,
              "early_stopping.min_delta": 9.0}, "3 of 9 epochs, ended by early",
     "run-2"),
    (None, 2, {"epochs": 9}, "2 of 9 epochs, not finished; last checkpoint: step 16",
     "run"),
    (None, 3, {"epochs": 3}, "3 of 3 epochs, finished, not evaluated", "run"),
    (None, 0, {"epochs": 3}, "0 of 3 epochs, not finished", "run")])
def test_progress_and_next_command(tmp_path, accuracy, epochs, changes, progress,
                                   goes_on):
    run = made_run(tmp_path / "run", changes, accuracy, epochs)
    if "16" in progress:
        (run / "checkpoints" / "16").mkdir(parents=True)
    lines = described(read_record(run))
    assert len(lines) <= 10
    assert lines["progress"].startswith(progress)
    assert lines["continue"].split()[-1].endswith(goes_on)
    assert str(run) in lines["continue"]


def test_metrics_of_the_best_epoch(tmp_path, capsys):
    run = made_run(tmp_path / "run", {"epochs": 3}, 0.9, 3)
    commands.run(Request("describe", None, run))
    out = capsys.readouterr().out
    for fact in ("baseline", "parameters", "digits", "accuracy: 0.9000 on 100 examples",
                 "epoch 3 by val_loss: loss: 0.6667", "jax 0.10.2", "report.html"):
        assert fact in out
    assert "images_per_second" not in out
