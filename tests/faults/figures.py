"""The figures of measured/reliability/RELIABILITY.md: measured, put in a table.

    python -m tests.faults.figures --only=4,16      measure these (nothing: all; hours)
    python -m tests.faults.figures --table          only write the table again

What was measured is kept in measured/reliability/reliability.json.
"""

import argparse
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
from typing import NamedTuple

from tests.support.tiny_runs import ROOT

from cnn_jax.workdir.machine import commit, machine, versions

FOLDER = ROOT / "measured" / "reliability"
RECORD = FOLDER / "reliability.json"


class Figure(NamedTuple):
    """What is promised, and the command that shows it."""

    promise: str
    command: str
    least: int = 0  # tests that must pass


ALL = '-m "slow or not slow"'
FIGURES = {
    "1": Figure("100 kills in mid-run, 50 to each of two networks (saves are "
                "synchronous by design): the newest checkpoint has the checksums of "
                "the uninterrupted run, by which the resume verifies its arrays; both "
                "runs end with the same bits",
                "-m tests.faults.kill_resume --kills=100 --seed=0"),
    "1 b": Figure("20 of the kills with convolutions and batch norm's sums by oneDNN "
                  "and the library beside it", "-m tests.faults.kill_resume --kills=20 "
                  "--only=oneDNN --cache=0 --seed=0"),
    "2": Figure("resume at every boundary, and of a complete run: the same bits",
                "-m pytest tests/test_resume.py"),
    "3": Figure("20 SIGTERM and 5 SIGINT: the step just done is saved, codes 143 and "
                "130, at most 5 s, resumed with the same bits",
                "-m tests.faults.sigterm --n=25 --seed=0"),
    "4": Figure("200 damaged files of a checkpoint: no other state or meta in "
                "silence, each goes on from a verified step with the older one",
                "-m tests.faults.corrupt --n=200 --seed=0"),
    "5": Figure("full disk, read-only folder, file-size limit, from the start and "
                "later (saves are synchronous by design): a line, not code 0, ended "
                "within 10 s, from the start within that and an undisturbed run's "
                "time; afterwards the same bits",
                "-m tests.faults.disk"),
    "6": Figure("ten mismatches in restoring: ten lines that name leaf, expected, "
                "found", "-m pytest tests/test_checkpoint.py "
                '-k "another_structure or another_config or empty_step"', 10),
    "7": Figure("saved on 1, 2, 4, 8 devices, restored on each by other processes: 16 "
                "pairs, same bits",
                "-m pytest -m slow tests/test_parallel.py -k restored_on_all"),
    "8": Figure("1 against 2, 4, 8 devices, jit and pmap: within 1e-6 after a step, "
                "1e-4 after 60; ten runs of ten on eight devices end alike",
                f"-m pytest {ALL} tests/test_parallel.py "
                '-k "same_parameters or synchronised or ten_runs"'),
    "9": Figure("the same start gives the same 20 steps, another start others, for a "
                "network of every class; the same seed the same run, also in processes "
                "that each compile anew, another others; dropout and augmentation each "
                "by the seed",
                f"-m pytest {ALL} tests/test_determinism.py tests/test_run.py "
                '-k "twenty or seed_decides"'),
    "10": Figure("at least 1,000 cases of gradient equivalence: 5e-6 in float32, 1e-14 "
                 "in float64, 2e-2 in bfloat16",
                 f"-m pytest {ALL} tests/test_grad_equivalence.py", 1000),
    "11": Figure("finite differences in float64 at 1e-6, orders 1 and 2, for every "
                 "implementation of convolution and pooling",
                 f"-m pytest {ALL} tests/test_check_grads.py"),
    "12": Figure("values equal those of NumPy (20 drawn convolutions and poolings, "
                 "stride, padding, dilation, groups), of published cases and, where "
                 "it is installed, of torch",
                 f"-m pytest {ALL} tests/test_vs_numpy.py "
                 "tests/test_vs_numpy_drawn.py tests/test_peers_torch.py"),
    "13": Figure("60 bad configs and command lines: a line and code 2 each",
                 "-m pytest tests/test_config.py tests/test_cli.py", 200),
    "13 b": Figure("500 sets of overrides drawn at random: each trains or is refused "
                   "in a line", "-m tests.faults.fuzz_config --n=500 --seed=0"),
    "14": Figure("40 malformed data files: a line each, nothing run or written, peak "
                 "memory below 1 GiB; pictures of every kind are read as they look",
                 "-m pytest tests/test_malformed_inputs.py tests/test_data_images.py",
                 170),
    "15": Figure("each of the nine official files is used only with its size and "
                 "sha256",
                 "-m pytest tests/test_checksums.py tests/test_data_real.py", 20),
    "16": Figure("no call that runs code from a file or writes outside a folder",
                 "-m pytest tests/test_unsafe_calls.py"),
    "17": Figure("loss or parameters that are not finite: stopped, step and rate "
                 "named, the last finite checkpoint kept",
                 "-m pytest tests/test_run.py -k finite"),
    "18": Figure("a second writer is refused; the lock of a killed run is not in the "
                 "way (nor after any of the kills of 1)",
                 "-m pytest tests/test_run.py -k second_writer"),
    "19": Figure("clock, data folder, TensorBoard folder, workdir: goes on alike or "
                 "stops in a line", "-m tests.faults.surroundings"),
    "21": Figure("20,000 steps of the smallest network and of LeNet-5 with a "
                 "checkpoint every 50, and 200 starts and stops in one process, which "
                 "empties JAX's caches in between: memory by less than 2,000 KB in "
                 "1,000 steps (a state of LeNet-5 leaked by every save: 14,460) and "
                 "100 KB a round with no state alive, no more files open "
                 "(1: of a save), the checkpoint folder as it was; what grows are some "
                 "30 KB a save of 31 arrays, kept by orbax 0.12.8 in TensorStore's "
                 "specifications",
                 "-m tests.faults.soak --steps=20000 --rounds=200 --seed=0"),
}


def last_line(output: str) -> str:
    """The counts that a fault command or pytest ends with."""
    line = [line for line in output.splitlines() if line.strip()][-1]
    if not line.startswith('{"'):  # of pytest, or of an exception
        return line.strip("= ")
    figures = json.loads(line)
    good = figures.pop("good")
    return words(figures) + ("" if good else " (NOT as promised)")


def words(figures: dict) -> str:
    """'kills: 50; same checksums: 50' of counts, nested ones in brackets."""
    parts = []
    for name, value in figures.items():
        if isinstance(value, dict):
            parts.append(f"{name} ({words(value)})")
        elif isinstance(value, list):
            parts.append(f"{name}: {' to '.join(map(str, value))}")
        else:
            parts.append(f"{name}: {value}")
    return "; ".join(parts)


def measure(number: str) -> dict:
    """Runs the command of a figure; its output is shown as it comes."""
    _, command, least = FIGURES[number]
    arguments = shlex.split(command)
    begun = datetime.datetime.now()
    process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, text=True,
                               stdout=subprocess.PIPE)
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    _, status, usage = os.wait4(process.pid, 0)
    minutes = (datetime.datetime.now() - begun).total_seconds() / 60
    measured = last_line("".join(lines))
    if os.waitstatus_to_exitcode(status):
        measured += " (FAILED)"
    elif least and int(re.match(r"(\d+) passed", measured)[1]) < least:
        measured += f" (NOT as promised: fewer than {least})"
    peak = f"peak memory {usage.ru_maxrss // 1024} MiB"
    return {"command": command, "measured": f"{measured}; {peak}",
            "minutes": round(minutes, 1), "date": str(datetime.date.today()),
            "commit": (commit() or "")[:7], "machine": machine(),
            "versions": versions()}


def table(record: dict) -> str:
    """measured/reliability/RELIABILITY.md"""
    lines = [
        "# Reliability, as measured", "",
        "Written by `python -m tests.faults.figures`, which runs the commands. Every "
        "random choice of a fault command is drawn from a seed that it prints; the "
        "tests of pytest hold their seeds, and hypothesis is derandomised. A figure "
        "without a measurement has not been measured as a whole yet. The fast suite "
        "runs a part of each but 21: of 1 three kills, of 3 two signals, of 4 "
        "twenty damages, of 5 two cases, of 7 and 8 two and four devices, of 13 b "
        "eight sets, of 19 the workdir; of 21 "
        "none, as growth in a short run cannot be told from warming up.", "",
        "| # | promised | command: `python ...` | measured | commit |",
        "|---|---|---|---|---|"]
    for number, figure in FIGURES.items():
        row = {"command": figure.command, "measured": "-", "commit": "-"} | record.get(
            number, {})
        cells = [number, figure.promise, f"`{row['command']}`", row["measured"],
                 row["commit"]]
        lines.append("| " + " | ".join(
            cell.replace("|", "\\|") for cell in cells) + " |")
    found = {(row["machine"], *(f"{k} {row['versions'][k]}" for k in (
        "python", "jax", "orbax-checkpoint"))) for row in record.values()}
    lines += ["", *(f"Measured on {', '.join(where)}." for where in sorted(found))]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    numbers = [number.strip() for number in arguments.only.split(",") if number
               ] or list(FIGURES)
    for number in ([] if arguments.table else numbers):
        record[number] = measure(number)
        FOLDER.mkdir(exist_ok=True)
        RECORD.write_text(json.dumps(record, indent=1) + "\n")
    (FOLDER / "RELIABILITY.md").write_text(table(record))
    bad = [number for number in numbers if any(
        word in record.get(number, {"measured": ""})["measured"]
        for word in ("(FAILED)", "(NOT as promised"))]
    sys.exit(f"not as promised: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
