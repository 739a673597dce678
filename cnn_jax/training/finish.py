"""Ends a run: evaluates the best checkpoint on the test split, writes results.json."""

import shlex
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cnn_jax.console import counted, split_line
from cnn_jax.errors import RunError
from cnn_jax.training.evaluate import Evaluate
from cnn_jax.training.feed import record_skipped
from cnn_jax.training.setup import Run
from cnn_jax.training.steps import TrainState
from cnn_jax.workdir.machine import commit, machine, peak_memory_mb, versions
from cnn_jax.workdir.progress import Progress, Row, best_row
from cnn_jax.workdir.results import (Results, read_results, sha256, task_metrics,
                                     write_results)


class Finished(NamedTuple):
    """Holds the outcome of a run."""

    results: Results
    best: TrainState  # the best checkpoint, on the host
    step: int         # the step of that checkpoint


def evaluate_and_save(run: Run, state: TrainState, progress: Progress,
                      evaluate: Evaluate, keep_results: bool) -> Finished:
    """Evaluates the best checkpoint on the test split and writes results.json.

    keep_results: whether to keep an existing results.json. Its times and memory were
        measured by the process that trained.
    """
    final = run.placement.to_host(state)
    row = best_row(progress.history, run.config.checkpoint.monitor)
    if row["step"] not in run.checkpoints.steps:
        raise RunError(f"{run.checkpoints.directory} lacks the best checkpoint, step "
                       f"{row['step']}: it was deleted; train again in another "
                       "--workdir")
    best, _ = run.checkpoints.restore(int(row["step"]), final)
    test: dict[str, Any] = {"loss": None, "accuracy": None, "examples": 0}
    if run.info.counts["test"]:
        test = evaluate(run.placement.replicate(best), "test")
    run.report.line(split_line("test", test) + f" - best epoch {row['epoch']}")
    record_skipped(run.feed, progress)
    if progress.skipped:
        skipped = counted(len(progress.skipped), "image")
        run.report.line(f"skipped {skipped} that cannot be decoded, such as "
                        f"{progress.skipped[0]}: see results.json")
    if keep_results and (run.workdir / "results.json").exists():
        results = read_results(run.workdir)
    else:
        results = collect(run, final, progress, row, test)
        if jax.process_index() == 0:
            write_results(results, run.workdir)
    return Finished(results, best, int(row["step"]))


def collect(run: Run, final: TrainState, progress: Progress,
            best: Row, test: dict[str, Any]) -> Results:
    """Collects the figures of results.json.

    final: the last state, on the host. best: the row of the best epoch.
    """
    images = run.steps_per_epoch * run.config.batch_size * len(progress.history)
    return Results(
        network=run.config.model.name,
        dataset=run.config.data.name,
        seed=run.config.seed,
        params=run.table.params,
        epochs=len(progress.history),
        best_epoch=int(best["epoch"]),
        validation_accuracy=best.get("val_accuracy"),
        test_accuracy=test.get("accuracy"),
        test_loss=test["loss"],
        test_examples=test["examples"],
        task_metrics=task_metrics(run.recipe.task, best, test),
        train_seconds=round(progress.train_seconds, 3),
        compile_seconds=round(progress.compile_seconds, 3),
        images_per_second=round(images / progress.train_seconds, 1),
        **peak_memory_mb(run.placement.devices),
        params_sha256=sha256(final),
        versions=versions(),
        devices=[f"{d.platform}: {d.device_kind}" for d in run.placement.devices],
        machine=machine(),
        convolutions={algorithm: len(layers) for algorithm, layers
                      in run.table.by_algorithm().items()},
        commit=commit(),
        command=shlex.join([Path(sys.executable).name, *sys.argv]),
        input_seconds=(round(sum(row["input_seconds"] for row in progress.history), 3)
                       if run.feed.streams else None),
        skipped=progress.skipped,
    )
