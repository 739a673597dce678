"""Fills the disk, limits the size of files, makes a folder read-only.

    python -m tests.faults.disk                     all six cases
    python -m tests.faults.disk --only='limit, later; full disk' --allow-missing=1

Each fault stops a run of LeNet-5 once from the start and once after its first
checkpoint. The process must end with code 1 or 2 and one line that names what could not
be written, ten seconds after the fault at the latest. A process that meets the fault at
its start may compile first, so it also gets the time of an undisturbed run. Without the
fault, the same command must then end with the bits of the undisturbed run. At the start
the disk has no space at all, later too little for a checkpoint. The full disk is a
tmpfs, which only root may mount; a case that cannot be tried is a failure unless
--allow-missing=1. For the read-only folder, root gives up its right to write to every
folder. --only selects the cases whose names contain it.
"""

import ctypes
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.kill_resume import newest
from tests.faults.warm import command_line, report, start, temporary_folder
from tests.support.tiny_runs import end, read_results, refusal, undrawn, wait_until

CHANGES = {"model.name": "lenet5"}
LIMIT_BYTES = 20_000
SPACE_BYTES = 300_000  # a checkpoint has twice as many
NAMES = ("file-size limit", "read-only folder", "full disk")
CAP_DAC_OVERRIDE = 1
MOST_SECONDS = 10  # from the fault to the end of the process


def limit(pid: int) -> None:
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (LIMIT_BYTES, resource.RLIM_INFINITY))


def fill(path: Path, spare: int) -> None:
    """Fills the disk with one file, leaving `spare` bytes."""
    with (path.parent / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            file.truncate(max(file.tell() - spare, 0))


def respect_modes() -> None:
    """Gives up root's right to write where the mode of a folder forbids it."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0, ctypes.get_errno()
    for index in (0, 1):  # effective, permitted
        sets[index] &= ~(1 << CAP_DAC_OVERRIDE)
    assert libc.capset(header, sets) == 0, ctypes.get_errno()


def ignore_the_signal() -> None:
    """Ignores SIGXFSZ, which kills a process before it can report the error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)


class Case:
    """A fault that can be caused and removed."""

    def __init__(self, name: str, folder: Path):
        self.name, self.folder = name, folder
        self.workdir = folder / "disk" / "run"
        self.workdir.mkdir(parents=True)
        self.before: Callable[[], None] = ignore_the_signal
        if name == "full disk":
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs",
                            str(folder / "disk")], check=True)
            self.workdir.mkdir()
        if name == "read-only folder":
            self.before = respect_modes

    def before_and_limited(self) -> None:
        self.before()
        if self.name == "file-size limit":
            limit(os.getpid())

    def begin(self, pid: int | None = None) -> None:
        if self.name == "full disk":
            fill(self.workdir, SPACE_BYTES if pid else 0)
        elif self.name == "file-size limit" and pid is not None:
            limit(pid)
        elif self.name == "read-only folder":
            self.set_mode(0o555)

    def end(self) -> None:
        if self.name == "full disk":
            (self.workdir.parent / "ballast").unlink()
        elif self.name == "read-only folder":
            self.set_mode(0o755)

    def set_mode(self, mode: int) -> None:
        os.chmod(self.workdir, mode)
        if (self.workdir / "checkpoints").exists():
            os.chmod(self.workdir / "checkpoints", mode)

    def close(self) -> None:
        if self.name == "full disk":
            subprocess.run(["umount", str(self.folder / "disk")], check=True)


def may_mount(folder: Path) -> bool:
    """Tells whether this process may mount a tmpfs."""
    target = folder / "mount"
    target.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(target)],
                          capture_output=True, check=False)
    if done.returncode == 0:
        subprocess.run(["umount", str(target)], check=True)
    return done.returncode == 0


def stop_run(case: Case, late: bool, changes: dict) -> dict:
    """Runs into the fault; returns the line and the seconds to the end.

    They count from the fault, or from the start of a process that compiles first.
    """
    if not late:
        case.begin()
    begun = time.perf_counter()
    process = start(case.workdir, changes, folder=case.folder,
                    before=case.before if late else case.before_and_limited)
    if late:
        wait_until(lambda: newest(case.workdir) > 0, process)
        begun = time.perf_counter()
        case.begin(process.pid)
    result = end(process)
    seconds = time.perf_counter() - begun
    line = refusal(result, result[0])
    print(f"{title(case.name, late)}: code {result[0]} after "
          f"{seconds:.1f} s: {line}", flush=True)
    assert result[0] in (1, 2), result
    assert str(case.workdir) in line, line
    return {"seconds": round(seconds, 2), "line": line,
            "newest checkpoint": newest(case.workdir)}


def main(only: str = "", epochs: int = 25) -> dict:
    """Returns {case: its figures, or None if it was not tried}."""
    results, changes = {}, CHANGES | {"epochs": epochs}
    cases = [(name, late) for name in NAMES for late in (False, True)
             if any(part in title(name, late) for part in only.split("; "))]
    if not cases:
        raise SystemExit(f"--only={only}: the cases are " + "; ".join(
            title(name, late) for name in NAMES for late in (False, True)))
    undrawn()  # children inherit it
    with temporary_folder() as folder:
        begun = time.perf_counter()
        code, _, errors = end(start(folder / "whole", changes, folder=folder))
        whole_seconds = time.perf_counter() - begun
        assert code == 0, errors
        expected = read_results(folder / "whole")
        mounts = may_mount(folder)
        for name, late in cases:
            if name == "full disk" and not mounts:
                print("full disk: not tried, as a tmpfs cannot be mounted here")
                results[title(name, late)] = None
                continue
            case_folder = folder / title(name, late)
            case = Case(name, case_folder)
            try:
                results[case_folder.name] = stop_run(case, late, changes) | {
                    "most seconds": MOST_SECONDS + (0 if late else whole_seconds)}
                case.end()
                before = results[case_folder.name]["newest checkpoint"]
                code, output, errors = end(start(
                    case.workdir, changes, folder=case_folder, before=case.before))
                assert code == 0, errors
                if late:  # the checkpoint from before the fault is resumed from
                    assert before and f"resuming after step {before}" in output, output
                assert (read_results(case.workdir)["params_sha256"]
                        == expected["params_sha256"])
            finally:
                case.close()
            shutil.rmtree(case_folder)
    return results


def title(name: str, late: bool) -> str:
    return f"{name}, {'later' if late else 'from the start'}"


if __name__ == "__main__":
    arguments = command_line(__doc__, only="", epochs=25, allow_missing=0)
    cases = main(arguments.only, arguments.epochs)
    tried = {name: case for name, case in cases.items() if case}
    missing = [name for name in cases if name not in tried]
    report({"cases that ended alike afterwards": len(tried), "not tried": missing,
            "seconds": {name: case["seconds"] for name, case in tried.items()}},
           good=bool(tried) and (arguments.allow_missing or not missing) and all(
               case["seconds"] <= case["most seconds"] for case in tried.values()))
