"""Compares learning rates: trains a network with each, all in one program by `vmap`.

The networks start from the same state and see the same batches, with the same random
augmentation and dropout. Each rate is constant, without schedule and warm-up, and
corresponds to the peak of the config's schedule.
"""

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import optimizers
from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.training.eval_batch import LIVE, MEMORY_FRACTION, memory_bytes
from cnn_jax.training.loop import compile_training
from cnn_jax.training.lr_find import (UPDATES, WORSE, open_updates, smooth,
                                      trained_parts, update_losses, with_schedule)
from cnn_jax.training.setup import Run
from cnn_jax.training.steps import Metrics, Recipe, TrainState
from cnn_jax.workdir.progress import Progress

# The step is shared: random draws follow from it, so all networks get the same ones.
AXES = TrainState(step=cast(Any, None), params=0, batch_stats=0, opt_state=0,
                  ema_params=0, ema_batch_stats=0)
Members = tuple[Any, TrainState]  # rates [N], and their states, stacked along AXES


class Comparison(NamedTuple):
    """Holds the losses of N learning rates; a row for each update."""

    rates: np.ndarray   # [N], values of optimizer.learning_rate
    losses: np.ndarray  # [updates, N]

    @property
    def smoothed(self) -> np.ndarray:
        """The exponential moving averages of the losses, [updates, N]."""
        return smooth(self.losses)

    @property
    def diverged(self) -> np.ndarray:
        """Whether each rate diverged, bool [N].

        Its smoothed loss was not finite, or above `WORSE` times its first loss.
        """
        return ~(self.smoothed <= WORSE * self.losses[0]).all(0)

    @property
    def best(self) -> int:
        """The index of the rate with the least smoothed loss after the last update.

        Raises InputError if all rates diverged.
        """
        if self.diverged.all():
            raise InputError(f"all rates from {self.rates.min():g} to "
                             f"{self.rates.max():g} diverged: give lower ones, as in "
                             "--rates=N:LOW:HIGH")
        return int(np.where(self.diverged, np.inf, self.smoothed[-1]).argmin())


def compare_rates(config: ConfigDict, rates: np.ndarray, report: Reporter,
                  updates: int = UPDATES) -> Comparison:
    """Trains with each of the rates for `updates` updates; saves nothing.

    rates: [N], values of optimizer.learning_rate.
    Raises InputError as a run does, and if N networks do not fit into memory.
    """
    with open_updates(config, updates) as (run, state):
        check_memory(run, state, len(rates))
        members = run.placement.replicate(stack(config, rates, state))
        with report.under_way(f"compiling training with {len(rates)} rates"):
            programs = compile_training(run, members, Progress(), train_members(run))
        losses: list[np.ndarray] = []
        with report.progress_bar("updates", updates):
            for loss in itertools.islice(update_losses(run, members, programs),
                                         updates):
                losses.append(loss)
                report.advance(len(losses), f"least loss: {np.fmin.reduce(loss):.4f}")
    return Comparison(np.asarray(rates), np.array(losses))


def stack(config: ConfigDict, rates: np.ndarray, state: TrainState) -> Members:
    """Copies a state for each rate, on the host."""
    config = config.copy_and_resolve_references()
    peaks = []
    for rate in rates:
        config.optimizer.learning_rate = float(rate)
        peaks.append(optimizers.peak_rate(config))
    copies = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (len(rates),
                                                              *np.shape(leaf))), state)
    return np.array(peaks, np.float32), copies.replace(step=state.step)


def train_members(run: Run) -> Callable[..., tuple[Members, Metrics]]:
    """Makes the function that trains all members on the same batches."""
    parts = trained_parts(run)

    def train(members: Members, *arguments: Any,
              recipe: Recipe) -> tuple[Members, Metrics]:
        def train_one(rate: jax.Array, state: TrainState) -> tuple[TrainState, Metrics]:
            return run.feed.train(state, *arguments, recipe=with_schedule(
                recipe, lambda update: rate, run.config, parts))

        rates, states = members
        states, metrics = jax.vmap(train_one, (0, AXES), (AXES, 0))(rates, states)
        return (rates, states), metrics
    return train


def check_memory(run: Run, state: TrainState, count: int) -> None:
    """Raises InputError if `count` networks exceed `MEMORY_FRACTION` of the memory.

    Each takes three times its state on every device, for gradients and updates, and
    `LIVE` times the outputs of its layers for a batch.
    """
    memory, devices = memory_bytes(run.placement.devices), len(run.placement.devices)
    if memory is None:
        return
    outputs = run.table.memory * run.config.batch_size
    size = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    each = 3 * size * devices + (0 if run.recipe.head_of else LIVE * outputs)
    if count * each > MEMORY_FRACTION * memory:
        raise InputError(
            f"{count} rates at once need {count * each / 2**30:,.1f} GiB, more than "
            f"{MEMORY_FRACTION:.0%} of the {memory / 2**30:,.1f} GiB available: at "
            f"most {int(MEMORY_FRACTION * memory / each)} fit; use fewer, or a smaller "
            "batch_size")
