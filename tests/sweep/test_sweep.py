"""Sweeps: grids, searches by optuna, the table, and resuming a stopped sweep."""

import json
import shlex
import sys

import numpy as np
import pytest
from tests.support.made_runs import made_run

from cnn_jax.errors import InputError
from cnn_jax.sweep import trials
from cnn_jax.sweep.command import main
from cnn_jax.sweep.compare import positions
from cnn_jax.workdir.recorder import Recorder

# Imitates a run: writes one epoch at a time, whose loss is the rate, then the results.
FAKE = """
import pathlib, sys, time
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
folder = pathlib.Path(flags["workdir"])
folder.mkdir(exist_ok=True)
rate = float(flags["config.optimizer.learning_rate"])
if rate == 13:
    sys.exit("it failed")
rows = "epoch,step,loss,val_loss,seconds\\n"
for epoch in range(1, 4):
    rows += f"{epoch},{8 * epoch},{rate},{rate / epoch},1\\n"
    (folder / "partial").write_text(rows)
    (folder / "partial").rename(folder / "history.csv")
    time.sleep(float(flags.get("config.checkpoint.every_seconds", 0)))
(folder / "results.json").write_text("{}")
"""


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Makes sweeps start the fake instead of cnn_jax; counts its starts."""
    fake, started = tmp_path / "fake.py", []
    fake.write_text(FAKE)
    whole = trials.command_of

    def command(sweep, values):
        words = whole(sweep, values)
        started.append(values)
        return [sys.executable, "-S", "-E", str(fake), *words[3:]]

    monkeypatch.setattr(trials, "command_of", command)
    monkeypatch.setattr(trials, "SECONDS", 0.02)
    monkeypatch.chdir(tmp_path)
    return started


def test_a_grid_is_compared_and_failures_are_reported(tmp_path, runs, capsys):
    words = ["configs/lenet.py", "--grid", "optimizer.learning_rate=3,1,13", "--set",
             "seed=0", "--jobs", "2", "--folder", "runs"]
    assert main(words) == 1
    out = capsys.readouterr().out
    assert "optimizer.learning_rate=13: it failed" in out
    rows = [line.split(",") for line in
            (tmp_path / "runs" / "sweep.csv").read_text().splitlines()]
    assert rows[0][:4] == ["optimizer.learning_rate", "val_loss", "epoch", "state"]
    assert [row[:4] for row in rows[1:]] == [
        ["1", "0.3333", "3", "finished"], ["3", "1.0000", "3", "finished"],
        ["13", "", "", "failed"]]
    assert (tmp_path / "runs" / "sweep.png").stat().st_size > 3000
    best = shlex.split(out.splitlines()[-1].removeprefix("best: "))
    assert best[:4] == ["python", "-m", "cnn_jax", "--config=configs/lenet.py"]
    assert {"--config.optimizer.learning_rate=1", "--config.seed=0"} <= set(best)
    before = len(runs)
    main(words)  # only the failed one is trained again
    assert [values["optimizer.learning_rate"] for values in runs[before:]] == ["13"]


def test_combinations_and_values():
    grid = trials.all_combinations(["data.image_size=(28,28),(32,32)", "seed=0,1"])
    assert len(grid) == 4 and grid[0] == {"data.image_size": "(28,28)", "seed": "0"}
    for text in ("seed", "=1", "seed="):
        with pytest.raises(InputError, match="FIELD=VALUE"):
            trials.all_combinations([text])


@pytest.mark.parametrize("words, fact", [
    ([], "config"), (["lenet.py", "--jobs=0"], "--jobs=0"),
    (["lenet.py", "--jobs=two"], "two"), (["lenet.py", "--gird", "seed=1"], "--gird"),
    (["lenet.py"], "--grid FIELD")])
def test_a_wrong_command_line_is_refused(words, fact):
    with pytest.raises(InputError, match=fact):
        main(words)


@pytest.mark.parametrize("words, fact", [
    (["--grid", "batch_szie=16,32"], "config.batch_size"),
    (["--grid", "seed=0,1", "--set", "epohcs=3"], "config.epochs"),
    (["--grid", "seed=0,1", "--set", "epochs"], "FIELD=VALUE"),
    (["--grid", "batch_size=16,many"], "many"),
    (["--grid", "optimizer.name=adam,adamm"], "adamm"),
    (["--grid", "seed=0,1", "--monitor=val_acuracy"], "--monitor=val_acuracy"),
    (["--search", "batch_szie=16:32"], "config.batch_size"),
    (["--search", "optimizer.learning_rate=-1:1"], "-1.0"),
    (["--search", "seed=9:0"], "LOW < HIGH")])
def test_a_wrong_field_is_refused_before_the_first_trial(tmp_path, runs, words, fact):
    with pytest.raises(InputError) as error:
        main(["configs/lenet.py", *words, "--folder", "runs"])
    assert fact in str(error.value)
    assert not runs and not (tmp_path / "runs").exists()


def test_numbers_are_placed_by_size_and_names_evenly():
    places, labels = positions(["1e-3", "1e-1", "1e-2"])
    np.testing.assert_allclose(places, [0, 1, 0.5], atol=1e-6)
    assert [label for _, label in sorted(labels)] == ["0.001", "0.1"]
    np.testing.assert_allclose(positions(["sgd", "adam", "sgd"])[0], [1, 0, 1])
    np.testing.assert_allclose(positions(["2", "2"])[0], 0.5)


def test_a_search_prunes_and_resumes(tmp_path, runs, capsys):
    pytest.importorskip("optuna")
    words = ["configs/lenet.py", "--search", "optimizer.learning_rate=log:1e-3:1e3",
             "--set", "checkpoint.every_seconds=0.1", "--folder", "runs", "--trials"]
    assert main([*words, "8"]) == 0
    first = len(runs)
    out = capsys.readouterr().out
    assert "pruned" in out and "best: python -m cnn_jax" in out
    assert main([*words, "9"]) == 0  # one more
    rows = (tmp_path / "runs" / "sweep.csv").read_text().splitlines()
    assert len(rows) == 10 and len(runs) >= first + 1
    other = ["configs/lenet.py", "--search", "batch_size=16:32", "--set",
             "optimizer.learning_rate=2", "--folder", "runs", "--trials", "2"]
    assert main(other) == 0  # other trials, in the same folder
    assert len((tmp_path / "runs" / "sweep.csv").read_text().splitlines()) == 3
    rates = [row.partition(",")[0] for row in rows[1:]]
    assert all(repr(float(f"{float(rate):.4g}")) == rate for rate in rates), rates


def test_a_search_without_optuna_says_what_to_install(tmp_path, runs, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match="cnn_jax.sweep."):
        main(["configs/lenet.py", "--search", "seed=0:9", "--folder", "runs"])


def test_the_best_epoch_is_read_from_the_files_of_a_run(tmp_path):
    sweep = trials.Sweep("configs/lenet.py", (), tmp_path, "val_accuracy")
    values = {"seed": "1"}
    made_run(trials.workdir_of(sweep, values), {"epochs": 3})
    trial = trials.run_trial(sweep, values)  # finished: it starts nothing
    assert trial.best["epoch"] == 3 and json.dumps(trial.best)


def test_a_run_in_its_first_epoch_has_no_rows_yet(tmp_path):
    sweep = trials.Sweep("configs/lenet.py", (), tmp_path, "val_accuracy")
    Recorder(tmp_path, 0, []).close()  # the file has the names of the columns
    assert (tmp_path / "history.csv").stat().st_size
    assert trials.rows_of(sweep, tmp_path) == []
    (tmp_path / "history.csv").write_text("")
    with pytest.raises(InputError, match="loss, seconds"):
        trials.rows_of(sweep, tmp_path)


@pytest.mark.slow
def test_a_real_sweep(tmp_path, capsys):
    """It trains two runs of an epoch through the command line."""
    assert main(["configs/lenet.py", "--grid", "seed=0,1", "--set", "epochs=1", "--set",
                 "data.limit=96", "--folder", str(tmp_path / "runs"), "--jobs", "2"]
                ) == 0
    assert "best: python -m cnn_jax" in capsys.readouterr().out
