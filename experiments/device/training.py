"""LeNet-5 on scikit-learn's digits: accuracy, stop, kill, resume, and the same bits.

Every run is a process of `main.py`, as a user starts it. With each setting of XLA the
same command runs

    whole     with an empty folder for compiled programs
    kept      again, with the programs that `whole` has compiled
    compiled  again, compiling all programs anew
    resumed   compiling anew; ended by SIGTERM, then by SIGKILL, then trained to the end

and the parameters at the end of each are compared with those of `whole`.
`experiments/determinism.py` runs one program twice in a process. The settings run at
the same time, so autotuning is disturbed as it may be anywhere. All runs pool by slices
(`model.pool=windows`). The gradient of XLA's own max pooling is a select-and-scatter:
with --xla_gpu_deterministic_ops older XLA does not compile it, and newer XLA replaces
it by slower operations.
"""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.arms.worker import in_one_line
from experiments.determinism import POOL
from experiments.imagenet_steps import last_step

ROOT = Path(__file__).parents[2]
EXACT = "--xla_gpu_deterministic_ops=true"  # it also turns autotuning off
SETTINGS = {"default": "", "deterministic": EXACT}  # XLA_FLAGS
COMMAND = [sys.executable, "main.py", "--config=configs/lenet.py",
           f"--config.model.pool={POOL}", "--config.checkpoint.every_seconds=0",
           "--config.log.every_steps=1"]
STEPS_PER_EPOCH = 41  # 1,294 images in batches of 32
WAYS = ("kept", "compiled", "resumed", "one process")
DIFFERENCE = "not repeated"  # in the last line of determinism.py
NOT_REACHED = {"not_reached": True, "wrong": ""}
# Whole runs have 60 epochs, and reached 0.989 to 1.000 on a CPU.
EPOCHS, ACCURACY = 60, 0.97
EPOCHS_SMALL, ACCURACY_SMALL = 3, 0.8


def environment(setting: str, programs: Path | None) -> dict[str, str]:
    """Makes the environment of a run; programs: the folder that keeps them, or none."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {SETTINGS[setting]}".strip()
    kept = ({"CNN_JAX_CACHE": "0", "JAX_COMPILATION_CACHE_DIR": ""} if programs is None
            else {"JAX_COMPILATION_CACHE_DIR": str(programs),
                  "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"})
    return os.environ | kept | {"XLA_FLAGS": flags,
                                "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


def seconds_left(deadline: float) -> float:
    """Returns the seconds until a time of `time.monotonic`; raises TimeoutExpired."""
    if (left := deadline - time.monotonic()) <= 0:
        raise subprocess.TimeoutExpired(COMMAND, left)
    return left


def train(workdir: Path, epochs: int, environment: dict[str, str], deadline: float,
          stop: int | None = None, by: int = signal.SIGTERM) -> str:
    """Trains to the end, or until the signal `by` after step `stop`.

    Returns what was wrong, '' for nothing. Raises TimeoutExpired at the deadline.
    """
    seconds_left(deadline)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir.with_suffix(".log")
    with open(path, "a") as log:
        process = subprocess.Popen(
            [*COMMAND, f"--config.epochs={epochs}", f"--workdir={workdir}"], cwd=ROOT,
            stdout=log, stderr=log, env=environment)
        try:
            while stop is not None and process.poll() is None and (
                    last_step(workdir) < stop):
                time.sleep(min(0.01, seconds_left(deadline)))
            if stop is not None:
                process.send_signal(by)
            code = process.wait(seconds_left(deadline))
        finally:
            process.kill()
            process.wait()
    # A killed process has the negative code; main.py answers SIGTERM with 143.
    expected = {None: (0,), signal.SIGTERM: (143,), signal.SIGKILL: (-9,)}[
        None if stop is None else by]
    return "" if code in expected else f"exit code {code} of a run, see {path}"


def results(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "results.json").read_text())


def resumed(workdir: Path, epochs: int, given: dict[str, str],
            deadline: float) -> str:
    """Trains with a SIGTERM after a third of the steps, a SIGKILL after two thirds."""
    steps = epochs * STEPS_PER_EPOCH
    return (train(workdir, epochs, given, deadline, steps // 3, signal.SIGTERM)
            or train(workdir, epochs, given, deadline, 2 * steps // 3, signal.SIGKILL)
            or train(workdir, epochs, given, deadline))


def twice(folder: Path, epochs: int, setting: str, deadline: float) -> str:
    """Makes the runs `whole` and `kept`; returns what was wrong, or ''."""
    given = environment(setting, folder / "programs")
    return (train(folder / "whole", epochs, given, deadline)
            or train(folder / "kept", epochs, given, deadline))


def same_program(setting: str, deadline: float) -> str:
    """Runs one program twice in a process; returns the first difference, or ''.

    Raises TimeoutExpired at the deadline.
    """
    done = subprocess.run(
        [sys.executable, "experiments/determinism.py"], cwd=ROOT, text=True,
        capture_output=True, env=environment(setting, None),
        timeout=seconds_left(deadline))
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return "" if done.returncode == 0 else lines[-1]


def check(out: Path, small: bool, must_be_exact: bool,
          deadline: float) -> list[dict[str, Any]]:
    """Makes all runs in a new folder `out`; returns the rows.

    must_be_exact: whether other bits are wrong, as on a CPU. Elsewhere a row says what
    was seen.
    deadline: of `time.monotonic`; a run that lasts longer is ended.
    """
    epochs, least = ((EPOCHS_SMALL, ACCURACY_SMALL) if small else (EPOCHS, ACCURACY))
    settings = ["default"] if small else [*SETTINGS]
    with concurrent.futures.ThreadPoolExecutor(1 if small else 8) as pool:
        jobs = {}
        for setting in settings:
            folder, anew = out / setting, environment(setting, None)
            jobs |= {(setting, "kept"): pool.submit(
                         twice, folder, epochs, setting, deadline),
                     (setting, "resumed"): pool.submit(
                         resumed, folder / "resumed", epochs, anew, deadline)}
            if not small:
                jobs |= {(setting, "compiled"): pool.submit(
                             train, folder / "compiled", epochs, anew, deadline),
                         (setting, "one process"): pool.submit(
                             same_program, setting, deadline)}
    rows = []
    for setting in settings:
        ends = {way: outcome(jobs[setting, way]) for way in WAYS
                if (setting, way) in jobs}
        rows.append({"name": f"{setting}: accuracy"} | made(
            accuracy, out / setting, least, ends["kept"]))
        rows += [{"name": f"{setting}: {way}"} | made(
            bits, out / setting, way, failed, must_be_exact)
                 for way, failed in ends.items()]
    return rows


def outcome(job: concurrent.futures.Future[str]) -> str | None:
    """Returns what was wrong with a run, None if the deadline has ended it."""
    try:
        return job.result()
    except subprocess.TimeoutExpired:
        return None
    except Exception as error:  # the other runs go on, and the exit code is 1
        return in_one_line(error)


def made(fields: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Makes the fields of a row; an error, as of a missing result, is wrong."""
    try:
        return fields(*arguments)
    except Exception as error:  # the other rows go on, and the exit code is 1
        return {"wrong": in_one_line(error)}


def accuracy(folder: Path, least: float, failed: str | None) -> dict[str, Any]:
    if failed:
        return {"wrong": failed}
    if not (folder / "whole/results.json").exists():
        return NOT_REACHED
    values = results(folder / "whole")
    low = values["test_accuracy"] < least
    return {"accuracy": values["test_accuracy"], "devices": values["devices"],
            "wrong": f"accuracy {values['test_accuracy']}, at least {least}" * low}


def bits(folder: Path, way: str, failed: str | None,
         must_be_exact: bool) -> dict[str, Any]:
    """Compares the parameters at the end of a run with those of `whole`.

    failed: what was wrong with the run; of 'one process', the first difference.
    """
    differs = way == "one process" and DIFFERENCE in (failed or "")
    if failed and not differs:
        return {"wrong": failed}
    if failed is None or way != "one process" and not (
            folder / "whole/results.json").exists():
        return NOT_REACHED
    if way == "one process":
        same = not differs
    else:
        first, second = (results(folder / name) for name in ("whole", way))
        same = first["params_sha256"] == second["params_sha256"]
    return {"same_bits": same, "difference": failed,
            "wrong": "other bits than whole" * (must_be_exact and not same)}
