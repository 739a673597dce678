"""Several learning rates in one program: each is an independent run."""

import itertools
from typing import Any

import jax
import numpy as np
import pytest
from tests.support.tiny_runs import tiny

from cnn_jax.cli import commands
from cnn_jax.cli.lr_find import parse_rates
from cnn_jax.cli.request import Request
from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.training import rates as module
from cnn_jax.training.loop import (Programs, compile_training, kept_leaves,
                                    split_leaves)
from cnn_jax.training.lr_find import open_updates, update_losses
from cnn_jax.training.rates import Comparison, compare_rates, stack, train_members
from cnn_jax.training.setup import Run
from cnn_jax.workdir.progress import Progress

RATES, UPDATES = [0.003, 0.2], 10  # more than an epoch
CHANGES = {"optimizer.name": "momentum", "optimizer.weight_decay": 1e-3,
           "augment.horizontal_flip": True,
           # As for batches of 32 images: the rates are halved.
           "optimizer.base_batch_size": 32}
QUIET = Reporter(quiet=True)


def losses_of(run: Run, state: Any, programs: Programs) -> np.ndarray:
    """Trains from a state on the host."""
    losses = update_losses(run, run.placement.replicate(state), programs)
    return np.array(list(itertools.islice(losses, UPDATES)))


@pytest.fixture(scope="module")
def alone():
    """Computes losses of the training program at the second rate, and of N = 1 at both.
    """
    config = tiny(CHANGES | {"optimizer.learning_rate": RATES[1],
                             "schedule.name": "constant"})
    with open_updates(config, UPDATES) as (run, state):
        assert state.batch_stats and jax.tree.leaves(state.opt_state)
        plain = losses_of(run, state, compile_training(run, state, Progress()))
        members = [stack(config, np.array([rate]), state) for rate in RATES]
        programs = compile_training(run, members[0], Progress(), train_members(run))
        return plain, np.concatenate(
            [losses_of(run, member, programs) for member in members], axis=-1)


def test_one_rate_equals_the_plain_loop(alone):
    plain, single = alone
    np.testing.assert_allclose(single[:, 1], plain, rtol=1e-5)


def test_each_of_several_rates_is_an_independent_run(alone):
    """The config's schedule is not constant, and has no effect."""
    config = tiny(CHANGES | {"schedule.name": "onecycle"})
    result = compare_rates(config, np.array([*RATES, 1e30]), QUIET, UPDATES)
    np.testing.assert_allclose(result.losses[:, :2], alone[1], rtol=1e-5)
    assert result.diverged.tolist() == [False, False, True]
    assert abs(result.losses[-1, 0] - result.losses[-1, 1]) > 0.01  # they do differ


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"optimizer.accumulate_steps": 2, "optimizer.name": "adam", "data.stream": True},
    {"optimizer.name": "muon", "optimizer.depth_decay": 0.5, "parallel": "pmap",
     "optimizer.ema_decay": 0.9, "model.freeze": "group1"}])
def test_other_programs(changes):
    pair = compare_rates(tiny(changes), np.array(RATES), QUIET, UPDATES)
    for rate, losses in zip(RATES, pair.losses.T):
        single = compare_rates(tiny(changes), np.array([rate]), QUIET, UPDATES)
        np.testing.assert_allclose(losses, single.losses[:, 0], rtol=1e-3)


def comparison(*last: float) -> Comparison:
    """Makes losses that start at 2 and then stay at other values."""
    losses = np.array([[2.0] * len(last), *[last] * 50])
    return Comparison(np.geomspace(1e-3, 1, len(last)), losses)


def test_diverged_rates_and_the_best_rate():
    result = comparison(1.5, 0.5, np.nan, 30.0, np.inf)
    assert result.diverged.tolist() == [False, False, True, True, True]
    assert result.best == 1
    with pytest.raises(InputError):
        comparison(np.nan, 30.0).best


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = []
    monkeypatch.setattr("cnn_jax.cli.lr_find.compare_rates", lambda _, rates, __: (
        asked.append(rates), comparison(1.5, 0.5, np.nan)._replace(rates=rates))[1])
    commands.run(Request("lr_find", tiny(), None, rates="3:1e-3:1e-1"))
    assert asked[0].tolist() == pytest.approx([1e-3, 1e-2, 1e-1])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[2:5]] == ["no", "no", "yes"]
    assert lines[5].endswith("--config.optimizer.learning_rate=0.01")
    assert (tmp_path / "lr_find.png").stat().st_size > 5000


@pytest.mark.parametrize("text", ["", "1", "x", "3:1", "3:1:2:3", "3:2:1", "3:0:1",
                                  "3:nan:1", "3:1:inf", "2.5"])
def test_rates_that_are_refused(text):
    with pytest.raises(InputError, match="N:LOW:HIGH"):
        parse_rates(text)


def test_rates_are_for_lr_find_and_small_networks(monkeypatch):
    with pytest.raises(InputError, match="--rates"):
        commands.run(Request("train", tiny(), None, rates="3"))
    monkeypatch.setattr(module, "memory_bytes", lambda devices: 2**20)
    with pytest.raises(InputError, match=r"12 .* \d+ "):
        compare_rates(tiny(), np.geomspace(1e-3, 1, 12), QUIET)


def test_cpu_programs_keep_the_parameters_and_donate_the_rest():
    with open_updates(tiny(), 1) as (_, state):
        kept, donated = split_leaves(state, kept_leaves(state, "cpu"))
        assert list(map(id, kept)) == list(map(id, jax.tree.leaves(state.params)))
        assert len(kept) + len(donated) == len(jax.tree.leaves(state))
        assert not any(kept_leaves(state, "gpu") + kept_leaves(state, "tpu"))
