"""Which steps go into one call of a compiled program, and when it is time to look."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import numpy as np

from cnn_jax.training.steps import Metrics, TrainState


def call_size(steps_per_call: int, done: int, steps: int) -> int:
    """Steps of the next call: calls begin at multiples of steps_per_call in an epoch,
    what is left over goes one by one, so that a resumed run makes the same calls."""
    whole = done % steps_per_call == 0 and done + steps_per_call <= steps
    return steps_per_call if whole else 1


def crosses(every: int | None, done: int, size: int) -> bool:
    """Whether the last `size` steps reached a multiple of `every`."""
    return every is not None and done // every > (done - size) // every


class Look(NamedTuple):
    """What a run sees when it is time to look."""

    state: TrainState       # on the devices; the next call takes it
    metrics: list[Metrics]  # of each call since the last look, on the host
    done: int               # steps of the epoch
    saving: bool            # a checkpoint is due within the epoch
    asking: bool            # it is time to ask for signals


def make_calls(this, train: dict[int, Callable], state: TrainState, operands: tuple,
               order: np.ndarray, done: int, received: list[int]) -> Iterator[Look]:
    """Makes the calls of an epoch from its step `done` on.

    this: the `opening.Run`.
    train: {steps: program of the state, the operands and the rows of the order}.
    order: the indices [..., steps, batch].
    received: the signals; one lets this process look at once.
    """
    config, steps, pending = this.config, this.steps_per_epoch, []
    while done < steps:
        size = call_size(this.steps_per_call, done, steps)
        rows = this.placement.put_rows(order[..., done:done + size, :])
        state, metrics = train[size](state, *operands, rows)
        if this.placement.synchronous:
            jax.block_until_ready(metrics)
        pending.append(metrics)
        done += size
        saving = crosses(config.checkpoint.every_steps, done, size) and done < steps
        asking = crosses(config.log.every_steps, done, size) or bool(
            received and jax.process_count() == 1)
        if saving or asking or done == steps:
            fetched = [this.placement.fetch(metrics) for metrics in pending]
            pending.clear()
            yield Look(state, fetched, done, saving, asking)
