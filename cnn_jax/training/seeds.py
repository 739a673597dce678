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

from cnn_jax import data
from cnn_jax.data.batches import train_order
from cnn_jax.errors import InputError, RunError
from cnn_jax.training import parallel
from cnn_jax.training.calls import Look, make_calls
from cnn_jax.config import FIELDS, check
from cnn_jax.training.evaluate import Evaluate, compile_evaluation
from cnn_jax.training.loop import (Diverged, close_epoch, compile_training, drain,
                                   ended_anyway, save, say_finished, say_if_early)
from cnn_jax.console import Reporter, epoch_line
from cnn_jax.workdir.recorder import Recorder
from cnn_jax.training.train import Run, load, open_run, start
from cnn_jax.workdir.progress import Progress
from cnn_jax.workdir.results import finish, score
from cnn_jax.training.signals import Stopped, stop_signals
from cnn_jax.training.steps import TrainState
from cnn_jax.data.info import DataInfo, describe


@dataclasses.dataclass
class Member:
    """One seed."""

    run: Run
    state: TrainState              # on the host
    progress: Progress
    done: bool                     # had finished before
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

    workdir: WORKDIR/seedS is the folder of a seed; without it the one that `loop.run`
        gives it. Seeds that were stopped go on, those that are finished are only
        evaluated.
    Raises InputError for input that cannot be used, RunError where a run fails; the
    loss of one seed that is not finite ends that seed alone, and is raised when the
    others have ended.
    """
    check(config)
    check_seeds(config, seeds, workdir)
    report = Reporter(quiet)
    placement = parallel.place(config)
    loaded = load(config, placement, report)
    check_divided_alike(config, loaded[1], with_seed(config, config.seed + seeds - 1))
    members: list[Member] = []
    with contextlib.ExitStack() as opened:
        for seed in range(config.seed, config.seed + seeds):
            this = opened.enter_context(open_run(
                with_seed(config, seed), Path(workdir) / f"seed{seed}" if workdir
                else None, placement, report.named(f"seed {seed}: "), loaded,
                members[0].run if members else None, seeds))
            state, progress = start(this)
            members.append(Member(this, state, progress, this.finished(progress)))
        first = members[0].run
        evaluate = compile_evaluation(
            first.recipe, placement, placement.put(members[0].state), first.data,
            first.spans, config.eval_batch_size, report.track)
        if not all(member.done for member in members):
            fit(members, evaluate, report)
        results = conclude([m for m in members if m.problem is None], evaluate)
    if problems := [m for m in members if m.problem]:
        names = ", ".join(str(m.run.config.seed) for m in problems)
        raise RunError(f"seed{'s' * (len(problems) > 1)} {names}: "
                       f"{problems[0].problem}")
    return results


def conclude(members: list[Member], evaluate: Evaluate) -> list[dict]:
    """The results of all are written before any picture is drawn, so that what is
    measured is of training, and a stop in between loses none."""
    with stop_signals() as received:
        scored = []
        for member in members:
            if member.done:
                say_finished(member.run, member.progress)
            this = dataclasses.replace(member.run, seeds=member.together)
            scored.append(score(this, this.placement.put(member.state),
                                member.progress, evaluate, member.done))
        results = [finish(m.run, m.progress, one) for m, one in zip(members, scored)]
    if received:
        raise ended_anyway(received[0], members[0].run.workdir.parent)
    return results


def with_seed(config: ConfigDict, seed: int) -> ConfigDict:
    own = copy.deepcopy(config)
    own.seed = seed
    return own


def check_seeds(config: ConfigDict, seeds: int, workdir: str | Path | None) -> None:
    """Raises InputError for what is of one run alone."""
    last = config.seed + seeds - 1
    if not FIELDS["seed"].rule.holds(last):
        raise InputError(f"--seeds={seeds} from config.seed = {config.seed} on would "
                         f"end at {last}: a seed must be {FIELDS['seed'].rule.allowed}")
    if config.coordinator:
        raise InputError(f"config.coordinator = {config.coordinator!r}: seeds are "
                         "trained at once in one process: leave it out")
    if workdir and (Path(workdir) / "config.json").exists():
        raise InputError(f"--workdir={workdir} is the folder of a run, and seeds get "
                         "folders within it: choose another folder")


def check_divided_alike(config: ConfigDict, info: DataInfo, other: ConfigDict) -> None:
    """Raises InputError where the seed decides which data are in which part."""
    theirs = describe(data.load(other.data, other.seed), other.data.scaling)
    if info.sha256 != theirs.sha256:
        raise InputError(
            f"seeds {config.seed} and {other.seed} divide the data otherwise, and "
            "seeds trained at once share them: config.data.split = "
            f"{config.data.split!r} must be 'first' or 'last', and a set that has no "
            f"test part of its own (data.test = {config.data.test}) cannot be used; "
            "else train one seed after another")


def fit(members: list[Member], evaluate: Evaluate, report: Reporter) -> None:
    """Trains all to the end of their runs. Those that are least far take an epoch
    together until they are level with the next, which then take part."""
    programs = {}
    with contextlib.ExitStack() as opened:
        for member in members:
            if member.done:
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
            for member in group:
                member.together = max(member.together, len(group))
            train_epoch(group, programs[len(group)], report, received)
            for member in group:
                attempt(member, close, evaluate, len(group))
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
    begun = time.perf_counter()
    try:
        for look in make_calls(this, train, state, (seeds, this.data), order, done,
                               received):
            losses = account(group, look, epoch * steps + look.done,
                             (time.perf_counter() - begun) / len(group))
            if not losses:
                break  # all have diverged
            report.advance(look.done, f"loss: {min(losses):.4f} to {max(losses):.4f}")
            signum = received[0] if look.asking and received else 0
            if look.saving or signum or look.done == steps:
                host = placement.fetch(look.state)
                for place, member in enumerate(group):
                    member.state = jax.tree.map(lambda x: x[place, ...], host)
            if (look.saving or signum) and look.done < steps:
                for member in group:
                    attempt(member, checkpoint)
                if signum and not all(member.problem for member in group):
                    raise stopped(group, signum)
            begun = time.perf_counter()
    finally:
        report.stop()


def account(group: list[Member], look: Look, step: int, seconds: float) -> list[float]:
    """Adds to each member what the calls until `step` gave; the losses of those that
    have not diverged."""
    losses = []
    for place, member in enumerate(group):
        member.progress.step = step
        member.progress.epoch_seconds += seconds
        row = attempt(member, record, [
            {name: sums[place] for name, sums in call.items()}
            for call in look.metrics])
        losses += [row["loss"]] if row else []
    return losses


def attempt(member: Member, what: Callable, *arguments) -> dict | None:
    """`what(member, ...)`; a seed that is not finite takes no further part."""
    if member.problem is not None:
        return None
    try:
        return what(member, *arguments)
    except Diverged as error:
        member.problem = error
        member.run.report.line(str(error))
        return None


def record(member: Member, fetched: list[dict]) -> dict:
    return drain(member.run, member.progress, fetched, member.recorder)


def checkpoint(member: Member) -> None:
    save(member.run, member.state, member.progress)


def close(member: Member, evaluate: Evaluate, seeds: int) -> None:
    """The end of an epoch, as of a run alone; its time is a share of that of all."""
    this, progress = member.run, member.progress
    row = close_epoch(this, this.placement.put(member.state), progress, evaluate)
    member.recorder.epoch(progress.history)
    this.report.line(epoch_line(row, this.config.epochs) + (
        f" (of {seeds} seeds)" if seeds > 1 else ""))
    save(this, member.state, progress, row)
    if this.finished(progress):
        say_if_early(this, progress)


def stopped(members: list[Member], signum: int) -> Stopped:
    """What is saved of those that have not ended."""
    saved = ", ".join(f"{m.progress.step} of seed {m.run.config.seed}"
                      for m in members if not m.ended)
    return Stopped(signum, f"{signal.Signals(signum).name}: saved are the steps {saved}"
                   "; the same command goes on from there")
