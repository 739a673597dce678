"""The seed decides a run; every class of networks repeats its steps bit for bit."""

import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import quick_jit
from tests.networks.test_networks_training import SMALL, case, step_of
from tests.support.tiny_runs import (RICH, assert_same_bits, assert_same_run, main,
                                     prepare, tiny)

from cnn_jax import ops
from cnn_jax.training.recipe import first_state
from cnn_jax.training.steps import Batch, train_step


# What the seed decides

@pytest.mark.parametrize("changes, drawn", [
    ({"model.name": "lenet5"}, False),
    ({"model.name": "lenet5", "augment.width_shift_range": 0.2}, True),
    ({"model.name": "baseline"}, True)], ids=["nothing", "augmentation", "dropout"])
def test_a_seed_decides_what_a_step_draws(changes, drawn):
    """The steps start from one state and one batch; the recipes differ in the seed."""
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
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "False")
    for folder in ("once", "again"):
        code, _, errors = main(tmp_path / folder,
                               RICH | {"model.name": name, "seed": 3})
        assert code == 0, errors
    assert_same_run(tmp_path / "once", tmp_path / "again")


# Every class of networks

def after_twenty_steps(step, shapes, images, labels, seed: int):
    """Trains from variables drawn by a seed; returns the last variables and losses."""
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
    """Another seed gives other bits. The programs have the compiler options of runs."""
    model, shapes, images, labels = case(name, *SMALL[name])
    step = jax.jit(step_of(model), compiler_options=ops.compiler_options())
    once, again, other = (after_twenty_steps(step, shapes, images, labels, seed)
                          for seed in (0, 0, 1))
    assert all(np.isfinite(loss) for loss in once["losses"])
    assert_same_bits(once, again)
    with pytest.raises(AssertionError):
        assert_same_bits(once, other)
