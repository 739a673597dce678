"""Exact evaluation: every example of a part once, on any batch size and devices."""

import contextlib
import functools
from collections.abc import Callable, Iterable

import jax
import numpy as np

from cnn_jax import ops
from cnn_jax.data.batches import eval_order
from cnn_jax.data.examples import Examples
from cnn_jax.tasks.metrics import mean
from cnn_jax.training.parallel import Placement, eval_batch
from cnn_jax.training.steps import Recipe, TrainState

Evaluate = Callable[[TrainState, str], dict[str, float]]


def untold(title: str, items: Iterable, total: int, note: str):
    """In the place of `Reporter.track`, without a bar."""
    return contextlib.nullcontext(items)


def compile_evaluation(recipe: Recipe, placement: Placement, state: TrainState,
                       examples: Examples, spans: dict[str, range], batch_size: int,
                       track: Callable = untold) -> Evaluate:
    """(state, part) -> loss, accuracy, the metrics of the task, number of examples.

    state, examples: on the devices. The last batch is padded and masked, sums are
    added up, and divided once. `batch_size` is rounded up to divide over the devices.
    track: shows how far a loop over batches is, as `Reporter.track`.
    """
    batch_size += -batch_size % len(placement.devices)

    def rows(indices, mask):
        return placement.put_rows(indices), placement.put_rows(mask)

    step = placement.wrap(functools.partial(eval_batch, recipe=recipe))
    first = next(eval_order(spans["train"], batch_size))
    program = step.lower(state, examples, *rows(*first)).compile(
        compiler_options=ops.compiler_options())

    def evaluate(state: TrainState, part: str) -> dict[str, float]:
        batches = list(eval_order(spans[part], batch_size))
        begun = (program(state, examples, *rows(*batch)) for batch in batches)
        # Where it is allowed, all are under way at once.
        begun = (map(jax.block_until_ready, begun) if placement.synchronous
                 else list(begun))
        totals = dict.fromkeys(("loss", "correct", "count"), 0.0)
        with track(f"evaluating {part}", begun, len(batches),
                   f"batches of {batch_size}") as found:
            for metrics in map(placement.fetch, found):
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0.0) + np.float64(value)
        assert totals["count"] == len(spans[part]), (totals, part)
        return (mean(totals) | recipe.task.extra_metrics(totals)
                | {"examples": int(totals["count"])})

    return evaluate
