"""Seeds trained at once are the runs that they are alone, up to rounding."""

import itertools
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest
from tests.support.tiny_runs import (RICH, assert_same_bits, distance, end, environment,
                                     losses, main, read_results, restore, start_python,
                                     tiny)

from cnn_jax import training
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.errors import InputError, RunError
from cnn_jax.training import loop, seeds
from cnn_jax.workdir import results

pytestmark = pytest.mark.usefixtures("compiled_once")

# Dropout, batch norm, augmentation, a mean of the parameters; no Adam, which divides a
# gradient that is zero but for rounding by its own size.
ALIKE = RICH | {"optimizer.name": "momentum", "data.name": "shapes_colour",
                "data.split": "first", "steps_per_call": 4}
SEEDS = (0, 1)
CLOSE = 1e-5  # relative, of the parameters after all steps


@pytest.fixture(autouse=True, scope="module")
def undrawn():
    """Pictures take half of the time of such a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(results, "draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def together(tmp_path_factory, compiled_once, undrawn):
    """The folder of two seeds trained at once, and what `run_seeds` returned."""
    folder = tmp_path_factory.mktemp("together")
    return folder, training.run_seeds(tiny(ALIKE), 2, folder, quiet=True)


@pytest.fixture(scope="module")
def alone(tmp_path_factory, compiled_once, undrawn):
    """The folder of the same two, trained one after another."""
    folder = tmp_path_factory.mktemp("alone")
    for seed in SEEDS:
        training.run(tiny(ALIKE, seed=seed), folder / f"seed{seed}", quiet=True)
    return folder


def final(folder, seed: int, changes: dict = ALIKE):
    return restore(folder / f"seed{seed}", tiny(changes, seed=seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_each_seed_is_the_run_that_it_is_alone(together, alone, seed):
    ours, theirs = (final(folder, seed) for folder in (together[0], alone))
    assert int(ours.step) == int(theirs.step) == 24
    for part in ("params", "batch_stats", "opt_state", "average"):
        apart = distance(getattr(ours, part), getattr(theirs, part))
        print(part, apart)
        assert apart < CLOSE, part
    name = f"seed{seed}"
    a, b = (losses(folder / name) for folder in (together[0], alone))
    assert a[0] == b[0]
    np.testing.assert_allclose(np.array(a[1:], float), np.array(b[1:], float),
                               rtol=1e-4, atol=1e-6)
    a, b = (read_results(folder / name) for folder in (together[0], alone))
    assert a.pop("seeds_at_once") == 2 and a.keys() == b.keys()
    for field in ("seed", "params", "epochs", "best_epoch", "test_examples"):
        assert a[field] == b[field], field
    assert a["test_accuracy"] == pytest.approx(b["test_accuracy"], abs=0.006)
    a, b = (sorted(path.name for path in (folder / name).iterdir())
            for folder in (together[0], alone))
    assert a == b


def test_the_comparison_would_see_another_seed(together, alone):
    apart = distance(final(together[0], 0).params, final(alone, 1).params)
    assert apart > 1e3 * CLOSE


def test_what_is_returned_is_what_is_written(together):
    folder, returned = together
    assert returned == [read_results(folder / f"seed{seed}") for seed in SEEDS]


def test_finished_seeds_are_only_evaluated(together, capsys):
    folder, returned = together
    assert training.run_seeds(tiny(ALIKE), 2, folder) == returned
    said = capsys.readouterr().out
    assert "compiling" not in said
    for seed in SEEDS:
        assert f"seed {seed}: already finished after epoch 3: evaluating only" in said


def test_a_seed_can_be_added(together, tmp_path, capsys):
    """The finished ones take no part, and the new one is as if it had been."""
    folder = tmp_path / "more"
    training.run_seeds(tiny(ALIKE, seed=1), 1, folder, quiet=True)
    training.run_seeds(tiny(ALIKE), 2, folder)
    said = capsys.readouterr().out
    assert "seed 1: already finished" in said and "seed 0: epoch 3/3" in said
    assert "seeds_at_once" not in read_results(folder / "seed0")  # it was alone
    assert distance(final(folder, 0).params, final(together[0], 0).params) < CLOSE


def stop_after(monkeypatch, rows: int) -> None:
    """SIGTERM to this process when so many rows have been written."""
    append, left = seeds.Recorder.append, [rows]

    def counted(recorder, row):
        append(recorder, row)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr(seeds.Recorder, "append", counted)


@pytest.mark.parametrize("rows, step", [(1, 4), (3, 8), (5, 12)])
def test_stopped_seeds_go_on_bit_for_bit(together, tmp_path, monkeypatch, rows, step):
    """Within an epoch of 8 steps, in 2 calls, and at its end."""
    folder = tmp_path / "stopped"
    stop_after(monkeypatch, rows + (2 if step > 8 else 0))  # a row for each epoch
    with pytest.raises(training.Stopped, match="SIGTERM: saved are the steps "
                       rf"{step} of seed 0, {step} of seed 1; the same"):
        training.run_seeds(tiny(ALIKE), 2, folder, quiet=True)
    monkeypatch.undo()
    for seed in SEEDS:
        assert (folder / f"seed{seed}" / "checkpoints" / str(step)).exists()
    training.run_seeds(tiny(ALIKE), 2, folder, quiet=True)
    for seed in SEEDS:
        assert_same_bits(final(folder, seed), final(together[0], seed))


def test_checkpoints_are_made_within_an_epoch(tmp_path, monkeypatch):
    saved, save = [], seeds.save
    monkeypatch.setattr(seeds, "save", lambda this, state, progress, row=None: (
        saved.append((this.config.seed, int(state.step), progress.step)),
        save(this, state, progress, row)))
    training.run_seeds(tiny(ALIKE, epochs=1), 2, tmp_path, quiet=True)
    assert saved == [(0, 4, 4), (1, 4, 4), (0, 8, 8), (1, 8, 8)]


def test_times_are_shares(tmp_path, monkeypatch):
    clock = itertools.count()  # a second between any two looks at it
    monkeypatch.setattr(seeds.time, "perf_counter", lambda: float(next(clock)))
    results = training.run_seeds(tiny(ALIKE, epochs=1), 2, tmp_path, quiet=True)
    assert [one["train_seconds"] for one in results] == [1.0, 1.0]  # two looks, shared


def test_seeds_that_are_not_level_become_so(together, tmp_path):
    """One was killed after its first epoch: it catches up, then both go on."""
    folder = tmp_path / "further"
    shutil.copytree(together[0], folder)
    for seed in SEEDS:
        (folder / f"seed{seed}" / "results.json").unlink()
        for path in (folder / f"seed{seed}" / "checkpoints").iterdir():
            if path.name.isdigit() and int(path.name) > (8, 16)[seed]:
                shutil.rmtree(path)
    training.run_seeds(tiny(ALIKE), 2, folder, quiet=True)
    for seed in SEEDS:
        assert distance(final(folder, seed).params,
                        final(together[0], seed).params) < CLOSE


def test_a_seed_that_stops_early_leaves_the_others(alone, tmp_path, monkeypatch,
                                                   capsys):
    """And the one that is left trains as it would alone."""
    finished = loop.Run.finished
    monkeypatch.setattr(loop.Run, "finished", lambda this, progress: (
        finished(this, progress) or this.config.seed == 0 and progress.step >= 8))
    training.run_seeds(tiny(ALIKE), 2, tmp_path)
    said = capsys.readouterr().out
    assert "seed 0: early stopping: " in said and "seed 1: early" not in said
    assert said.count("compiling") == 2
    epochs = [read_results(tmp_path / f"seed{seed}")["epochs"] for seed in SEEDS]
    assert epochs == [1, 3]
    assert distance(final(tmp_path, 1).params, final(alone, 1).params) < CLOSE


def test_a_seed_that_diverges_ends_alone(together, tmp_path, monkeypatch, capsys):
    drain = seeds.drain

    def spoilt(this, progress, fetched, recorder):
        if this.config.seed == 1 and progress.step > 8:
            fetched = [sums | {"loss": sums["loss"] * np.nan} for sums in fetched]
        return drain(this, progress, fetched, recorder)

    monkeypatch.setattr(seeds, "drain", spoilt)
    with pytest.raises(RunError, match="^seed 1: the loss is nan at step 9 "):
        training.run_seeds(tiny(ALIKE), 2, tmp_path)
    assert "seed 1: the loss is nan at step 9 " in capsys.readouterr().out
    assert not (tmp_path / "seed1" / "results.json").exists()
    assert read_results(tmp_path / "seed0")["epochs"] == 3
    assert distance(final(tmp_path, 0).params, final(together[0], 0).params) < CLOSE


@pytest.mark.parametrize("changes, words", [
    ({"data.split": "stratified"}, "seeds 0 and 1 divide the data otherwise"),
    ({"data.name": "digits"}, "a set that has no test part of its own (data.test ="),
    ({"coordinator": "127.0.0.1:9", "num_processes": 1, "process_id": 0},
     "config.coordinator = '127.0.0.1:9': seeds are trained at once in one process"),
    ({"seed": 2**31 - 1}, "--seeds=2 from config.seed = 2147483647 on would end at")])
def test_what_cannot_be_is_refused(tmp_path, changes, words):
    with pytest.raises(InputError, match=re.escape(words)):
        training.run_seeds(tiny(ALIKE | changes), 2, tmp_path / "none", quiet=True)
    assert not (tmp_path / "none").exists()


def test_the_folder_of_a_run_is_refused(alone):
    with pytest.raises(InputError, match="seed0 is the folder of a run, and seeds get"):
        training.run_seeds(tiny(ALIKE), 2, alone / "seed0", quiet=True)


def test_a_run_does_not_go_where_seeds_are(together):
    for ask in (lambda: training.run(tiny(ALIKE), together[0], quiet=True),
                lambda: commands.run(Request("eval", None, together[0]))):
        with pytest.raises(InputError, match="holds the runs of several seeds: name "
                                             "one of them, such as .*seed0"):
            ask()


def test_all_results_are_written_before_anything_is_drawn(tmp_path, monkeypatch):
    there = []
    monkeypatch.setattr(results, "draw", lambda this, *_: there.append(
        len(list(tmp_path.glob("seed*/results.json")))))
    training.run_seeds(tiny(ALIKE, epochs=1), 2, tmp_path, quiet=True)
    assert there == [2, 2]


def test_a_stop_when_all_have_diverged_says_why(tmp_path, monkeypatch):
    monkeypatch.setattr(seeds, "drain", lambda this, progress, *_: (
        os.kill(os.getpid(), signal.SIGTERM) if this.config.seed == 0 else None,
        not_finite(progress))[1])
    with pytest.raises(RunError, match="^seeds 0, 1: all gone at 4$"):
        training.run_seeds(tiny(ALIKE), 2, tmp_path, quiet=True)


def not_finite(progress):
    raise loop.Diverged(f"all gone at {progress.step}")


def test_seeds_are_for_training(together):
    with pytest.raises(InputError, match="^--seeds=2 is only for --mode=train"):
        commands.run(Request("eval", None, together[0] / "seed0", seeds=2))


def test_main_trains_seeds(tmp_path):
    changes = ALIKE | {"model.name": "ai_edu_colour_cnn", "epochs": 1}
    code, output, errors = main(tmp_path / "seeds", changes, "--seeds=2")
    assert code == 0, errors
    assert output.count("data: shapes_colour") == 1
    for seed in (0, 1):
        assert f"seed {seed}: epoch 1/1 - loss: " in output
        workdir = tmp_path / "seeds" / f"seed{seed}"
        assert read_results(workdir)["seed"] == seed
        assert (workdir / "report.html").exists()
    a, b = (read_results(tmp_path / "seeds" / f"seed{seed}")["test_loss"]
            for seed in (0, 1))
    assert output.splitlines()[-1].endswith(
        f"test loss {(a + b) / 2:.4f} ± {abs(a - b) / 2**.5:.4f}")


DEVICES = """
import json, sys
sys.path[:0] = ['.', 'tests']
from pathlib import Path
from tiny_runs import distance, restore, tiny
from cnn_jax import training
folder, changes = Path(sys.argv[1]), json.loads(sys.argv[2])
for parallel, devices in (('jit', 1), ('jit', 2), ('pmap', 2)):
    fields = changes | {'parallel': parallel, 'devices': devices}
    training.run_seeds(tiny(fields), 2, folder / f'{parallel}{devices}', quiet=True)
for name in ('jit2', 'pmap2'):
    for seed in (0, 1):
        ours, theirs = (restore(folder / run / f'seed{seed}', tiny(changes, seed=seed))
                        for run in (name, 'jit1'))
        print(name, seed, distance(ours.params, theirs.params))
"""


@pytest.mark.slow
def test_on_two_devices_as_on_one(tmp_path):
    process = environment(devices=2)
    process["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    changes = json.dumps(ALIKE | {"epochs": 1})
    code, output, errors = end(start_python("-c", DEVICES, tmp_path, changes,
                                            env=process))
    assert code == 0, errors
    found = {" ".join(line.split()[:2]): float(line.split()[2])
             for line in output.splitlines()}
    print(found)
    assert list(found) == ["jit2 0", "jit2 1", "pmap2 0", "pmap2 1"]
    assert max(found.values()) < CLOSE
