"""Evaluates exactly: every example counts once, for any batch size and devices."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from cnn_jax import ops
from cnn_jax.console import Reporter
from cnn_jax.data.batches import eval_order
from cnn_jax.data.examples import Examples
from cnn_jax.tasks.metrics import mean
from cnn_jax.training.parallel import Placement
from cnn_jax.training.steps import Recipe, TrainState, eval_batch

Evaluate = Callable[[TrainState, str], dict[str, float]]


def compile_evaluation(recipe: Recipe, placement: Placement, state: TrainState,
                       examples: Examples, split_ranges: dict[str, range],
                       batch_size: int, report: Reporter) -> Evaluate:
    """Compiles a function from (state, split) to the metrics of that split.

    These are loss, accuracy, the metrics of the task, and the number of examples. The
    last batch is padded and masked; the sums of all batches are divided once.

    state, examples: on the devices.
    batch_size: is rounded up to a multiple of the number of devices.
    report: shows the progress of each evaluation.
    """
    batch_size += -batch_size % len(placement.devices)

    def rows(indices: np.ndarray, mask: np.ndarray) -> tuple[jax.Array, jax.Array]:
        return placement.shard_batch(indices), placement.shard_batch(mask)

    step = placement.compile(functools.partial(eval_batch, recipe=recipe))
    first = next(eval_order(split_ranges["train"], batch_size))
    program = step.lower(state, examples, *rows(*first)).compile(
        compiler_options=ops.compiler_options())

    def evaluate(state: TrainState, split: str) -> dict[str, float]:
        batches = list(eval_order(split_ranges[split], batch_size))
        calls = (program(state, examples, *rows(*batch)) for batch in batches)
        # Queue all calls at once, unless each must be waited for.
        sums = (map(jax.block_until_ready, calls) if placement.synchronous
                else list(calls))
        totals: dict[str, Any] = {}
        with report.track(f"evaluating {split}", sums, len(batches),
                          f"batches of {batch_size}") as tracked:
            for metrics in map(placement.to_host, tracked):
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0.0) + np.float64(value)
        assert totals["count"] == len(split_ranges[split]), (totals, split)
        return (mean(totals) | recipe.task.extra_metrics(totals)
                | {"examples": int(totals["count"])})

    return evaluate
