"""Measures the figures of measured/reliability/RELIABILITY.md and writes the table.

    python -m tests.faults.figures --only=4,16    measures these (without --only: all)
    python -m tests.faults.figures --table        only writes the table again

Results are kept in measured/reliability/reliability.json. All of them take hours.
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
    """A claim, and the command that tests it."""

    claim: str
    command: str
    least: int = 0  # tests that must pass


ALL = '-m "slow or not slow"'
FIGURES = {
    "1": Figure("100 kills during training, 50 for each of two networks: the newest "
                "checkpoint has the checksums of the uninterrupted run; the resumed "
                "run verifies them and ends with the same bits",
                "-m tests.faults.kill_resume --kills=100 --seed=0"),
    "1 b": Figure("20 kills with convolutions by oneDNN",
                  "-m tests.faults.kill_resume --kills=20 --only=oneDNN --cache=0 "
                  "--seed=0"),
    "1 c": Figure("20 kills while two worker processes decode pictures and cut random "
                  "crops out of them", "-m tests.faults.kill_resume --kills=20 "
                  "--only=pictures --seed=0"),
    "2": Figure("resuming at every boundary, and of a complete run, gives the same "
                "bits", "-m pytest tests/training/test_resume.py"),
    "3": Figure("20 SIGTERM and 5 SIGINT: the run saves the step that was just done, "
                "ends with code 143 or 130 within 5 s, and resumes with the same bits",
                "-m tests.faults.sigterm --n=25 --seed=0"),
    "4": Figure("200 damaged files of a checkpoint: none is silently restored as "
                "another state; without the damaged checkpoint the run resumes from "
                "the older one and ends with the same bits",
                "-m tests.faults.corrupt --n=200 --seed=0"),
    "5": Figure("full disk, read-only folder, file-size limit, from the start and "
                "later: the run ends within 10 s (from the start: 10 s more than an "
                "undisturbed run) with one line and a nonzero exit code; afterwards "
                "it resumes with the same bits",
                "-m tests.faults.disk"),
    "6": Figure("ten mismatches when restoring: ten lines that name the leaf, the "
                "expected and the found value",
                "-m pytest tests/workdir/test_checkpoint.py "
                '-k "another_structure or another_config or empty_step"', 10),
    "7": Figure("checkpoints saved on 1, 2 and 4 devices, restored on each of these: "
                "9 pairs, the same bits",
                "-m pytest tests/training/test_parallel.py -k restored_on_others"),
    "7 b": Figure("streamed pictures on 1, 2 and 4 processes, jit and pmap, and runs "
                  "of 4, 2, 1 and of 1, 4, 2 processes that are killed and resumed: "
                  "every global batch has the same bits, and every example is "
                  "evaluated once", f"-m pytest {ALL} tests/training/test_processes.py "
                  '-k "streams_the_same or another_number_of_processes"', 6),
    "8": Figure("1 device against 2, 4, 8 with jit and pmap: parameters within 1e-6 "
                "after one step, 1e-4 after 60; ten runs on eight devices end with the "
                "same bits",
                f"-m pytest {ALL} tests/training/test_parallel.py "
                '-k "same_parameters or synchronized or ten_runs"'),
    "9": Figure("the same seed gives the same 20 steps for a network of every class, "
                "and the same run in processes that each compile anew; another seed "
                "gives other steps; the seed decides dropout and augmentation",
                f"-m pytest {ALL} tests/training/test_determinism.py "
                'tests/training/test_run_ends.py -k "twenty or seed_decides"'),
    "10": Figure("at least 1,000 cases of gradient equivalence: within 5e-6 in "
                 "float32, 1e-14 in float64, 2e-2 in bfloat16",
                 f"-m pytest {ALL} tests/ops/test_grad_equivalence.py", 1000),
    "11": Figure("finite differences in float64 within 1e-6, orders 1 and 2, for every "
                 "implementation of convolution and pooling",
                 f"-m pytest {ALL} tests/ops/test_check_grads.py"),
    "12": Figure("values equal those of NumPy (20 random convolutions and poolings, "
                 "with stride, padding, dilation, groups), of published cases and of "
                 "torch, if it is installed",
                 f"-m pytest {ALL} tests/ops/test_vs_numpy.py "
                 "tests/ops/test_vs_numpy_drawn.py tests/networks/test_peers_torch.py"),
    "13": Figure("bad configs and command lines: one line and code 2 for each",
                 "-m pytest tests/config/test_config.py tests/cli/test_cli.py"),
    "13 b": Figure("500 random sets of overrides: each trains or is refused with one "
                   "line", "-m tests.faults.fuzz_config --n=500 --seed=0"),
    "14": Figure("malformed data files: one line for each, nothing run or written, "
                 "peak memory below 1 GiB; pictures of every kind are decoded as they "
                 "look", "-m pytest tests/data/test_malformed_inputs.py "
                 "tests/data/test_data_images.py"),
    "15": Figure("each of the nine official files is used only with its size and "
                 "sha256",
                 "-m pytest tests/data/test_official.py tests/data/test_data_real.py"),
    "16": Figure("the package has no call that runs code from a file or writes outside "
                 "a folder",
                 "-m pytest tests/documents/test_unsafe_calls.py"),
    "17": Figure("a loss or parameters that are not finite stop the run: a line names "
                 "step and learning rate; the last finite checkpoint is kept",
                 "-m pytest tests/training/test_run_ends.py -k finite"),
    "18": Figure("a second writer is refused; the lock of a killed run does not block "
                 "the next one (nor after any of the kills of 1)",
                 "-m pytest tests/training/test_run.py -k second_writer"),
    "19": Figure("the clock jumps, or the data folder, the TensorBoard folders or the "
                 "workdir disappear: the run ends with the same bits, or stops with "
                 "one line",
                 "-m tests.faults.surroundings"),
    "20": Figure("20,000 steps of the smallest network and of LeNet-5 with a "
                 "checkpoint every 50 steps, and 200 starts and stops in one process "
                 "that empties JAX's caches in between: memory grows by less than "
                 "2,000 KB in 1,000 steps (if every save leaked a state of LeNet-5, it "
                 "would grow by 14,460 KB) and by less than 200 KB a round; no state "
                 "stays alive, the number of open files does not grow (one file of a "
                 "save is allowed), and the checkpoint folder keeps its size. About 30 "
                 "KB remain for each save of 31 arrays: orbax 0.12.8 keeps the "
                 "specifications of TensorStore",
                 "-m tests.faults.soak --steps=20000 --rounds=200 --seed=0"),
    "21": Figure("every row of pretrained weights: random weights that the library "
                 "saves give its logits within 1e-9 of their standard deviation, and "
                 "the library loads our weights (needs the extra peers)",
                 f"-m pytest {ALL} tests/interop/test_peers_pretrained.py"),
    "21 b": Figure("pictures are prepared as by torchvision, timm and Keras, to the "
                   "pixel (needs the extra peers)",
                   f"-m pytest {ALL} tests/interop/test_peers_pictures.py"),
    "21 c": Figure("every registered network in ONNX: onnx's checker and reference in "
                   "float64 within 1e-6, ONNX Runtime within 1e-4",
                   f"-m pytest {ALL} tests/interop/test_onnx.py"),
}


def last_line(output: str) -> str:
    """Formats the counts that a fault command or pytest prints last."""
    line = [line for line in output.splitlines() if line.strip()][-1]
    if not line.startswith('{"'):  # of pytest, or of an exception
        return line.strip("= ")
    figures = json.loads(line)
    good = figures.pop("good")
    return words(figures) + ("" if good else " (NOT as claimed)")


def words(figures: dict) -> str:
    """Formats counts as 'kills: 50; same checksums: 50', nested ones in brackets."""
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
    """Runs the command of a figure and shows its output as it comes."""
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
        measured += f" (NOT as claimed: fewer than {least})"
    peak = f"peak memory {usage.ru_maxrss // 1024} MiB"
    return {"command": command, "measured": f"{measured}; {peak}",
            "minutes": round(minutes, 1), "date": str(datetime.date.today()),
            "commit": (commit() or "")[:7], "machine": machine(),
            "versions": versions()}


INTRODUCTION = """# Reliability, as measured

Written by `python -m tests.faults.figures`, which runs the commands. Every fault
command draws its faults from a seed that it prints. The tests have fixed seeds, and
hypothesis is derandomized. `python -m pytest` tests a part of each row except 20: three
kills of row 1, one signal of 3, twenty damaged files of 4, two cases of 5, two and
four devices of 7 and 8, eight sets of overrides of 13 b, the workdir of 19. "Ended
alike" means: with the same bits as an undisturbed run. The column commit names the
version that was measured. Test files have moved since; the commands have their present
paths. A row with "-" has not been measured as a whole since it was last changed.

| # | claim | command: `python ...` | measured | commit |
|---|---|---|---|---|
"""


def table(record: dict) -> str:
    """Formats measured/reliability/RELIABILITY.md."""
    lines = []
    for number, figure in FIGURES.items():
        row = {"measured": "-", "commit": "-"} | record.get(number, {})
        cells = [number, figure.claim, f"`{figure.command}`", row["measured"],
                 row["commit"]]
        lines.append("| " + " | ".join(
            cell.replace("|", "\\|") for cell in cells) + " |")
    machines = {(row["machine"], *(f"{k} {row['versions'][k]}" for k in (
        "python", "jax", "orbax-checkpoint"))) for row in record.values()}
    lines += ["", *(f"Measured on {', '.join(where)}." for where in sorted(machines))]
    return INTRODUCTION + "\n".join(lines) + "\n"


def main() -> None:
    """Measures what --only names, and writes the table."""
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
        for word in ("(FAILED)", "(NOT as claimed"))]
    sys.exit(f"not as claimed: {', '.join(bad)}" if bad else 0)


if __name__ == "__main__":
    main()
