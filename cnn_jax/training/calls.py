"""Which steps go into one call of a compiled program, and when it is time to look."""

import numpy as np

from cnn_jax.data.batches import train_order


def call_size(steps_per_call: int, done: int, steps: int) -> int:
    """Steps of the next call: calls begin at multiples of steps_per_call in an epoch,
    what is left over goes one by one, so that a resumed run makes the same calls."""
    whole = done % steps_per_call == 0 and done + steps_per_call <= steps
    return steps_per_call if whole else 1


def crosses(every: int, done: int, size: int) -> bool:
    """Whether the last `size` steps reached a multiple of `every` (0: never)."""
    return every > 0 and done // every > (done - size) // every


def next_calls(this, step: int, at_least: int) -> list[np.ndarray]:
    """The indices [steps, batch] of the calls after `step`: at least so many steps, or
    all that the run has left.

    this: the `loop.Run`.
    """
    calls = []
    last = min(step + at_least, this.config.epochs * this.steps_per_epoch)
    while step < last:
        epoch, done = divmod(step, this.steps_per_epoch)
        order = train_order(this.config.seed, epoch, this.spans["train"],
                            this.config.batch_size)
        size = call_size(this.steps_per_call, done, this.steps_per_epoch)
        calls.append(order[done:done + size])
        step += size
    return calls
