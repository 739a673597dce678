"""Trains for long and many times: memory, open files and checkpoints must not grow.

    python -m tests.faults.soak --steps=20000 --rounds=200 --seed=0

Two long runs, of the smallest network and of LeNet-5, save a checkpoint every 50 steps
in a process that is observed from outside. A state of LeNet-5 with Adam's moments has
723 KB, so a leak in every save is visible. The smallest network shows leaks of orbax or
of the files of the run. Then a run of the smallest network starts `--rounds` times in
this process. It receives SIGTERM after a random number of rows, and resumes from its
checkpoint in the next round. Between rounds JAX's caches are emptied: they keep each
run's traces of `argmax`, about 100 KB a round, in up to 4,096 entries. glibc's
allocator returns free memory, so only memory in use can grow. No state and no array on
a device may be alive. Slopes are by least squares over the second half. Open files,
including those of a save, are counted at the same moments. The least of the third and
of the last quarter are compared, which shows a file that every save or round leaves
open.
"""

import ctypes
import gc
import os
import random
import resource
import shutil
import signal
from pathlib import Path

import jax
import numpy as np

from tests.faults.warm import command_line, report, start, temporary_folder
from tests.support.tiny_runs import end, tiny

from cnn_jax import training
from cnn_jax.training import loop
from cnn_jax.training.steps import TrainState
from cnn_jax.workdir.checkpoints import step_folders

STEPS_PER_EPOCH = 1294 // 2  # of the digits' training split
# It has 583 parameters. The rounds use only this network: the compiled programs of a
# larger one leave more memory behind than a leak of its state would.
SMALLEST = {"model.name": "ai_edu_colour_cnn", "data.limit": None, "batch_size": 2,
            "checkpoint.every_steps": 50, "log.every_steps": 50,
            "early_stopping.patience": None}
LENET = SMALLEST | {"model.name": "lenet5"}
# Bounds of the growth. A leak of LeNet-5's state in every save would add 14,460 KB in
# 1,000 steps.
# For every save and restore, TensorStore keeps its specifications of all arrays.
KB_PER_1000_STEPS, KB_PER_ROUND, FILES, CHECKPOINTS = 2000, 200, 1, 4


def memory_kb(pid: int | str) -> int:
    """Reads the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 1024


def open_files(pid: int | str) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def folder_kb(folder: Path) -> int:
    """Adds up the sizes of all files; files that vanish meanwhile do not count."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                pass
    return total // 1024


def give_back() -> None:
    jax.clear_caches()
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def count_states() -> int:
    return sum(isinstance(o, TrainState) for o in gc.get_objects())


class Samples:
    """Samples memory, open files and the checkpoint folder during a soak."""

    def __init__(self):
        self.rows = []

    def take(self, pid: int | str, workdir: Path, progress: int) -> None:
        self.rows.append((progress, memory_kb(pid), open_files(pid),
                          folder_kb(workdir / "checkpoints"),
                          len(step_folders(workdir / "checkpoints"))))
        print("at {}: {} KB resident, {} open files, {} KB in {} checkpoints".format(
            *self.rows[-1]), flush=True)

    def figures(self) -> dict:
        """Computes the figures of the second half."""
        half = np.array(self.rows[len(self.rows) // 2:], np.float64)
        progress, memory, files, kilobytes, checkpoints = half.T
        slope, _ = np.polyfit(progress, memory, 1)
        return {"samples": len(half), "slope": float(slope),
                "first and last MB": [round(memory[0] / 1024, 1),
                                      round(memory[-1] / 1024, 1)],
                "open files, least of the last quarters": [
                    int(part.min()) for part in np.array_split(files, 2)],
                "checkpoints": int(checkpoints.max()),
                "checkpoints KB": [int(kilobytes.min()), int(kilobytes.max())]}


def long_run(changes: dict, steps: int, folder: Path) -> dict:
    """Trains `steps` steps and takes about a hundred samples."""
    epochs, samples = -(-steps // STEPS_PER_EPOCH), Samples()
    workdir = folder / changes["model.name"]
    process = start(workdir, changes | {"epochs": epochs}, folder=folder)
    seen = 0
    while process.poll() is None:
        step = max((int(path.name) for path in step_folders(workdir / "checkpoints")),
                   default=0)
        if step >= seen + steps // 100:
            seen = step
            samples.take(process.pid, workdir, step)
        try:
            process.wait(0.05)
        except Exception:
            continue
    code, _, errors = end(process)
    assert code == 0, errors
    values = samples.figures()
    values["KB per 1000 steps"] = round(1000 * values.pop("slope"), 1)
    return {"steps": epochs * STEPS_PER_EPOCH} | values


def rounds_in_one_process(rounds: int, draw: random.Random, folder: Path) -> dict:
    """Starts and stops a run `rounds` times; it must advance each time."""
    workdir, samples, rows, last = folder / "often", Samples(), [0], 0
    append = loop.Recorder.append

    def counted(recorder, row):
        append(recorder, row)
        rows[0] -= 1
        if rows[0] == 0:
            os.kill(os.getpid(), signal.SIGTERM)
    loop.Recorder.append = counted
    config, constants = tiny(SMALLEST | {"epochs": 10_000}), count_states()
    try:
        for number in range(1, rounds + 1):
            rows[0] = draw.randint(1, 3)
            print(f"round {number}: SIGTERM at row {rows[0]}; ", end="")
            try:
                training.run(config, workdir, quiet=True)
                raise AssertionError("the run was not stopped")
            except training.Stopped:
                pass
            step = int(step_folders(workdir / "checkpoints")[-1].name)
            assert step > last, (step, last)
            last = step
            give_back()
            assert not jax.live_arrays()
            assert count_states() == constants
            samples.take("self", workdir, number)
    finally:
        loop.Recorder.append = append
    values = samples.figures()
    values["KB per round"] = round(values.pop("slope"), 1)
    shutil.rmtree(workdir)
    return {"rounds": rounds, "last step": last} | values


def main(steps: int, rounds: int, seed: int) -> dict:
    with temporary_folder() as folder:
        return {"smallest network": long_run(SMALLEST, steps, folder),
                "LeNet-5": long_run(LENET, steps, folder),
                "rounds": rounds_in_one_process(rounds, random.Random(seed), folder)}


def good(figures: dict) -> bool:
    """Tells whether nothing grew beyond the bounds."""
    *long, often = figures.values()
    files = [after - before for before, after in (
        part["open files, least of the last quarters"] for part in figures.values())]
    return (all(part["KB per 1000 steps"] <= KB_PER_1000_STEPS for part in long)
            and often["KB per round"] <= KB_PER_ROUND and max(files) <= FILES
            and all(part["checkpoints"] <= CHECKPOINTS
                    and part["checkpoints KB"][1] <= 2.5 * part["checkpoints KB"][0]
                    for part in figures.values()))


if __name__ == "__main__":
    arguments = command_line(__doc__, steps=20_000, rounds=200, seed=0)
    values = main(arguments.steps, arguments.rounds, arguments.seed)
    report(values, good(values))
