"""Profiles some steps of training, for --profile_steps."""

import contextlib
import re
from pathlib import Path
from typing import Any

import jax

from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.workdir import profile


def parse_steps(text: str | None) -> tuple[int, int] | None:
    """Parses 'FIRST:STOP', such as '10:20' for the steps 10 to 19, counted from 0."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise InputError(f"--profile_steps={text} must be FIRST:STOP with FIRST < STOP,"
                         " such as 10:20")
    return int(match[1]), int(match[2])


class Profiler:
    """Starts and stops a trace. A call that makes several steps is traced as a whole.

    steps: (first, stop), or None to trace nothing.
    """

    def __init__(self, steps: tuple[int, int] | None, workdir: Path,
                 report: Reporter) -> None:
        self.steps, self.workdir, self.report = steps, workdir, report
        self.begun: int | None = None  # the first step of the open trace
        self.folder: Path       # of the traces; set when the trace starts
        self.earlier: set[Path]  # the traces that were there before

    def before(self, start: int, stop: int, waiting: Any) -> None:
        """Starts the trace if the next call makes one of the steps to trace.

        start, stop: the call makes the steps [start, stop).
        waiting: results of the previous calls, which are waited for first.
        """
        if self.steps and self.begun is None and (
                start < self.steps[1] and stop > self.steps[0]):
            jax.block_until_ready(waiting)
            self.folder = profile.trace_folder(self.workdir)
            self.earlier = profile.traces(self.folder)
            jax.profiler.start_trace(self.folder, create_perfetto_trace=True)
            self.begun = start

    def after(self, stop: int, last: bool, result: Any, program: Any) -> None:
        """Ends the trace after its last step or that of an epoch, and prints the table.

        stop: the step after the last one of the call.
        last: whether the call was the last one of its epoch.
        result: arrays that the call returned.
        program: the compiled program of the call.
        """
        if self.steps is None or self.begun is None or (
                stop < self.steps[1] and not last):
            return
        jax.block_until_ready(result)
        with contextlib.suppress(FileNotFoundError):  # JAX finds no trace either
            jax.profiler.stop_trace()
        first, self.steps, self.begun = self.begun, None, None
        if not (made := profile.traces(self.folder) - self.earlier):
            self.report.line(f"the profiler of JAX wrote no trace to {self.folder}: "
                             f"there is no profile of steps {first} to {stop - 1}")
            return
        device, names = jax.devices()[0], profile.sources(program.as_text())
        table = profile.make_profile(
            profile.read_trace(made.pop()), names, first, stop,
            f"{device.platform} ({device.device_kind})")
        if jax.process_index() == 0:
            profile.write_profile(self.workdir, table)
        self.report.line(profile.text(table))
        self.report.line(f"the trace is in {self.folder}; ui.perfetto.dev shows it")

    def close(self) -> None:
        """Ends the trace of a stopped run; says if the steps were not all trained."""
        if self.begun is not None:
            jax.profiler.stop_trace()
        if self.steps is not None:
            self.report.line(f"steps {self.steps[0]} to {self.steps[1] - 1} were not "
                             "trained to their end: there is no profile of them")
