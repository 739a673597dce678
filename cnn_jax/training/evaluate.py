"""Evaluates exactly: every example counts once, for any batch size and number of
devices."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import inference, ops
from cnn_jax.console import Reporter
from cnn_jax.data.examples import Dataset
from cnn_jax.data.info import DataInfo
from cnn_jax.networks.summary import layer_table
from cnn_jax.networks.trace import ImageShape
from cnn_jax.program_cache import compile_program
from cnn_jax.tasks.metrics import mean
from cnn_jax.training.eval_batch import largest_batch
from cnn_jax.training.feed import Feed, open_feed
from cnn_jax.training.parallel import Placement
from cnn_jax.training.steps import Recipe, TrainState

Evaluate = Callable[[TrainState, str], dict[str, float]]


def fastest(recipe: Recipe, state: TrainState, image_shape: ImageShape,
            placement: Placement) -> tuple[Recipe, TrainState]:
    """Replaces the network by the program that evaluates it fastest.

    The returned state holds only the variables of that program, so it cannot be
    trained. Its results equal those of the network up to rounding.
    """
    network, variables = inference.fastest(recipe.model, state.variables, image_shape,
                                           len(placement.devices))
    if network is recipe.model:
        return recipe, state
    return (dataclasses.replace(recipe, model=network),
            TrainState(state.step, variables["params"], {}, {}, {}, {}))


@contextlib.contextmanager
def open_evaluation(recipe: Recipe, state: TrainState, dataset: Dataset, info: DataInfo,
                    config: ConfigDict, placement: Placement, report: Reporter
                    ) -> Iterator[tuple[Feed, Callable[[str], dict[str, float]]]]:
    """Opens the evaluation of one state.

    state: on the host.
    Yields (feed, function from a split to its metrics); see `make_evaluation`.
    """
    limit = largest_batch(config, layer_table(recipe.model, info.image_shape),
                          placement, report)
    recipe, state = fastest(recipe, state, info.image_shape, placement)
    state = placement.replicate(state)
    with contextlib.closing(open_feed(placement, dataset, config, 1, limit)) as feed:
        evaluate = make_evaluation(recipe, placement, feed, report)
        yield feed, functools.partial(evaluate, state)


def make_evaluation(recipe: Recipe, placement: Placement, feed: Feed,
                    report: Reporter) -> Evaluate:
    """Makes a function from (state, split) to the metrics of that split.

    The metrics are loss, accuracy, those of the task, and the number of examples. The
    last batch is padded and masked; the sums over all batches are divided once. The
    function compiles at its first call, so that training need not wait for it.

    report: shows the progress of each evaluation.
    """
    step = placement.compile(functools.partial(feed.evaluate, recipe=recipe))
    programs: list[Callable] = []

    def compiled(state: TrainState) -> Callable:
        if not programs:
            with report.timed("compiling evaluation"):
                programs.append(compile_program(
                    step.lower(state, *feed.example_batch()), ops.compiler_options()))
        return programs[0]

    def evaluate(state: TrainState, split: str) -> dict[str, float]:
        program = compiled(state)
        batches = -(-feed.counts[split] // feed.eval_batch_size)
        calls = (program(state, *arguments) for arguments in feed.batches(split))
        # Dispatch all calls at once, unless each must end before the next one.
        sums = (map(jax.block_until_ready, calls)
                if placement.synchronous or feed.streams else list(calls))
        totals: dict[str, Any] = {}
        with report.track(f"evaluating {split}", sums, batches,
                          f"batches of {feed.eval_batch_size}") as tracked:
            for metrics in map(placement.to_host, tracked):
                for name, value in metrics.items():
                    totals[name] = totals.get(name, 0.0) + np.float64(value)
        assert totals["count"] == feed.counts[split] or feed.skips, (totals, split)
        return (mean(totals) | recipe.task.extra_metrics(totals)
                | {"examples": int(totals["count"])})

    return evaluate
