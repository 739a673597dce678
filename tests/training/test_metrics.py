"""Early stopping, lines and files of metrics, without any training."""

import json
import math

import pytest

from cnn_jax import console
from cnn_jax.console import Reporter, epoch_line
from cnn_jax.tasks.metrics import mean
from cnn_jax.workdir.progress import improvement, should_stop
from cnn_jax.workdir.recorder import Recorder


def history(*losses):
    return [{"epoch": k + 1, "step": 10 * (k + 1), "val_loss": loss,
             "val_accuracy": 1 - loss} for k, loss in enumerate(losses)]


@pytest.mark.parametrize("losses,stops", [
    ((), False),
    ((1.0, 0.9, 0.8, 0.7), False),
    ((1.0, 1.0, 1.0), True),
    ((1.0, 0.9995, 0.9991), True),       # each improvement is too small
    ((1.0, 0.9995, 0.9985), False),      # together they are enough
    ((1.0, 1.1, 0.9, 1.2), False),
    ((1.0, 1.1, 0.9, 1.2, 1.3), True),
])
def test_early_stopping_as_in_keras(losses, stops):
    """The settings are patience 2 and min_delta 1e-3."""
    assert should_stop(history(*losses), "val_loss", 2, 1e-3) is stops


def test_early_stopping_by_accuracy_goes_up_and_no_patience_never_stops():
    rising = history(0.5, 0.4, 0.3)
    assert not should_stop(rising, "val_accuracy", 2, 1e-3)
    assert should_stop(history(0.3, 0.4, 0.5), "val_accuracy", 2, 1e-3)
    assert not should_stop(history(*[1.0] * 50), "val_loss", None, 1e-3)


def test_improvement_is_higher_for_better_and_nan_is_worst():
    assert improvement({"val_loss": 0.2}, "val_loss") == -0.2
    assert improvement({"accuracy": 0.2}, "accuracy") == 0.2
    assert improvement({"val_loss": math.nan}, "val_loss") == -math.inf


def test_mean_divides_the_sums_once():
    assert mean({"loss": 6.0, "correct": 3.0, "count": 4.0}) == {
        "loss": 1.5, "accuracy": 0.75}


def test_the_epoch_line_has_keras_names_and_order():
    row = {"epoch": 3, "loss": 0.12345, "accuracy": 0.9, "val_loss": 0.2,
           "val_accuracy": 0.8, "seconds": 1.25, "images_per_second": 12345.6}
    assert epoch_line(row, 10) == (
        "epoch 3/10 - loss: 0.1235 - accuracy: 0.9000 - val_loss: 0.2000 - "
        "val_accuracy: 0.8000 - 1.2 s - 12,346 images/s")


def test_rows_after_the_resumed_step_and_partial_rows_are_removed(tmp_path):
    rows = [json.dumps({"step": step}) for step in (10, 20, 30)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(rows) + '\n{"step": 4')
    Recorder(tmp_path, 20, []).close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == rows[:2]


def test_a_loop_reports_progress(monkeypatch, capsys):
    """Without a terminal it sometimes prints a line, to stderr if requested."""
    monkeypatch.setattr(console, "QUIET_SECONDS", -1.0)
    for stderr in (False, True):
        with Reporter(stderr=stderr).track("pictures", "abc", 3, "of 64") as items:
            assert list(items) == ["a", "b", "c"]
        output = capsys.readouterr()
        assert (output.err if stderr else output.out).splitlines() == [
            f"pictures - step {done}/3 - of 64" for done in range(3)]
        assert (output.out if stderr else output.err) == ""
    with Reporter(quiet=True).track("pictures", "abc", 3, "of 64") as items:
        assert list(items) == ["a", "b", "c"]
    assert capsys.readouterr().out == ""


def test_the_progress_bar_is_closed_if_a_loop_fails(monkeypatch):
    """A bar left open hides the cursor of the terminal."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes the output for a terminal
    report = Reporter()
    with pytest.raises(KeyError):
        with report.track("pictures", "ab", 2, "of 64") as items:
            next(items)
            assert report.bar is not None
            raise KeyError
    assert report.bar is None
