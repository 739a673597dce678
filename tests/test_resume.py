"""Exact resume: a run that was stopped or killed ends bit for bit as one that was not.

The runs have batch norm, dropout, augmentation, an average of the parameters, gradient
accumulation, adam and a schedule; checkpoints lie inside epochs too.
"""

import json
import os
import random
import shutil
import signal

import pytest
from tiny_runs import (RICH, end, main, read_results, read_rows, refusal, restore,
                       start_main, tiny, wait_until)

from cnn_jax import training
from cnn_jax.native import library
from cnn_jax.training.checkpoint import Checkpoints, leaves

pytestmark = pytest.mark.usefixtures("compiled_once")

STEPS_PER_EPOCH = 8  # 128 images, 16 a step; RICH trains 3 epochs
LONG = RICH | {"epochs": 8}
IN_ONE_CALL = RICH | {"steps_per_call": 3}  # 3 + 3 + 1 + 1 steps an epoch


def losses(workdir) -> list[list[str]]:
    """history.csv without its last two columns, which are times."""
    lines = (workdir / "history.csv").read_text().splitlines()
    assert lines[0].endswith("learning_rate,seconds,images_per_second")
    return [line.split(",")[:-2] for line in lines]


def assert_same_run(ours, theirs) -> None:
    """The same final state, figures and rows, but for the times."""
    a, b = read_results(ours), read_results(theirs)
    for name in ("params_sha256", "epochs", "best_epoch", "validation_accuracy",
                 "test_accuracy", "test_loss", "test_examples"):
        assert a[name] == b[name], name
    assert losses(ours) == losses(theirs)
    assert read_rows(ours) == read_rows(theirs)


def run_whole(folder, changes):
    """An uninterrupted run that keeps the checkpoint of every step."""
    training.run(tiny(changes | {"checkpoint.keep": 1000}), folder, quiet=True)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, compiled_once):
    return run_whole(tmp_path_factory.mktemp("runs") / "whole",
                     RICH | {"checkpoint.every_steps": 1})


@pytest.fixture(scope="module")
def whole_in_calls(tmp_path_factory, compiled_once):
    return run_whole(tmp_path_factory.mktemp("runs") / "whole", IN_ONE_CALL)


def killed_after(whole, workdir, step: int):
    """A copy of a run as a kill leaves it after the checkpoint of `step`."""
    shutil.copytree(whole, workdir)
    (workdir / "results.json").unlink()
    for checkpoint in (workdir / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    return workdir


BOUNDARIES = {"mid-epoch": 11, "last step of an epoch": STEPS_PER_EPOCH,
              "first of the next": STEPS_PER_EPOCH + 1,
              "before the last step of the run": 3 * STEPS_PER_EPOCH - 1,
              "last step of the run": 3 * STEPS_PER_EPOCH}


@pytest.mark.parametrize("boundary", BOUNDARIES)
def test_resume_at_boundary(whole, tmp_path, boundary):
    workdir = killed_after(whole, tmp_path / "run", BOUNDARIES[boundary])
    training.run(tiny(RICH | {"checkpoint.every_steps": 1}), workdir, quiet=True)
    assert_same_run(workdir, whole)


def test_resume_at_boundary_of_a_complete_run_trains_no_step(
        whole, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    files = {path: path.read_bytes() for path in workdir.iterdir() if path.is_file()}

    def fail(*_):
        raise AssertionError("a complete run was trained on")
    monkeypatch.setattr("cnn_jax.training.loop.fit", fail)
    training.run(tiny(RICH | {"checkpoint.every_steps": 1, "checkpoint.keep": 1000}),
                 workdir, quiet=True)
    for path, content in files.items():
        assert path.read_bytes() == content, path


@pytest.mark.parametrize("step", [3, 6, STEPS_PER_EPOCH + 3])
def test_resume_at_boundary_of_several_steps_in_one_call(
        whole_in_calls, tmp_path, step):
    workdir = killed_after(whole_in_calls, tmp_path / "run", step)
    training.run(tiny(IN_ONE_CALL), workdir, quiet=True)
    assert_same_run(workdir, whole_in_calls)


def test_the_comparison_can_fail(whole, tmp_path):
    """A checkpoint that is one value off does not end in the same run."""
    workdir = killed_after(whole, tmp_path / "run", 3 * STEPS_PER_EPOCH - 1)
    state = restore(workdir, tiny(RICH))
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        _, meta = checkpoints.restore(checkpoints.latest, state)
    shutil.rmtree(workdir / "checkpoints" / str(3 * STEPS_PER_EPOCH - 1))
    leaves(state.opt_state)["inner_opt_state/0/mu/head/bias"][0] += 1e-6
    with Checkpoints(workdir / "checkpoints", keep=1000) as checkpoints:
        checkpoints.save(3 * STEPS_PER_EPOCH - 1, state, meta)
    training.run(tiny(RICH | {"checkpoint.every_steps": 1}), workdir, quiet=True)
    assert (read_results(workdir)["params_sha256"]
            != read_results(whole)["params_sha256"])


def rows_written(workdir) -> int:
    try:
        return (workdir / "metrics.jsonl").read_bytes().count(b"\n")
    except FileNotFoundError:
        return 0


def kill_at_random(workdir, changes, draw: random.Random, rows: int) -> bool:
    """Starts a run and kills it so many rows (drawn) and milliseconds later.

    Returns whether it was still training.
    """
    process = start_main(workdir, changes)
    begun = rows_written(workdir)
    wait_until(lambda: rows_written(workdir) != begun, process)  # it trains by now
    target = rows_written(workdir) + draw.randrange(rows)
    delay = draw.uniform(0, 0.1)
    wait_until(lambda: rows_written(workdir) >= target or process.poll() is not None,
               process)
    try:
        process.wait(delay)
    except Exception:
        os.kill(process.pid, signal.SIGKILL)
    code = end(process)[0]
    print(f"killed after row {target} and {1000 * delay:.0f} ms: exit code {code}, "
          f"checkpoints {sorted(os.listdir(workdir / 'checkpoints'))}")
    assert code in (0, -signal.SIGKILL)
    return code != 0


def kill_and_resume(whole, workdir, changes, kills: int, seed: int) -> None:
    """Kills a run `kills` times, lets it end, and compares it with a whole one."""
    print("seed", seed)
    draw, done = random.Random(seed), 0
    rows = max(rows_written(whole) // (kills + 1), 1)
    while done < kills:
        done += kill_at_random(workdir, changes, draw, rows)
    code, output, errors = main(workdir, changes)
    assert code == 0 and "resuming after step" in output, (output, errors)
    assert_same_run(workdir, whole)


@pytest.fixture(scope="module")
def long(tmp_path_factory, compiled_once):
    folder = tmp_path_factory.mktemp("runs") / "long"
    training.run(tiny(LONG), folder, quiet=True)
    return folder


def test_three_kills(long, tmp_path):
    kill_and_resume(long, tmp_path / "run", LONG, kills=3, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    RICH, IN_ONE_CALL, RICH | {"model.name": "lenet5", "optimizer.name": "momentum"},
    RICH | {"model.conv": "onednn"}],
    ids=["one step a call", "three steps a call", "lenet5", "onednn"])
def test_twenty_kills_without_a_compilation_cache(tmp_path, monkeypatch, changes):
    """Every process compiles anew, as a user's does."""
    if changes.get("model.conv") == "onednn" and library.load() is None:
        pytest.skip(library.describe())
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
    changes = changes | {"epochs": 40}
    training.run(tiny(changes), tmp_path / "whole", quiet=True)
    kill_and_resume(tmp_path / "whole", tmp_path / "run", changes, kills=20, seed=12)


# Signals

@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_the_step_just_done(long, tmp_path, number, code):
    seed = 20260731 + code
    print("seed", seed)
    process = start_main(tmp_path, LONG)
    target = random.Random(seed).randrange(1, rows_written(long) // 3)
    wait_until(lambda: rows_written(tmp_path) >= target, process)
    process.send_signal(number)
    message = refusal(end(process), code)
    with Checkpoints(tmp_path / "checkpoints", writing=False) as checkpoints:
        step = checkpoints.latest
    name = signal.Signals(number).name
    assert f"{name}: step {step} is saved in {tmp_path}" in message
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == step
    training.run(tiny(LONG), tmp_path, quiet=True)
    assert losses(tmp_path) == losses(long)
    assert (read_results(tmp_path)["params_sha256"]
            == read_results(long)["params_sha256"])
