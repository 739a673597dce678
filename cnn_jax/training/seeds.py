"""Several seeds of a small network at once: one program, vmapped over their states.

Each seed draws what it draws alone (initial parameters, order, augmentation, dropout)
and leaves what `loop.run` leaves, in a folder of its own, with checkpoints from which
either goes on. The parameters are equal up to rounding, as products and sums are made
for all seeds together. Whether it pays: experiments/seeds_vmapped.py.
"""

import contextlib
import copy
import dataclasses
import signal
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data.batches import train_order
from cnn_jax.errors import InputError, RunError
from cnn_jax.training import parallel
from cnn_jax.training.calls import call_size, crosses
from cnn_jax.training.config import check
from cnn_jax.training.evaluate import Evaluate, compile_evaluation
from cnn_jax.training.loop import (Diverged, Run, close_epoch, compile_training,
                                   conclude, drain, open_run, save, say_if_early,
                                   start)
from cnn_jax.training.metrics import Recorder, Reporter, epoch_line
from cnn_jax.training.progress import Progress
from cnn_jax.training.signals import Stopped, stop_signals
from cnn_jax.training.steps import TrainState


@dataclasses.dataclass
class Member:
    """One seed."""

    run: Run
    state: TrainState              # on the host
    progress: Progress
    together: int = 1              # seeds in the largest group that it trained in
    recorder: Recorder | None = None
    problem: Diverged | None = None

    @property
    def ended(self) -> bool:
        return self.problem is not None or self.run.finished(self.progress)


def run_seeds(config: ConfigDict, seeds: int, workdir: str | Path | None = None,
              quiet: bool = False) -> list[dict]:
    """Trains the seeds config.seed, config.seed + 1, ... at once; returns what the
    results.json of each holds.

    workdir: default the folder that `loop.run` gives each seed; else WORKDIR/seedS.
        Seeds that were stopped go on, those that are finished are only evaluated.
    Raises InputError for input that cannot be used, RunError where a run fails; the
    loss of one seed that is not finite ends that seed alone, and is raised when the
    others have ended.
    """
    check(config)
    check_seeds(config, workdir)
    report = Reporter(quiet)
    placement = parallel.place(config)
    members: list[Member] = []
    with contextlib.ExitStack() as opened:
        for seed in range(config.seed, config.seed + seeds):
            own = with_seed(config, seed)
            this = opened.enter_context(open_run(
                own, Path(workdir) / f"seed{seed}" if workdir else None, placement,
                report.named(f"seed {seed}: "), members[0].run if members else None,
                seeds))
            members.append(Member(this, *start(this)))
        done = [member.ended for member in members]
        first = members[0].run
        evaluate = compile_evaluation(
            first.recipe, placement, placement.put(members[0].state), first.data,
            first.spans, config.eval_batch_size, report.track)
        if not all(done):
            fit(members, evaluate, report)
        results = [conclude(dataclasses.replace(m.run, seeds=m.together),
                            placement.put(m.state), m.progress, evaluate, before)
                   for m, before in zip(members, done) if m.problem is None]
    problems = [f"seed {m.run.config.seed}: {m.problem}" for m in members if m.problem]
    if problems:
        raise RunError("; ".join(problems))
    return results


def with_seed(config: ConfigDict, seed: int) -> ConfigDict:
    own = copy.deepcopy(config)
    own.seed = seed
    check(own)  # the last one may be too large
    return own


def check_seeds(config: ConfigDict, workdir: str | Path | None) -> None:
    """Raises InputError for what is of one run."""
    if config.coordinator:
        raise InputError(f"config.coordinator = {config.coordinator!r}: seeds are "
                         "trained at once in one process: leave it empty")
    if config.debug.determinism:
        raise InputError("config.debug.determinism = True is for one seed: leave out "
                         "--seeds")
    if workdir and (Path(workdir) / "config.json").exists():
        raise InputError(f"--workdir={workdir} is the folder of a run, and seeds get "
                         "folders within it: choose another folder")


def fit(members: list[Member], evaluate: Evaluate, report: Reporter) -> None:
    """Trains all to the end of their runs. Those that are least far take an epoch
    together until they are level with the next, which then take part."""
    programs = {}
    with contextlib.ExitStack() as opened:
        for member in members:
            if member.ended:
                continue
            this, progress = member.run, member.progress
            member.recorder = opened.enter_context(contextlib.closing(
                Recorder(this.workdir, progress.step, progress.history)))
            if member.recorder.lost:
                this.report.line(member.recorder.lost)
        received = opened.enter_context(stop_signals())
        while left := [member for member in members if not member.ended]:
            step = min(member.progress.step for member in left)
            group = [member for member in left if member.progress.step == step]
            if len(group) not in programs:
                programs[len(group)] = compile_group(group, report)
            train_epoch(group, programs[len(group)], report, received)
            for member in group:
                member.together = max(member.together, len(group))
                attempt(member, close, evaluate)
            if received and not all(member.ended for member in members):
                raise stopped(members, received[0])


def compile_group(group: list[Member], report: Reporter) -> dict[int, Callable]:
    """{steps: program for as many states as the group has members}"""
    this, lanes = group[0].run, (len(group),)

    def one(state, seed, data, order):
        return parallel.train_steps(state, data, order,
                                    dataclasses.replace(this.recipe, seed=seed))

    programs, seconds = compile_training(
        dataclasses.replace(this, report=report),
        jax.vmap(one, in_axes=(0, 0, None, 0)), (*stack(group), this.data), lanes)
    for member in group:
        member.progress.compile_seconds += seconds / len(group)
    return programs


def stack(group: list[Member]) -> tuple[TrainState, jax.Array]:
    """The states and the seeds of a group along a first axis, on the devices."""
    put = group[0].run.placement.put
    states = jax.tree.map(lambda *leaves: np.stack(leaves), *(m.state for m in group))
    return put(states), put(np.array([m.run.config.seed for m in group], np.int32))


def train_epoch(group: list[Member], train: dict[int, Callable], report: Reporter,
                received: list[int]) -> None:
    """Trains all of the group to the end of the epoch under way, as
    `loop.train_epoch` does one."""
    this = group[0].run
    config, steps, placement = this.config, this.steps_per_epoch, this.placement
    epoch, done = divmod(group[0].progress.step, steps)
    order = np.stack([train_order(member.run.config.seed, epoch, this.spans["train"],
                                  config.batch_size) for member in group])
    state, seeds = stack(group)
    report.start(f"epoch {epoch + 1}/{config.epochs}, {len(group)} seeds", steps, done)
    pending, begun = [], time.perf_counter()
    try:
        while done < steps:
            size = call_size(this.steps_per_call, done, steps)
            rows = placement.put_rows(order[:, done:done + size])
            state, metrics = train[size](state, seeds, this.data, rows)
            if placement.synchronous:
                jax.block_until_ready(metrics)
            pending.append(metrics)
            done += size
            due = crosses(config.checkpoint.every_steps, done, size) or bool(received)
            look = crosses(config.log.every_steps, done, size)
            if not (due or look or done == steps):
                continue
            fetched = [placement.fetch(metrics) for metrics in pending]
            pending.clear()
            seconds = (time.perf_counter() - begun) / len(group)
            for place, member in enumerate(group):
                member.progress.step = epoch * steps + done
                member.progress.epoch_seconds += seconds
                attempt(member, record, [
                    {name: sums[place] for name, sums in call.items()}
                    for call in fetched])
            report.advance(done, "")
            if due or done == steps:
                host = placement.fetch(state)
                for place, member in enumerate(group):
                    member.state = jax.tree.map(lambda x: x[place, ...], host)
            if due and done < steps:
                for member in group:
                    attempt(member, checkpoint)
                if received:
                    raise stopped(group, received[0])
            begun = time.perf_counter()
    finally:
        report.stop()


def attempt(member: Member, what: Callable, *arguments) -> None:
    """Calls `what(member, ...)`; a seed that is not finite takes no further part."""
    if member.problem is not None:
        return
    try:
        what(member, *arguments)
    except Diverged as error:
        member.problem = error
        member.run.report.line(str(error))


def record(member: Member, fetched: list[dict]) -> None:
    drain(member.run, member.progress, fetched, member.recorder)


def checkpoint(member: Member) -> None:
    save(member.run, member.state, member.progress)


def close(member: Member, evaluate: Evaluate) -> None:
    """The end of an epoch, as of a run alone."""
    this, progress = member.run, member.progress
    row = close_epoch(this, this.placement.put(member.state), progress, evaluate)
    member.recorder.epoch(progress.history)
    this.report.line(epoch_line(row, this.config.epochs))
    save(this, member.state, progress, row)
    if this.finished(progress):
        say_if_early(this, progress)


def stopped(members: list[Member], signum: int) -> Stopped:
    """What is saved of those that have not ended."""
    saved = ", ".join(f"{m.progress.step} of seed {m.run.config.seed}"
                      for m in members if not m.ended)
    return Stopped(signum, f"{signal.Signals(signum).name}: saved are the steps {saved}"
                   "; the same command goes on from there")
