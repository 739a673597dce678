"""The learning rate range test: raises the rate during training, watches the loss.

Smith: Cyclical learning rates for training neural networks (2017). Each update
multiplies the rate by a constant factor; the steps are those of training.
"""

import contextlib
import dataclasses
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import optimizers
from cnn_jax.config import check
from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.networks.trace import parts_in_order
from cnn_jax.optimizers import Schedule
from cnn_jax.training import parallel
from cnn_jax.training.features import train_on_features
from cnn_jax.training.loop import Programs, compile_training
from cnn_jax.training.setup import Run, open_run, restore_or_init
from cnn_jax.training.steps import Recipe, TrainState
from cnn_jax.workdir.progress import Progress

UPDATES = 100
LOW, HIGH = 1e-6, 10.0
SMOOTHING = 0.9  # decay of the exponential moving average of the losses
WORSE = 4.0      # the test ends when the smoothed loss is this many times the best


class RangeTest(NamedTuple):
    """Holds the losses of a range test; one value for each update that was made."""

    rates: np.ndarray
    losses: np.ndarray
    smoothed: np.ndarray

    @property
    def at_minimum(self) -> float:
        """The rate with the least smoothed loss."""
        return float(self.rates[self.smoothed.argmin()])

    @property
    def tenth(self) -> float:
        """A tenth of the rate with the least smoothed loss."""
        return self.at_minimum / 10

    @property
    def steepest(self) -> float:
        """The rate, up to that of the minimum, at which the loss falls fastest."""
        slope = np.gradient(self.smoothed, np.log(self.rates))
        return float(self.rates[slope[:self.smoothed.argmin() + 1].argmin()])


def find_rate(config: ConfigDict, report: Reporter) -> RangeTest:
    """Tests the learning rates of a config from `LOW` to `HIGH`; saves nothing.

    Raises InputError as a run does, and if the loss never falls.
    """
    with open_updates(config, UPDATES) as (run, state):
        run = with_rising_rate(run)
        state = state.replace(opt_state=run.recipe.optimizer.init(state.params))
        with report.under_way("compiling training"):
            programs = compile_training(run, state, Progress())
        losses = range_test(run, run.placement.replicate(state), programs, report)
    rates = np.array([rising_rate(update) for update in range(len(losses))])
    result = RangeTest(rates, losses, smooth(losses))
    if result.smoothed.argmin() == 0:
        raise InputError("the loss falls at no learning rate from "
                         f"{LOW:g} to {HIGH:g}: look at the data with "
                         "--mode=show_data, or choose another optimizer")
    return result


@contextlib.contextmanager
def open_updates(config: ConfigDict,
                 updates: int) -> Iterator[tuple[Run, TrainState]]:
    """Opens a run in a temporary folder, long enough for this number of updates.

    Yields the run and its initial state, on the host.
    """
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.steps_per_call = 1
        # Enough for the updates, however few steps an epoch has.
        config.epochs = max(config.epochs, updates * config.optimizer.accumulate_steps)
    check(config)
    with (tempfile.TemporaryDirectory() as folder, parallel.peer_errors(),
          open_run(config, folder, Reporter(quiet=True)) as run):
        state, _ = restore_or_init(run)
        if config.model.train == "head":
            run = train_on_features(run, state)
        yield run, state


def rising_rate(update: Any) -> Any:
    """Returns LOW (HIGH / LOW)^(update / (UPDATES - 1))."""
    return LOW * (HIGH / LOW) ** (update / (UPDATES - 1))


def with_rising_rate(run: Run) -> Run:
    """Replaces the schedule and the optimizer of a run by those of the range test."""
    return dataclasses.replace(run, recipe=with_schedule(
        run.recipe, rising_rate, run.config, trained_parts(run)))


def trained_parts(run: Run) -> Sequence[str]:
    """Lists the parts of the network if the optimizer needs them, else nothing."""
    if run.config.optimizer.depth_decay is None:
        return ()
    return parts_in_order(run.recipe.model, run.info.image_shape)


def with_schedule(recipe: Recipe, schedule: Schedule, config: ConfigDict,
                  parts: Sequence[str]) -> Recipe:
    """Replaces the schedule, and the optimizer by one that follows it."""
    return dataclasses.replace(
        recipe, schedule=schedule,
        optimizer=optimizers.create(config, schedule, parts))


def range_test(run: Run, state: TrainState, programs: Programs,
               report: Reporter) -> np.ndarray:
    """Makes the updates and returns their losses, up to one that is far too large."""
    losses: list[float] = []
    with report.progress_bar("learning rates", UPDATES):
        for loss in update_losses(run, state, programs):
            losses.append(float(loss))
            report.advance(len(losses), f"loss: {losses[-1]:.4f}")
            if not np.isfinite(losses[-1]):
                return np.array(losses[:-1])
            smoothed = smooth(np.array(losses))
            if len(losses) == UPDATES or smoothed[-1] > WORSE * smoothed.min():
                break
    return np.array(losses)


def update_losses(run: Run, state: Any, programs: Programs) -> Iterator[np.ndarray]:
    """Makes updates without end and yields the loss of each.

    The loss is [N] if the state holds N networks, see `rates.py`, else [].
    """
    steps_per_update = run.config.optimizer.accumulate_steps
    step_losses: list[np.ndarray] = []
    ranges = [(step, step + 1) for step in range(run.steps_per_epoch)]
    run.feed.start(0, 0)
    for epoch in itertools.count():
        for arguments in run.feed.calls(epoch, ranges):
            program = programs[run.training_size(epoch), 1]
            state, metrics = program(state, *arguments)
            sums = run.placement.to_host(metrics)
            step_losses.append(sums["loss"].sum(-1) / sums["count"].sum(-1))
            if len(step_losses) == steps_per_update:
                yield np.mean(step_losses, axis=0)
                step_losses.clear()


def smooth(losses: np.ndarray) -> np.ndarray:
    """Computes the exponential moving average of the losses, with bias correction.

    losses: [updates, ...]
    """
    total, means = 0.0, []
    for count, loss in enumerate(losses, 1):
        total = SMOOTHING * total + (1 - SMOOTHING) * loss
        means.append(total / (1 - SMOOTHING ** count))
    return np.array(means)
