"""SIGTERM and SIGINT at drawn steps: the step just done is saved, the run goes on.

    python -m tests.faults.sigterm --n=25 --seed=0

Every fifth signal, from the second on, is SIGINT. Each must end the process with 143 or
130 and one line that names the step, within five seconds; that step's checkpoint must
have the checksums that an uninterrupted run has there; in the end the run must end
alike. The run itself saves and logs at the end of an epoch only, so all steps that are
saved within one were saved for the signal: at least every fifth must be.
"""

import json
import random
import signal
import time
from collections import Counter
from pathlib import Path

from tests.faults.kill_resume import checksums, newest
from tests.faults.warm import command_line, report, start, workplace
from tiny_runs import (RICH, end, losses, read_results, refusal, rows_written,
                       wait_until)

from cnn_jax.training import loop

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}
CHANGES = RICH | {"log.every_steps": 10_000, "checkpoint.every_steps": 0}
MOST_SECONDS = 5


def slow_steps() -> None:
    """Each takes 50 ms more, so that most of an epoch's time is spent in them."""
    call_size = loop.call_size

    def later(*args):
        time.sleep(0.05)
        return call_size(*args)
    loop.call_size = later


def signal_once(workdir: Path, changes: dict, draw: random.Random, folder: Path,
                number: signal.Signals) -> tuple[int, float]:
    """(step that was saved, seconds to the end) of a run that gets a signal."""
    process = start(workdir, changes, folder=folder, before=slow_steps)
    begun = rows_written(workdir)
    wait_until(lambda: rows_written(workdir) != begun, process)  # it trains by now
    delay = draw.uniform(0, 0.8)
    time.sleep(delay)
    sent = time.perf_counter()
    process.send_signal(number)
    result = end(process)
    seconds = time.perf_counter() - sent
    message = refusal(result, CODES[number])
    step = newest(workdir)
    assert f"{number.name}: step {step} is saved in {workdir}" in message, message
    print(f"{number.name} {1000 * delay:.0f} ms after an epoch: step {step} "
          f"saved, ended after {seconds:.2f} s", flush=True)
    return step, seconds


def first_epoch(workdir: Path) -> int:
    """How many steps an epoch has."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return next(row["step"] for row in rows if row["kind"] == "epoch")


def main(n: int, seed: int) -> dict:
    """The counts over `n` signals, all to one run that goes on each time."""
    draw = random.Random(seed)
    changes = CHANGES | {"epochs": 2 * n + 2}
    found, same, within, signals = [], 0, 0, Counter()
    with workplace() as folder:
        # The states are the same however often they are saved.
        code, _, errors = end(start(folder / "whole", changes | {
            "checkpoint.every_steps": 1, "checkpoint.keep": 10_000}, folder=folder))
        assert code == 0, errors
        steps = first_epoch(folder / "whole")
        for index in range(n):
            number = signal.SIGINT if index % 5 == 1 else signal.SIGTERM
            signals[number.name] += 1
            step, seconds = signal_once(folder / "run", changes, draw, folder, number)
            found.append(seconds)
            within += step % steps != 0
            same += checksums(folder / "run", step) == checksums(folder / "whole", step)
        code, output, errors = end(start(folder / "run", changes, folder=folder))
        assert code == 0 and "resuming after step" in output, (output, errors)
        assert losses(folder / "run") == losses(folder / "whole")
        ours, theirs = (read_results(folder / name) for name in ("run", "whole"))
        alike = ours["params_sha256"] == theirs["params_sha256"]
    found.sort()
    return {**signals, "saved within an epoch": within, "same checksums": same,
            "ended alike": alike, "median seconds": round(found[n // 2], 3),
            "longest seconds": round(found[-1], 3)}


def good(figures: dict, n: int) -> bool:
    return (figures["same checksums"] == n and figures["ended alike"]
            and figures["saved within an epoch"] >= n // 5
            and figures["longest seconds"] <= MOST_SECONDS)


if __name__ == "__main__":
    arguments = command_line(__doc__, n=25, seed=0)
    figures = main(arguments.n, arguments.seed)
    report(figures, good(figures, arguments.n))
