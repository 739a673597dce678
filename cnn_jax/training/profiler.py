"""Traces some steps of a training, for --profile_steps."""

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
    """Starts and stops a trace; a call of several steps is traced as a whole.

    steps: (first, stop), or None to trace nothing.
    """

    def __init__(self, steps: tuple[int, int] | None, workdir: Path,
                 report: Reporter) -> None:
        self.steps, self.workdir, self.report = steps, workdir, report
        self.begun: int | None = None  # the first step of the trace that runs

    def before(self, start: int, stop: int, waiting: Any) -> None:
        """Starts the trace if a call of the steps [start, stop) has its first step.

        waiting: arrays of the calls before, which must have ended.
        """
        if self.steps and self.begun is None and (
                start < self.steps[1] and stop > self.steps[0]):
            jax.block_until_ready(waiting)
            jax.profiler.start_trace(self.workdir / profile.FOLDER,
                                     create_perfetto_trace=True)
            self.begun = start

    def after(self, stop: int, last: bool, result: Any, program: Any) -> None:
        """Ends the trace after its last step, or that of an epoch; prints the table.

        result: arrays of the call that made the step before `stop`.
        program: what it compiled to.
        """
        if self.steps is None or self.begun is None or (
                stop < self.steps[1] and not last):
            return
        jax.block_until_ready(result)
        jax.profiler.stop_trace()
        folder, device = self.workdir / profile.FOLDER, jax.devices()[0]
        names = profile.sources(program.as_text())
        made = profile.make_profile(
            profile.read_trace(folder), names, self.begun, stop,
            f"{device.platform} ({device.device_kind})")
        self.steps = self.begun = None
        if jax.process_index() == 0:
            profile.write_profile(self.workdir, made)
        self.report.line(profile.text(made))
        self.report.line(f"the trace, for ui.perfetto.dev, is in {folder}")

    def close(self) -> None:
        """Ends a trace that a stopped run has left, or says that there was none."""
        if self.begun is not None:
            jax.profiler.stop_trace()
        if self.steps is not None:
            self.report.line(f"steps {self.steps[0]} to {self.steps[1] - 1} were not "
                             "trained to their end: there is no profile of them")
