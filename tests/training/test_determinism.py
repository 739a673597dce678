"""debug.determinism, and that a network of every class repeats its steps bit by bit."""

import contextlib
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import quick_jit
from tests.networks.test_networks_training import SMALL, case, step_of
from tests.support.tiny_runs import (RICH, assert_same_bits, assert_same_run, main,
                                     prepare, tiny)

from cnn_jax import ops, training
from cnn_jax.errors import RunError
from cnn_jax.training import determinism, loop, parallel
from cnn_jax.training.recipe import first_state
from cnn_jax.training.steps import Batch, TrainState, train_step


# config.debug.determinism

@pytest.mark.usefixtures("compiled_once")
def test_a_run_says_that_its_steps_repeat_and_ends_alike(tmp_path, capsys):
    plain = training.run(tiny(epochs=1), tmp_path / "plain", quiet=True)
    capsys.readouterr()
    checked = training.run(tiny({"debug.determinism": True}, epochs=1),
                           tmp_path / "checked")
    assert "3 steps made twice: the same in every bit" in capsys.readouterr().out
    assert checked["params_sha256"] == plain["params_sha256"]


@pytest.mark.usefixtures("compiled_once")
def test_a_step_that_does_not_repeat_ends_the_run(tmp_path, monkeypatch):
    original = loop.compile_training

    def unsteady(*args):
        """Programs whose fifth call is one unit in the last place off in one leaf."""
        programs, seconds = original(*args)
        program, calls = programs[1], []

        def call(state, *rest):
            state, metrics = program(state, *rest)
            calls.append(1)
            if len(calls) == 5:
                head = state.params["head"]
                head = head | {"bias": jnp.nextafter(head["bias"], jnp.float32(9))}
                state = state.replace(params=state.params | {"head": head})
            return state, metrics
        return {1: call}, seconds
    monkeypatch.setattr(loop, "compile_training", unsteady)
    with pytest.raises(RunError, match=r"step (2|3), made twice .* differs in leaf "
                                       r"params/head/bias at \[0\]: .*10 of 10 values"):
        training.run(tiny({"debug.determinism": True}, epochs=1), tmp_path, quiet=True)


@pytest.mark.parametrize("calls_left", [[1, 1, 1], [2, 1]])
def test_the_first_leaf_of_the_first_step_is_named(calls_left):
    placement = parallel.place(tiny(devices=1))
    state = TrainState(np.int32(4), {"w": np.zeros(3, np.float32)}, {}, {}, {})
    made = []

    def step(size, state, _, rows):
        made.append(size)
        late = len(made) > 2
        return (state.replace(step=state.step + size,
                              params={"w": state.params["w"] + (-0.0 if late else 0)}),
                {"loss": jnp.full(size, len(made))})
    train = {size: functools.partial(step, size) for size in (1, 2)}
    calls = [np.zeros((size, 2), np.int32) for size in calls_left]
    with pytest.raises(RunError, match=f"step {4 + calls_left[0]},.*metrics/loss"):
        determinism.check(placement.put(state), None, calls, train, placement)


def test_a_difference_of_one_bit_is_seen():
    for ours, theirs in ((np.zeros((2, 3)), -np.zeros((2, 3))),
                         (np.float32(1), np.nextafter(np.float32(1), np.float32(2)))):
        assert determinism.first_difference(ours, ours) == ""
        assert "at [" in determinism.first_difference(ours, theirs)
    nan = np.array([1, np.nan])
    assert determinism.first_difference(nan, nan.copy()) == ""


# What the seed decides

@pytest.mark.parametrize("changes, drawn", [
    ({"model.name": "lenet5"}, False),
    ({"model.name": "lenet5", "augment.width_shift_range": 0.2}, True),
    ({"model.name": "baseline"}, True)], ids=["nothing", "augmentation", "dropout"])
def test_a_seed_decides_what_a_step_draws(changes, drawn):
    """From one state and one batch, by a recipe that only the seed tells apart."""
    dataset, recipe, image_shape = prepare(tiny(changes, seed=3))
    state = first_state(recipe, image_shape)
    batch = Batch(dataset.train.images[:16], dataset.train.labels[:16],
                  jnp.ones(16), jnp.arange(16))

    @quick_jit
    def step(seed, state, batch):
        return train_step(state, batch, dataclasses.replace(recipe, seed=seed))[0]
    once, again, other = (step(seed, state, batch) for seed in (3, 3, 4))
    assert_same_bits(once, again)
    with pytest.raises(AssertionError) if drawn else contextlib.nullcontext():
        assert_same_bits(once, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["baseline", "lenet5"])
def test_a_seed_decides_a_run_in_processes_that_compile_anew(
        name, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "false")
    for folder in ("once", "again"):
        code, _, errors = main(tmp_path / folder,
                               RICH | {"model.name": name, "seed": 3})
        assert code == 0, errors
    assert_same_run(tmp_path / "once", tmp_path / "again")


# Every class of networks

def after_twenty_steps(step, shapes, images, labels, seed: int):
    """The variables and losses from a start that is drawn by a seed."""
    draw = np.random.default_rng(seed)

    def leaf(shape):
        if len(shape) < 2:  # biases; scales and variances, which must be positive
            return np.float32(draw.uniform(0.01, 0.05, shape))
        return np.float32(draw.normal(0, math.prod(shape[:-1]) ** -0.5, shape))
    variables = jax.tree.map(lambda shaped: leaf(shaped.shape), shapes)
    losses = []
    for _ in range(20):
        loss, _, variables = step(variables, images, labels)
        losses.append(loss)
    return jax.tree.map(np.asarray, {"variables": variables, "losses": losses})


@pytest.mark.parametrize("name", [
    name if name == "lenet5" else pytest.param(name, marks=pytest.mark.slow)
    for name in SMALL])
def test_twenty_steps_of_every_class_repeat_bit_for_bit(name):
    """And from another seed they differ. With the options that runs compile with."""
    model, shapes, images, labels = case(name, *SMALL[name])
    step = jax.jit(step_of(model), compiler_options=ops.compiler_options())
    once, again, other = (after_twenty_steps(step, shapes, images, labels, seed)
                          for seed in (0, 0, 1))
    assert all(np.isfinite(loss) for loss in once["losses"])
    assert_same_bits(once, again)
    with pytest.raises(AssertionError):
        assert_same_bits(once, other)
