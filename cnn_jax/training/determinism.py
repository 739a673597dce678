"""config.debug.determinism: the first steps are made twice and compared bit for bit.

Resuming promises the same bits, which holds only where the devices give the same
result for the same program and operands; some GPU kernels do not.
"""

from collections.abc import Callable, Iterator

import jax
import numpy as np

from cnn_jax.data.examples import Examples
from cnn_jax.errors import RunError
from cnn_jax.training.parallel import Placement
from cnn_jax.training.steps import TrainState
from cnn_jax.workdir.checkpoints.read import leaves

STEPS = 3  # at least; as many as the calls that make them


def check(state: TrainState, data: Examples, calls: list[np.ndarray],
          train: dict[int, Callable], placement: Placement) -> TrainState:
    """Makes the steps of `calls` twice; returns the state that was before them.

    state: on the devices; the calls get copies of it.
    calls: the indices [steps, batch] of each call of a program in `train`.
    Raises RunError that names the first step and leaf where one bit differs.
    """
    before = jax.tree.map(np.copy, placement.fetch(state))
    once, again = (made(placement.put(before), data, calls, train, placement)
                   for _ in range(2))
    for (step, ours), (_, theirs) in zip(once, again, strict=True):
        for path in ours:
            difference = first_difference(ours[path], theirs[path])
            if difference:
                raise RunError(
                    f"config.debug.determinism: step {step}, made twice from the same "
                    f"state, differs in leaf {path} {difference}: these devices do "
                    "not repeat this program, so a run resumed there will not end "
                    "as an uninterrupted one")
    return placement.put(before)


def made(state: TrainState, data: Examples, calls: list[np.ndarray],
         train: dict[int, Callable], placement: Placement
         ) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """After each call the step, counted from 1, and every leaf and metric."""
    for rows in calls:
        state, metrics = train[len(rows)](state, data, placement.put_rows(rows))
        jax.block_until_ready(metrics)
        host = jax.tree.map(np.copy, placement.fetch(state))
        found = {f"metrics/{name}": value
                 for name, value in placement.fetch(metrics).items()}
        yield int(host.step), leaves(host) | found


def first_difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """'at [0, 3]: 1.0 and 1.5 (2 of 60 values)', or '' where all bits are the same."""
    a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(x.size, -1)
            for x in (ours, theirs))
    places = np.flatnonzero((a != b).any(1))
    if not len(places):
        return ""
    index = [int(i) for i in np.unravel_index(places[0], ours.shape)]
    return (f"at {index}: {ours[tuple(index)]!r} and {theirs[tuple(index)]!r} "
            f"({len(places)} of {ours.size} values)")
