"""Removes what a run depends on: it ends with the same bits, or stops with one line.

    python -m tests.faults.surroundings
    python -m tests.faults.surroundings --only=workdir

The wall clock jumps a year ahead, then two back. The folder of the data disappears. The
TensorBoard folders are deleted. The whole workdir is moved away. A small preloaded
library moves the clock, which needs Linux and a C compiler. A case that cannot be tried
is a failure unless --allow-missing=1. --only selects the cases whose names contain it.
"""

import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.kill_resume import step_checksums
from tests.faults.warm import command_line, report, start, temporary_folder
from tests.support.tiny_runs import (assert_same_run, end, picture_folder, refusal,
                                     rows_written, wait_until)

from cnn_jax.workdir.checkpoints import step_folders

CHANGES = {"model.name": "lenet5", "epochs": 40, "checkpoint.every_steps": 3}
YEAR = 365 * 24 * 3600


def with_clock() -> bool:
    """Restarts this program with the clock library; returns False if that fails."""
    if "CLOCK_OFFSET_FILE" in os.environ:
        return True
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        return False
    folder = Path(tempfile.mkdtemp(prefix="clock"))
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", str(source), "-o",
                    str(folder / "clock.so"), "-ldl"], check=True)
    (folder / "offset").write_bytes(bytes(8))
    os.environ |= {"CLOCK_OFFSET_FILE": str(folder / "offset"),
                   "LD_PRELOAD": str(folder / "clock.so")}
    os.execv(sys.executable, [sys.executable, "-m", "tests.faults.surroundings",
                              *sys.argv[1:]])


def set_clock(seconds: int) -> None:
    """Moves the wall clock of this process and of those that it started."""
    with open(os.environ["CLOCK_OFFSET_FILE"], "r+b") as file:
        file.write(seconds.to_bytes(8, "little", signed=True))


def saved_at(workdir: Path) -> dict[int, float]:
    """Reads the time that each checkpoint records, in years from now."""
    now, ages = time.time(), {}
    for folder in step_folders(workdir / "checkpoints"):
        try:
            facts = json.loads((folder / "_CHECKPOINT_METADATA").read_text())
        except FileNotFoundError:
            continue  # it has just been replaced by newer ones
        ages[int(folder.name)] = (facts["init_timestamp_nsecs"] / 1e9 - now) / YEAR
    return ages


@functools.cache
def undisturbed(folder: Path) -> Path:
    """Trains a run without any fault; returns its workdir."""
    whole = folder / "whole"
    code, _, errors = end(start(whole, CHANGES, folder=folder))
    assert code == 0, errors
    return whole


def wait_for_rows(process, workdir: Path, rows: int) -> None:
    wait_until(lambda: rows_written(workdir) >= rows, process)


def jumping_clock(folder: Path) -> str:
    """Moves the clock: the newest checkpoints are kept, the best is found.

    Orbax limits the time of a save by the wall clock, so a save that is open when the
    clock jumps ahead fails. The run then stops with one line, and the same command
    resumes it.
    """
    workdir, whole, years, stops = folder / "clock", undisturbed(folder), [], []

    def begin():
        return start(workdir, CHANGES, folder=folder)

    def again(process):
        stops.append(refusal(end(process), 1))
        assert f"checkpoint {workdir}" in stops[-1] and len(stops) < 3, stops
        return begin()

    def wait(process, rows):
        while rows_written(workdir) < rows:
            process = process if process.poll() is None else again(process)
            time.sleep(0.02)
        return process

    process = begin()
    for rows, years_ahead in ((20, 1), (60, -1)):
        process = wait(process, rows)
        set_clock(years_ahead * YEAR)
        process = wait(process, rows + 20)
        set_clock(0)  # `saved_at` counts from the true time
        years += saved_at(workdir).values()
        set_clock(years_ahead * YEAR)
    process.process.join()
    while process.poll() != 0:
        process = again(process)
        process.process.join()
    set_clock(0)
    assert max(years) > 0.9 and min(years) < -0.9, f"the clock did not jump: {years}"
    assert_same_run(workdir, whole)
    assert step_checksums(workdir) == step_checksums(whole)
    print(stops, flush=True)
    return f"stopped in a line {len(stops)} times, else went on; ended alike"


def deleted_events(folder: Path) -> str:
    workdir, whole = folder / "events", undisturbed(folder)
    process = start(workdir, CHANGES, folder=folder)
    wait_for_rows(process, workdir, 20)
    for part in ("train", "validation"):
        shutil.rmtree(workdir / part)
    code, _, errors = end(process)
    assert code == 0, errors
    assert_same_run(workdir, whole)
    return "went on, ended alike"


def deleted_workdir(folder: Path) -> str:
    """Moves the workdir away; the line names the first file that is missing."""
    workdir = folder / "gone"
    process = start(workdir, CHANGES | {"epochs": 8}, folder=folder)
    wait_for_rows(process, workdir, 4)
    workdir.rename(folder / "elsewhere")
    result = end(process)
    assert result[0] in (1, 2), result
    line = refusal(result, result[0])
    assert str(workdir) in line, line
    return f"stopped: {line.replace(str(folder), '')}"


def deleted_data(folder: Path) -> str:
    """Moves the data away: the run has it in memory; the next start names the folder.
    """
    changes = CHANGES | picture_folder(folder / "data", ["cat", "dog"], 250) | {
        "epochs": 100}
    code, _, errors = end(start(folder / "whole data", changes, folder=folder))
    assert code == 0, errors
    workdir = folder / "data run"
    process = start(workdir, changes, folder=folder)
    wait_for_rows(process, workdir, 20)
    (folder / "data").rename(folder / "moved")
    code, _, errors = end(process)
    assert code == 0, errors
    assert_same_run(workdir, folder / "whole data")
    line = refusal(end(start(workdir, changes, folder=folder)), 2)
    assert str(folder / "data") in line, line
    return f"went on, ended alike; the next start: {line.replace(str(folder), '')}"


CASES = {"the wall clock jumps a year ahead, then two back": jumping_clock,
         "the TensorBoard folders are deleted": deleted_events,
         "the folder of the data disappears": deleted_data,
         "the workdir disappears": deleted_workdir}


if __name__ == "__main__":
    arguments = command_line(__doc__, only="", allow_missing=0)
    cases = {name: case for name, case in CASES.items() if arguments.only in name}
    missing = []
    if jumping_clock in cases.values() and not with_clock():
        missing = [name for name, case in cases.items() if case is jumping_clock]
    with temporary_folder() as folder:
        results = {name: case(folder) for name, case in cases.items()
                   if name not in missing}
    report(results | {"not tried": missing},
           good=bool(results) and (arguments.allow_missing or not missing))
