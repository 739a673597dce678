"""Training from a config: from the state a run starts from to its results."""

import contextlib
import dataclasses
import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax import ops
from cnn_jax.data.batches import train_order
from cnn_jax.errors import RunError
from cnn_jax.training import parallel
from cnn_jax.training.calls import call_size, make_calls
from cnn_jax.config import check
from cnn_jax.training.evaluate import Evaluate, compile_evaluation
from cnn_jax.console import Reporter, epoch_line
from cnn_jax.tasks.metrics import mean
from cnn_jax.workdir.progress import improvement
from cnn_jax.workdir.recorder import Recorder
from cnn_jax.training.train import Run, load, open_run, start
from cnn_jax.workdir.progress import Progress
from cnn_jax.workdir.results import finish, score
from cnn_jax.training.signals import Stopped, stop_signals
from cnn_jax.training.steps import TrainState


def run(config: ConfigDict, workdir: str | Path | None = None,
        quiet: bool = False) -> dict:
    """Trains, evaluates and writes everything; returns what results.json holds.

    workdir: default `runs/NETWORK-DATASET-HASH`. A run that was stopped there goes on
    bit for bit; one that is finished is only evaluated.
    Raises InputError for input that cannot be used, RunError where the run fails.
    """
    check(config)
    parallel.start_processes(config)
    report = Reporter(quiet or jax.process_index() != 0)
    placement = parallel.place(config)
    loaded = load(config, placement, report)
    with open_run(config, workdir, placement, report, loaded) as this:
        state, progress = start(this)
        state = this.placement.put(state)
        done = this.finished(progress)
        evaluate = compile_evaluation(
            this.recipe, this.placement, state, this.data, this.spans,
            config.eval_batch_size, report.track)
        if not done:
            state = fit(this, state, progress, evaluate)
        return conclude(this, state, progress, evaluate, done)


def conclude(this: Run, state: TrainState, progress: Progress, evaluate: Evaluate,
             done: bool) -> dict:
    """Evaluates the best parameters and writes what a run leaves."""
    if done:
        say_finished(this, progress)
    with stop_signals() as received:  # drawing does not bear interruption
        results = finish(this, progress, score(this, state, progress, evaluate, done))
    if received:
        raise ended_anyway(received[0], this.workdir)
    return results


def say_finished(this: Run, progress: Progress) -> None:
    this.report.line(f"already finished after epoch {len(progress.history)}: "
                     "evaluating only")


def ended_anyway(signum: int, workdir: Path) -> Stopped:
    return Stopped(signum, f"{signal.Signals(signum).name} came when training had "
                   f"ended: all of it is in {workdir}")


def fit(this: Run, state: TrainState, progress: Progress,
        evaluate: Evaluate) -> TrainState:
    """Trains to the end of the run, an epoch at a time."""
    config = this.config
    train, seconds = compile_training(
        this, functools.partial(parallel.train_steps, recipe=this.recipe),
        (state, this.data))
    progress.compile_seconds += seconds
    recorder = Recorder(this.workdir, progress.step, progress.history,
                        writing=jax.process_index() == 0)
    if recorder.lost:
        this.report.line(recorder.lost)
    with contextlib.closing(recorder), stop_signals() as received:
        while not this.finished(progress):
            state = train_epoch(this, state, progress, train, recorder, received)
            row = close_epoch(this, state, progress, evaluate)
            recorder.epoch(progress.history)
            this.report.line(epoch_line(row, config.epochs))
            save(this, this.placement.fetch(state), progress, row)
            signum = parallel.agreed(received)
            if signum and not this.finished(progress):
                raise stopped(this, progress, signum)
    say_if_early(this, progress)
    return state


def say_if_early(this: Run, progress: Progress) -> None:
    stop = this.config.early_stopping
    if progress.step < this.config.epochs * this.steps_per_epoch:
        this.report.line(f"early stopping: {stop.monitor} did not improve for "
                         f"{stop.patience} epochs")


def train_epoch(this: Run, state: TrainState, progress: Progress, train: Callable,
                recorder: Recorder, received: list[int]) -> TrainState:
    """Trains to the end of the epoch under way, from its start or from within it."""
    config, steps = this.config, this.steps_per_epoch
    epoch, done = divmod(progress.step, steps)
    order = train_order(config.seed, epoch, this.spans["train"], config.batch_size)
    this.report.start(f"epoch {epoch + 1}/{config.epochs}", steps, done)
    begun = time.perf_counter()
    try:
        for look in make_calls(this, train, state, (this.data,), order, done, received):
            state = look.state
            progress.step = epoch * steps + look.done
            row = drain(this, progress, look.metrics, recorder)
            this.report.advance(look.done, running(row))
            progress.epoch_seconds += time.perf_counter() - begun
            signum = (parallel.agreed(received) if look.asking and look.done < steps
                      else 0)
            if look.saving or signum:
                save(this, this.placement.fetch(state), progress)
            if signum:
                raise stopped(this, progress, signum)
            begun = time.perf_counter()
    finally:
        this.report.stop()
    return state


def drain(this: Run, progress: Progress, fetched: list, recorder: Recorder) -> dict:
    """Checks the metrics of the calls made, adds them up, and records their mean,
    which it returns."""
    steps = {name: np.concatenate([m[name] for m in fetched]).astype(np.float64)
             for name in fetched[0]}
    first = progress.step - len(steps["loss"])
    for offset in np.flatnonzero(~np.isfinite(steps["loss"]))[:1]:
        raise not_finite(this, f"the loss is {steps['loss'][offset]:g}",
                         first + int(offset))
    sums = {name: float(values.sum()) for name, values in steps.items()}
    for name in sums:
        progress.sums[name] += sums[name]
    row = mean(sums)
    recorder.append({"kind": "steps", "step": progress.step} | row
                    | {"learning_rate": learning_rate(this, progress.step - 1)})
    return row


def running(row: dict) -> str:
    return f"loss: {row['loss']:.4f} - accuracy: {row['accuracy']:.4f}"


def learning_rate(this: Run, step: int) -> float:
    """The rate that step number `step` (from 0) was made with."""
    return float(this.rate(step // this.config.optimizer.accumulate_steps))


class Diverged(RunError):
    """The loss or a parameter is not finite."""


def not_finite(this: Run, what: str, step: int) -> Diverged:
    kept = this.checkpoints.latest
    return Diverged(
        f"{what} at step {step + 1} (epoch {step // this.steps_per_epoch + 1}), "
        f"learning rate {learning_rate(this, step):g}: training stopped; "
        + (f"the checkpoint of step {kept} is kept" if kept is not None
           else "no checkpoint had been saved")
        + "; try a lower --config.optimizer.learning_rate or clip_norm")


def close_epoch(this: Run, state: TrainState, progress: Progress,
                evaluate: Evaluate) -> dict:
    """Adds the row of the epoch just trained to the history and returns it."""
    row = {"epoch": progress.step // this.steps_per_epoch, "step": progress.step}
    row |= mean(progress.sums)
    if len(this.spans["validation"]):
        validation = evaluate(state, "validation")
        row |= {f"val_{name}": value for name, value in validation.items()
                if name != "examples"}
    row |= {"learning_rate": learning_rate(this, progress.step - 1),
            "seconds": progress.epoch_seconds,
            "images_per_second": progress.sums["count"] / progress.epoch_seconds}
    progress.history.append(row)
    progress.train_seconds += progress.epoch_seconds
    progress.epoch_seconds = 0.0
    progress.sums = dict.fromkeys(progress.sums, 0.0)
    return row


def save(this: Run, state: TrainState, progress: Progress,
         row: dict | None = None) -> None:
    """A checkpoint of the step just done, unless the state, on the host, is not finite.

    row: of the epoch that has ended with it; what it monitors decides which is kept.
    """
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
        raise not_finite(this, "a parameter is not finite after the update",
                         progress.step - 1)
    this.checkpoints.save(
        progress.step, state, dataclasses.asdict(progress),
        score=row and (improvement(row, this.config.checkpoint.monitor), row["epoch"]))


def compile_training(this: Run, step: Callable, operands: tuple,
                     lanes: tuple[int, ...] = ()) -> tuple[dict[int, Callable], float]:
    """{steps: program that makes so many}, for all of an epoch, and the seconds.

    step: function of the operands and of rows [*lanes, steps, batch] of the order.
    """
    steps, batch = this.steps_per_epoch, this.config.batch_size
    sizes = {call_size(this.steps_per_call, done, steps) for done in range(steps)}
    step = this.placement.wrap(step, donate=(0,))
    programs = {}
    this.report.line("compiling ...")
    begun = time.perf_counter()
    for size in sizes:
        rows = this.placement.put_rows(np.zeros((*lanes, size, batch), np.int32))
        programs[size] = step.lower(*operands, rows).compile(
            compiler_options=ops.compiler_options())
    seconds = time.perf_counter() - begun
    this.report.line(f"compiled in {seconds:.1f} s")
    return programs, seconds


def stopped(this: Run, progress: Progress, signum: int) -> Stopped:
    name = signal.Signals(signum).name
    return Stopped(signum, f"{name}: step {progress.step} is saved in "
                   f"{this.checkpoints.directory}; the same command goes on from there")
