"""Trains N seeds of a small network in one program: the pure `train_step` under `vmap`.

    python experiments/seeds_vmapped.py                        a minute on two cores
    python experiments/seeds_vmapped.py --variant=colour_cnn --seeds=8 --epochs=5

`train` maps a seed to a trained state. It has no side effects, so `vmap(train)` trains
many seeds, and nothing else has to be written: the seed decides initial values,
shuffling, augmentation and dropout. A vmapped dense layer is a batched matrix product;
a vmapped convolution is a grouped convolution.

Trains the seeds one after another, then together. Prints the test accuracy (mean and
standard deviation), both times without compiling, and the distance of the parameters.
They agree up to rounding after a few steps; training amplifies the difference.
"""

import argparse
import dataclasses
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import data, ops  # noqa: E402
from cnn_jax.data.batches import concatenate, train_order  # noqa: E402
from cnn_jax.data.examples import Examples  # noqa: E402
from cnn_jax.data.info import describe  # noqa: E402
from cnn_jax.training.recipe import create_recipe  # noqa: E402
from cnn_jax.training.steps import (Batch, Recipe, TrainState,  # noqa: E402
                                    create_state, eval_step, train_step)
from configs import shapes  # noqa: E402

FEW_STEPS = 16  # after which rounding has not grown yet
TOLERANCE = 1e-5  # |a - b| / |b| over all parameters of all seeds


def batch_of(examples: Examples, indices: jax.Array) -> Batch:
    """Gathers the examples at indices [B], all with mask 1."""
    return Batch(examples.images[indices], examples.labels[indices],
                 jnp.ones(len(indices)), jnp.arange(len(indices)))


def train(seed: jax.Array, order: jax.Array, examples: Examples,
          recipe: Recipe) -> TrainState:
    """Trains one seed on the batches order [steps, B], from its initial values."""
    recipe = dataclasses.replace(recipe, seed=seed)
    state = create_state(recipe, examples.images.shape[1:])

    def step(state: TrainState, indices: jax.Array) -> tuple[TrainState, None]:
        return train_step(state, batch_of(examples, indices), recipe)[0], None

    return lax.scan(step, state, order)[0]


def accuracy(state: TrainState, test: jax.Array, examples: Examples,
             recipe: Recipe) -> jax.Array:
    """Returns the fraction of the examples at indices test [B] that is correct."""
    sums = eval_step(state, batch_of(examples, test), recipe)
    return sums["correct"] / sums["count"]


def timed(program: jax.stages.Compiled, *inputs: tuple) -> tuple[list[Any], float]:
    """Calls a program on each of the inputs; returns its outputs and the seconds."""
    begun = time.perf_counter()
    outputs = [jax.block_until_ready(program(*arguments)) for arguments in inputs]
    return outputs, time.perf_counter() - begun


def distance(ours: Any, theirs: Any) -> float:
    """Returns |a - b| / |b| over all leaves."""
    difference = jax.tree.map(jnp.subtract, ours, theirs)
    return float(optax.tree.norm(difference) / optax.tree.norm(theirs))


def compare(seeds: jax.Array, orders: jax.Array, examples: Examples,
            recipe: Recipe) -> tuple[TrainState, float, float, float]:
    """Trains all seeds both ways.

    orders: int32 [seeds, steps, B].
    Returns the states stacked by seed, the seconds one after another and together, and
    the distance of the parameters.
    """
    def one(seed: jax.Array, order: jax.Array, examples: Examples) -> TrainState:
        return train(seed, order, examples, recipe)

    def compiled(function: Any, *arguments: Any) -> jax.stages.Compiled:
        return jax.jit(function).lower(*arguments).compile(
            compiler_options=ops.compiler_options())

    alone = compiled(one, seeds[0], orders[0], examples)
    together = compiled(jax.vmap(one, (0, 0, None)), seeds, orders, examples)
    states, seconds_alone = timed(
        alone, *((seed, order, examples) for seed, order in zip(seeds, orders)))
    (stacked,), seconds_together = timed(together, (seeds, orders, examples))
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return (stacked, seconds_alone, seconds_together,
            distance(stacked.params, expected.params))


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", choices=shapes.VARIANTS, default="shape_dnn",
                        help="of configs/shapes.py")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    flags = parser.parse_args(argv)
    if min(flags.seeds, flags.epochs) < 1:
        parser.error("--seeds and --epochs must be 1 or more")
    config = shapes.get_config(flags.variant)
    dataset = data.load(config.data, seed=0)
    recipe = create_recipe(config, describe(dataset, config.data))
    examples, spans = concatenate(dataset)
    examples, seeds = jax.device_put(examples), jnp.arange(flags.seeds)
    orders = jnp.stack([jnp.concatenate([
        train_order(seed, epoch, spans["train"], config.batch_size)
        for epoch in range(flags.epochs)]) for seed in range(flags.seeds)])

    *_, early = compare(seeds, orders[:, :FEW_STEPS], examples, recipe)
    if not early < TOLERANCE:
        sys.exit(f"after {FEW_STEPS} steps the parameters are {early:.0e} apart, not "
                 f"below {TOLERANCE:.0e}")
    states, alone, together, late = compare(seeds, orders, examples, recipe)
    accuracies = np.asarray(jax.vmap(accuracy, (0, None, None, None))(
        states, jnp.asarray(spans["test"]), examples, recipe))
    spread = f" ± {accuracies.std(ddof=1):.4f}" if flags.seeds > 1 else ""
    print(f"{flags.variant}: test accuracy {accuracies.mean():.4f}{spread} "
          f"({flags.seeds} seeds, {flags.epochs} epochs)\n"
          f"one after another {alone:.2f} s, at once {together:.2f} s: "
          f"{alone / together:.2f} times as fast\n"
          f"distance of the parameters: {early:.0e} after {FEW_STEPS} steps, "
          f"{late:.0e} after {orders.shape[1]}")


if __name__ == "__main__":
    main()
