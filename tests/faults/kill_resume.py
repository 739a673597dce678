"""Kills a run by SIGKILL many times; it must still end with the same bits.

    python -m tests.faults.kill_resume --kills=100 --seed=0
    python -m tests.faults.kill_resume --kills=20 --only=oneDNN --cache=0
    python -m tests.faults.kill_resume --kills=20 --only=pictures

Half of the kills hit a network with batch norm and dropout, half LeNet-5. Both use
adam, an average of the parameters, gradient accumulation, a schedule and augmentation.
--only names one case for all kills. With --cache=0 each process compiles its programs
anew. Every second kill waits for a save to be open. After each kill the newest
checkpoint must have the checksums of the uninterrupted run at that step. The next start
must not find the folder locked, and must resume from there; it restores only arrays
with those checksums. At the end the state, the results and the rows must be the same.
"""

import json
import random
import signal
import time
from pathlib import Path

import jax

from tests.faults.warm import command_line, report, start, temporary_folder
from tests.support.tiny_runs import (RICH, assert_same_run, end, picture_folder,
                                     rows_written, undrawn, wait_until)

from cnn_jax.workdir.checkpoints import step_folders

CASES = {"batch norm and dropout": {}, "LeNet-5": {"model.name": "lenet5"},
         "three steps a call": {"steps_per_call": 3},
         "streamed": {"data.stream": True, "steps_per_call": 2},
         "oneDNN": {"model.conv": "onednn"},
         "Winograd": {"model.name": "selu_cnn"},
         "pictures": {"data.stream": True, "data.limit": None, "data.workers": 2,
                      "data.image_size": (8, 8), "augment.crop_scale": (0.3, 1.0)}}
CLASSES = [f"class {number}" for number in range(12)]  # with ten pictures each
ROWS_PER_EPOCH = 6
EARLY = 0.1  # at most this share of the kills comes before a checkpoint
IN_SAVES = 0.4  # at least this share of the kills hits an open save
UNFINISHED = "*orbax-checkpoint-tmp*"


def checksums(workdir: Path, step: int) -> dict:
    """Reads shape, dtype and CRC-32 of each leaf, as stored with a checkpoint."""
    path = workdir / "checkpoints" / str(step) / "integrity" / "data.json"
    return json.loads(path.read_text())


def step_checksums(workdir: Path) -> dict[int, dict]:
    """Reads the checksums of every checkpoint in the folder."""
    return {int(path.name): checksums(workdir, int(path.name))
            for path in step_folders(workdir / "checkpoints")}


def newest(workdir: Path) -> int:
    """Returns the step of the newest complete checkpoint, 0 if there is none."""
    return max((int(path.name) for path in step_folders(workdir / "checkpoints")),
               default=0)


def kill_once(workdir: Path, changes: dict, draw: random.Random, folder: Path,
              in_save: bool) -> dict | None:
    """Starts the run, kills it at a random moment; returns None if it ended before."""
    before = newest(workdir)
    process = start(workdir, changes, folder=folder)
    begun = rows_written(workdir)
    wait_until(lambda: rows_written(workdir) != begun, process)  # it trains by now
    target = rows_written(workdir) + draw.randrange(ROWS_PER_EPOCH)
    delay = draw.uniform(0, 0.03)
    while rows_written(workdir) < target and process.poll() is None:
        time.sleep(0.005)
    while in_save and process.poll() is None and not list(
            (workdir / "checkpoints").glob(UNFINISHED)):
        time.sleep(0.002)  # a save is open for some 30 milliseconds
    time.sleep(delay if not in_save else delay / 3)
    process.send_signal(signal.SIGKILL) if process.poll() is None else None
    code, output, errors = end(process)
    if code == 0:
        return None
    assert code == -signal.SIGKILL, (code, errors)
    assert not before or f"resuming after step {before}\n" in output, (before, output)
    assert newest(workdir) >= before, (before, newest(workdir))
    opened = bool(list((workdir / "checkpoints").glob(UNFINISHED)))
    print(f"killed after row {target} and {1000 * delay:.0f} ms: newest checkpoint "
          f"{newest(workdir)}{', a save was open' if opened else ''}", flush=True)
    return {"open": opened, "step": newest(workdir)}


def kill_and_resume(name: str, kills: int, draw: random.Random, folder: Path) -> dict:
    """Kills the run of one case and resumes it; returns the counts."""
    changes = RICH | CASES[name] | {"epochs": max(4, kills)}
    whole, workdir = folder / "whole", folder / "run"
    folder.mkdir()
    if name == "pictures":
        changes = picture_folder(folder / "pictures", CLASSES, 128) | changes
    code, _, errors = end(start(whole, changes | {"checkpoint.keep": 10_000},
                                folder=folder))
    assert code == 0, errors
    counts = dict.fromkeys((
        "kills", "in an open save", "before any save", "same checksums"), 0)
    while counts["kills"] < kills:
        kill = kill_once(workdir, changes, draw, folder, counts["kills"] % 2 == 0)
        assert kill is not None, "the run ended before it had its kills"
        counts["kills"] += 1
        counts["in an open save"] += kill["open"]
        step = kill["step"]
        counts["before any save"] += step == 0
        counts["same checksums"] += step == 0 or (
            checksums(workdir, step) == checksums(whole, step))
        print(f"{name}: {counts}", flush=True)
    code, output, errors = end(start(workdir, changes, folder=folder))
    assert code == 0 and "resuming after step" in output, (output, errors)
    assert_same_run(workdir, whole)
    assert not list((workdir / "checkpoints").glob(UNFINISHED))
    return counts | {"ended alike": True}


def main(kills: int, seed: int, only: str = "") -> dict:
    """Divides `kills` among the cases; returns {case: counts}."""
    first, second, *_ = CASES
    shares = {only: kills} if only else {
        first: kills - kills // 2, second: kills // 2}
    draw = random.Random(seed)
    undrawn()  # children inherit it
    with temporary_folder() as folder:
        return {name: kill_and_resume(name, share, draw, folder / name)
                for name, share in shares.items()}


if __name__ == "__main__":
    arguments = command_line(__doc__, kills=100, seed=0, only="", cache=1)
    if not arguments.cache:
        jax.config.update("jax_enable_compilation_cache", False)  # children inherit it
    figures = main(arguments.kills, arguments.seed, arguments.only)
    kills, opened, early, same = (
        sum(counts[name] for counts in figures.values())
        for name in ("kills", "in an open save", "before any save", "same checksums"))
    report(figures, kills == same == arguments.kills and opened >= IN_SAVES * kills
           and early <= EARLY * kills)
