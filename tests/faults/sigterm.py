"""Sends SIGTERM and SIGINT at random steps: the run saves its step and resumes.

    python -m tests.faults.sigterm --n=25 --seed=0

Every fifth signal, from the second on, is SIGINT. Each must end the process with 143 or
130 and one line that names the step, within five seconds. That step must be the one
that was running when the signal came, or the next one if it came at the end of a step.
Its checkpoint must have the checksums of an uninterrupted run at that step, and the run
must end with the same bits. Without a signal the run saves and logs only at the end of
an epoch. So a checkpoint within an epoch was saved because of a signal; there must be
at least one, and at least a fifth of all.
"""

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.faults.kill_resume import checksums, newest
from tests.faults.warm import command_line, report, start, temporary_folder
from tests.support.forked import HERE
from tests.support.tiny_runs import (RICH, end, losses, read_results, refusal,
                                     undrawn, wait_until)

from cnn_jax.training import loop

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
CHANGES = RICH | {"log.every_steps": 10_000, "checkpoint.every_steps": None}
MOST_SECONDS = 5


def slow_steps(done) -> None:
    """Makes each step 50 ms longer, so that steps take most of an epoch's time.

    done: each step first writes the number of steps before it here.
    """
    compile_training = loop.compile_training

    def slow(program: Callable) -> Callable:
        def step(state, *rest):
            done.value = int(state.step)
            time.sleep(0.05)
            return program(state, *rest)
        return step

    def compile_slow(*args):
        return {size: slow(program)
                for size, program in compile_training(*args).items()}
    loop.compile_training = compile_slow


def signal_once(workdir: Path, changes: dict, draw: random.Random, folder: Path,
                number: signal.Signals, steps: int) -> tuple[int, float]:
    """Signals a run within its next two epochs, of `steps` steps each.

    Returns the step that was saved, and the seconds to the end of the process.
    """
    done = HERE.Value("i", 0)
    target, delay = newest(workdir) + draw.randrange(1, 2 * steps), draw.uniform(0, .15)
    process = start(workdir, changes, folder=folder, before=lambda: slow_steps(done))
    wait_until(lambda: done.value >= target, process)
    time.sleep(delay)
    before = done.value
    process.send_signal(number)
    sent, after = time.perf_counter(), done.value
    result = end(process)
    seconds = time.perf_counter() - sent
    message = refusal(result, CODES[number])
    step = newest(workdir)
    assert f"{number.name}: step {step} is saved in {workdir}" in message, message
    print(f"{number.name} {1000 * delay:.0f} ms after step {target} or later: {after} "
          f"done, step {step} saved, ended after {seconds:.2f} s", flush=True)
    assert before + 1 <= step <= after + 2, "not the step that was under way"
    return step, seconds


def first_epoch(workdir: Path) -> int:
    """Reads how many steps an epoch has."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return next(row["step"] for row in rows if row["kind"] == "epoch")


def main(n: int, seed: int) -> dict:
    """Sends `n` signals to one run, which resumes each time; returns the counts."""
    draw = random.Random(seed)
    changes = CHANGES | {"epochs": 2 * n + 1}
    times, same, within, signals = [], 0, 0, Counter()
    undrawn()  # children inherit it
    with temporary_folder() as folder:
        # The states do not depend on how often they are saved.
        code, _, errors = end(start(folder / "whole", changes | {
            "checkpoint.every_steps": 1, "checkpoint.keep": 10_000}, folder=folder))
        assert code == 0, errors
        steps = first_epoch(folder / "whole")
        for index in range(n):
            number = signal.SIGINT if index % 5 == 1 else signal.SIGTERM
            signals[number.name] += 1
            step, seconds = signal_once(folder / "run", changes, draw, folder, number,
                                        steps)
            times.append(seconds)
            within += step % steps != 0
            same += checksums(folder / "run", step) == checksums(folder / "whole", step)
        code, output, errors = end(start(folder / "run", changes, folder=folder))
        assert code == 0 and "resuming after step" in output, (output, errors)
        assert losses(folder / "run") == losses(folder / "whole")
        ours, theirs = (read_results(folder / name) for name in ("run", "whole"))
        alike = ours["params_sha256"] == theirs["params_sha256"]
    times.sort()
    return {**signals, "saved within an epoch": within, "same checksums": same,
            "ended alike": alike, "median seconds": round(times[n // 2], 3),
            "longest seconds": round(times[-1], 3)}


def good(figures: dict, n: int) -> bool:
    return (figures["same checksums"] == n and figures["ended alike"]
            and figures["saved within an epoch"] >= max(1, n // 5)
            and figures["longest seconds"] <= MOST_SECONDS)


if __name__ == "__main__":
    arguments = command_line(__doc__, n=25, seed=0)
    figures = main(arguments.n, arguments.seed)
    report(figures, good(figures, arguments.n))
