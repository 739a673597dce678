"""Trains a run to its end, epoch by epoch."""

import contextlib
import functools
import itertools
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from cnn_jax import ops
from cnn_jax.console import epoch_line
from cnn_jax.data.progressive import training_sizes
from cnn_jax.errors import RunError
from cnn_jax.program_cache import compile_program
from cnn_jax.tasks.metrics import mean
from cnn_jax.training import parallel
from cnn_jax.training.evaluate import Evaluate
from cnn_jax.training.feed import record_skipped
from cnn_jax.training.input_wait import InputWait
from cnn_jax.training.recipe import at_size
from cnn_jax.training.setup import Run
from cnn_jax.training.signals import Stopped, stop_signals
from cnn_jax.training.steps import Metrics, TrainState
from cnn_jax.workdir.progress import Progress
from cnn_jax.workdir.recorder import Recorder


class TrainProgram(NamedTuple):
    """A compiled training program, called as (state, *arguments of the feed)."""

    compiled: Any             # takes (kept leaves, donated leaves, *arguments)
    is_kept: tuple[bool, ...]  # for each leaf of the state

    def __call__(self, state: Any, *arguments: Any) -> tuple[Any, Metrics]:
        return self.compiled(*split_leaves(state, self.is_kept), *arguments)

    def as_text(self) -> str:
        return self.compiled.as_text()


# {((height, width) of its images or None, K): program that makes K steps}
Programs = dict[tuple[tuple[int, int] | None, int], TrainProgram]


def fit(run: Run, state: TrainState, progress: Progress,
        evaluate: Evaluate) -> TrainState:
    """Trains to the end of the run and returns the last state, on the devices."""
    run.feed.start(*divmod(progress.step, run.steps_per_epoch))
    train = compile_training(run, state, progress)
    recorder = Recorder(run.workdir, progress.step, progress.history,
                        writing=jax.process_index() == 0, config=run.config)
    size = None
    with (contextlib.closing(recorder), contextlib.closing(run.profiler),
          stop_signals() as received):
        while not run.is_finished(progress):
            epoch, previous_size = progress.step // run.steps_per_epoch, size
            size = run.training_size(epoch)
            if size and size != previous_size:
                run.report.line(f"epoch {epoch + 1}: training images of {size[0]} x "
                                f"{size[1]} pixels")
            state = train_epoch(run, state, progress, train, recorder, received)
            finish_epoch(run, state, progress, evaluate, recorder)
            signum = parallel.any_process_signal(received)
            ends = bool(signum) or run.is_finished(progress)
            save(run, state, progress, now=ends or parallel.largest(
                run.checkpoints.seconds_since_save
                ) >= run.config.checkpoint.every_seconds)
            if signum and not run.is_finished(progress):
                raise stopped(run, progress, signum)
    if progress.step < run.config.epochs * run.steps_per_epoch:
        stop = run.config.early_stopping
        run.report.line(f"early stopping: {stop.monitor} did not improve for "
                        f"{stop.patience} epochs")
    return state


def train_epoch(run: Run, state: TrainState, progress: Progress, train: Programs,
                recorder: Recorder, received: list[int]) -> TrainState:
    """Trains to the end of the current epoch, which may have begun already.

    The metrics of steps stay on the devices until they are logged, so that calls can be
    queued.

    received: the signals that have asked the run to stop.
    """
    config, steps = run.config, run.steps_per_epoch
    epoch, done = divmod(progress.step, steps)
    size = run.training_size(epoch)
    ranges = list(call_ranges(done, steps, run.steps_per_call))
    calls = run.feed.calls(epoch, ranges)
    pending: list[Metrics] = []
    with (run.report.progress_bar(f"epoch {epoch + 1}/{config.epochs}", steps, done),
          contextlib.closing(InputWait(run.feed)) as input_wait):
        for start, stop in ranges:
            begun = time.perf_counter()
            arguments = input_wait.next(calls)
            run.profiler.before(epoch * steps + start, epoch * steps + stop, state)
            state, metrics = train[size, stop - start](state, *arguments)
            run.profiler.after(epoch * steps + stop, stop == steps, metrics,
                               train[size, stop - start])
            if run.placement.synchronous:
                jax.block_until_ready(metrics)
            progress.input_seconds += input_wait.after(metrics)
            pending.append(metrics)
            progress.step = epoch * steps + stop
            logging = (stop == steps or reaches(config.log.every_steps, start, stop)
                       or (bool(received) and jax.process_count() == 1))
            saving = (stop < steps
                      and reaches(config.checkpoint.every_steps, start, stop))
            if logging or saving:
                row = record_metrics(run, progress, pending, recorder)
                pending.clear()
                run.report.advance(stop, " - ".join(
                    f"{name}: {value:.4f}" for name, value in row.items()))
            progress.epoch_seconds += time.perf_counter() - begun
            signum = (parallel.any_process_signal(received)
                      if logging and stop < steps else 0)
            if saving or signum:
                save(run, state, progress)
            if signum:
                raise stopped(run, progress, signum)
    return state


def call_ranges(done: int, steps: int,
                steps_per_call: int) -> Iterator[tuple[int, int]]:
    """Yields the steps [start, stop) of each call, from step `done` of an epoch.

    Calls begin at multiples of steps_per_call; steps that do not fill a call are made
    one by one. So a resumed run makes the same calls.
    """
    while done < steps:
        whole = done % steps_per_call == 0 and done + steps_per_call <= steps
        size = steps_per_call if whole else 1
        yield done, done + size
        done += size


def reaches(every: int | None, start: int, stop: int) -> bool:
    """Tells whether a multiple of `every` lies in start + 1 ... stop."""
    return every is not None and stop // every > start // every


def record_metrics(run: Run, progress: Progress, pending: list[Metrics],
                   recorder: Recorder) -> dict[str, float]:
    """Records the mean of the pending metrics and returns it.

    It also adds them to the sums of the epoch. Raises RunError for a loss that is not
    finite.
    """
    calls = [run.placement.to_host(metrics) for metrics in pending]
    steps = {name: np.concatenate([call[name] for call in calls]).astype(np.float64)
             for name in calls[0]}
    for index in np.flatnonzero(~np.isfinite(steps["loss"]))[:1]:
        raise diverged(run, f"the loss is {steps['loss'][index]:g}",
                       progress.step - len(steps["loss"]) + int(index))
    sums = {name: float(values.sum()) for name, values in steps.items()}
    for name, value in sums.items():
        progress.sums[name] = progress.sums.get(name, 0.0) + value
    row = mean(sums)
    recorder.append({"kind": "steps", "step": progress.step} | row
                    | {"learning_rate": learning_rate(run, progress.step - 1)})
    return row


def finish_epoch(run: Run, state: TrainState, progress: Progress, evaluate: Evaluate,
                 recorder: Recorder) -> None:
    """Evaluates on the validation split and records the epoch."""
    row: dict[str, float] = {
        "epoch": progress.step // run.steps_per_epoch, "step": progress.step}
    row |= mean(progress.sums)
    if run.info.counts["validation"]:
        validation = evaluate(state, "validation")
        row |= {f"val_{name}": value for name, value in validation.items()
                if name != "examples"}
    row |= {"learning_rate": learning_rate(run, progress.step - 1),
            "seconds": progress.epoch_seconds,
            "images_per_second": progress.sums["count"] / progress.epoch_seconds}
    if run.feed.streams:
        row["input_seconds"] = parallel.largest(progress.input_seconds)
    progress.history.append(row)
    progress.train_seconds += progress.epoch_seconds
    progress.epoch_seconds = progress.input_seconds = 0.0
    progress.sums = {}
    recorder.epoch(progress.history)
    run.report.line(epoch_line(row, run.config.epochs))
    if advice := run.feed.advice(row):
        run.report.line(advice)


def save(run: Run, state: TrainState, progress: Progress, now: bool = True) -> None:
    """Saves a checkpoint of the last step. Raises RunError if it is not finite.

    now: whether to write it at once; if not, it is held in memory until the next save.
    """
    host = run.placement.to_host(state)
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(host)):
        raise diverged(run, "a parameter is not finite after the update",
                       progress.step - 1)
    record_skipped(run.feed, progress)
    (run.checkpoints.save if now else run.checkpoints.hold)(host, progress)


def compile_training(run: Run, state: Any, progress: Progress,
                     train: Callable[..., Any] | None = None) -> Programs:
    """Compiles a program for each remaining image size and number of steps per call.

    train: (state, *arguments of the feed, recipe) -> (state, metrics); None is the
        function of the feed, whose state is a TrainState.
    """
    steps = run.steps_per_epoch
    is_kept = kept_leaves(state, run.placement.devices[0].platform)
    current_epoch, done = divmod(progress.step, steps)
    counts = {stop - start for first in (0, done)
              for start, stop in call_ranges(first, steps, run.steps_per_call)}
    sizes = training_sizes(run.config.progressive, current_epoch)
    begun, programs = time.perf_counter(), {}
    with run.report.timed("compiling training"):
        for size, epoch in sizes.items():
            step = run.placement.compile(on_leaves(functools.partial(
                train or run.feed.train, recipe=at_size(run.recipe, size)),
                jax.tree.structure(state), is_kept), donate=(1,))
            for count in counts:
                example = run.feed.example_call(count, epoch)
                lowered = step.lower(*split_leaves(state, is_kept), *example)
                programs[size, count] = TrainProgram(compile_program(
                    lowered, ops.compiler_options(run.config.model.remat)), is_kept)
    progress.compile_seconds += time.perf_counter() - begun
    return programs


def kept_leaves(state: Any, platform: str) -> tuple[bool, ...]:
    """Tells for each leaf of a state whether the program must not write over it.

    On a CPU these are the parameters. XLA copies them if they are donated, because the
    update could run before the last gradient that reads them. In pairs of steps this
    took AlexNet 1.02 to 1.07 times as long, VGG-16 1.07 to 1.18 times (three runs),
    and made no difference to smaller networks. The new parameters take the memory of
    the copy.
    """
    paths, _ = jax.tree_util.tree_flatten_with_path(state)
    return tuple(platform == "cpu" and any(getattr(key, "name", None) == "params"
                                           for key in path) for path, _ in paths)


def split_leaves(state: Any, is_kept: tuple[bool, ...]) -> tuple[list, list]:
    """Splits the leaves of a state into (kept, donated)."""
    leaves = jax.tree.leaves(state)
    return (list(itertools.compress(leaves, is_kept)),
            [leaf for leaf, keep in zip(leaves, is_kept) if not keep])


def on_leaves(train: Callable[..., Any], structure: Any, is_kept: tuple[bool, ...]
              ) -> Callable[..., Any]:
    """Makes `train` a function of (kept leaves, donated leaves, *arguments)."""
    def train_leaves(kept: list, donated: list, *arguments: Any) -> Any:
        kept_in_order, donated_in_order = iter(kept), iter(donated)
        leaves = (next(kept_in_order if keep else donated_in_order) for keep in is_kept)
        return train(structure.unflatten(leaves), *arguments)
    return train_leaves


def learning_rate(run: Run, step: int) -> float:
    """Returns the learning rate of step number `step`, which counts from 0."""
    return float(run.schedule(step // run.config.optimizer.accumulate_steps))


def diverged(run: Run, what: str, step: int) -> RunError:
    """Makes the error that says which step diverged and what to do.

    Checkpoints that are held in memory are saved first.
    """
    run.checkpoints.flush()
    latest = run.checkpoints.latest
    return RunError(
        f"{what} at step {step + 1} (epoch {step // run.steps_per_epoch + 1}), "
        f"learning rate {learning_rate(run, step):g}: training stopped; "
        + (f"the checkpoint of step {latest} is kept" if latest is not None
           else "no checkpoint had been saved")
        + "; try a lower --config.optimizer.learning_rate or clip_norm")


def stopped(run: Run, progress: Progress, signum: int) -> Stopped:
    """Makes the error that says where a stopped run is saved."""
    name = signal.Signals(signum).name
    return Stopped(signum, f"{name}: step {progress.step} is saved in "
                   f"{run.checkpoints.directory}; the same command resumes there")
