"""SIGTERM and SIGINT at drawn steps: the step just done is saved, the run goes on.

    python -m tests.faults.sigterm --n=25 --seed=0

Every fifth signal, from the second on, is SIGINT. Each must end the process with 143 or
130 and one line that names the step; that step's checkpoint must have the checksums
that an uninterrupted run has there; in the end the run must end alike. The seconds are
those from the signal to the end of the process.
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

CODES = {signal.SIGTERM: 143, signal.SIGINT: 130}


def signal_once(workdir: Path, changes: dict, draw: random.Random, folder: Path,
                number: signal.Signals) -> tuple[int, float]:
    """(step that was saved, seconds to the end) of a run that gets a signal."""
    process = start(workdir, changes, folder=folder)
    begun = rows_written(workdir)
    wait_until(lambda: rows_written(workdir) != begun, process)  # it trains by now
    target, delay = rows_written(workdir) + draw.randrange(6), draw.uniform(0, 0.02)
    wait_until(lambda: rows_written(workdir) >= target, process)
    time.sleep(delay)
    sent = time.perf_counter()
    process.send_signal(number)
    result = end(process)
    seconds = time.perf_counter() - sent
    message = refusal(result, CODES[number])
    step = newest(workdir)
    assert f"{number.name}: step {step} is saved in {workdir}" in message, message
    last = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == step, (last, step)
    print(f"{number.name} after row {target} and {1000 * delay:.0f} ms: step {step} "
          f"saved, ended after {seconds:.2f} s", flush=True)
    return step, seconds


def main(n: int, seed: int) -> dict:
    """The counts over `n` signals, all to one run that goes on each time."""
    draw = random.Random(seed)
    changes = RICH | {"epochs": max(3, n + 1)}
    found, same, signals = [], 0, Counter()
    with workplace() as folder:
        # The states are the same however often they are saved.
        code, _, errors = end(start(folder / "whole", changes | {
            "checkpoint.every_steps": 1, "checkpoint.keep": 10_000}, folder=folder))
        assert code == 0, errors
        for index in range(n):
            number = signal.SIGINT if index % 5 == 1 else signal.SIGTERM
            signals[number.name] += 1
            step, seconds = signal_once(folder / "run", changes, draw, folder, number)
            found.append(seconds)
            same += checksums(folder / "run", step) == checksums(folder / "whole", step)
        code, output, errors = end(start(folder / "run", changes, folder=folder))
        assert code == 0 and "resuming after step" in output, (output, errors)
        assert losses(folder / "run") == losses(folder / "whole")
        ours, theirs = (read_results(folder / name) for name in ("run", "whole"))
        alike = ours["params_sha256"] == theirs["params_sha256"]
    found.sort()
    return {**signals, "same checksums": same,
            "ended alike": alike, "median seconds": round(found[n // 2], 3),
            "longest seconds": round(found[-1], 3)}


if __name__ == "__main__":
    arguments = command_line(__doc__, n=25, seed=0)
    figures = main(arguments.n, arguments.seed)
    report(figures, figures["same checksums"] == arguments.n and figures["ended alike"])
