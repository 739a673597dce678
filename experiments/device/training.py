"""LeNet-5 on scikit-learn's digits: accuracy, stop, kill, resume, and the same bits.

Every run is a process of `main.py`, as a user starts it. With each setting of XLA the
same command runs

    whole     with an empty folder for compiled programs
    kept      again, with the programs that `whole` has compiled
    compiled  again, compiling all programs anew
    resumed   compiling anew; ended by SIGTERM, then by SIGKILL, then trained to the end

and the parameters at the end of each are compared with those of `whole`.
`experiments/determinism.py` runs one program twice in a process. The settings run at
the same time, so autotuning is disturbed as it may be anywhere.
"""

import concurrent.futures
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from experiments.imagenet_steps import last_step

ROOT = Path(__file__).parents[2]
EXACT = "--xla_gpu_deterministic_ops=true"
SETTINGS = {"default": "", "deterministic": EXACT}  # XLA_FLAGS
COMMAND = [sys.executable, "main.py", "--config=configs/lenet.py",
           "--config.checkpoint.every_seconds=0", "--config.log.every_steps=1"]
STEPS_PER_EPOCH = 41  # 1,294 images in batches of 32
PATIENCE = 300.0      # s, of one process
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


def train(workdir: Path, epochs: int, environment: dict[str, str],
          stop: int | None = None, by: int = signal.SIGTERM) -> str:
    """Trains to the end, or until the signal `by` after step `stop`.

    Returns what was wrong, '' for nothing.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir.with_suffix(".log")
    with open(path, "a") as log:
        process = subprocess.Popen(
            [*COMMAND, f"--config.epochs={epochs}", f"--workdir={workdir}"], cwd=ROOT,
            stdout=log, stderr=log, env=environment)
        try:
            limit = time.monotonic() + PATIENCE
            while stop is not None and process.poll() is None and (
                    last_step(workdir) < stop and time.monotonic() < limit):
                time.sleep(0.01)
            if stop is not None:
                process.send_signal(by)
            code = process.wait(max(1.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            return f"a run took more than {PATIENCE:.0f} s, see {path}"
        finally:
            process.kill()
            process.wait()
    # A killed process has the negative code; main.py answers SIGTERM with 143.
    expected = {None: (0,), signal.SIGTERM: (143,), signal.SIGKILL: (-9,)}[
        None if stop is None else by]
    return "" if code in expected else f"exit code {code} of a run, see {path}"


def results(workdir: Path) -> dict[str, Any]:
    return json.loads((workdir / "results.json").read_text())


def resumed(workdir: Path, epochs: int, given: dict[str, str]) -> str:
    """Trains with a SIGTERM after a third of the steps, a SIGKILL after two thirds."""
    steps = epochs * STEPS_PER_EPOCH
    return (train(workdir, epochs, given, steps // 3, signal.SIGTERM)
            or train(workdir, epochs, given, 2 * steps // 3, signal.SIGKILL)
            or train(workdir, epochs, given))


def twice(folder: Path, epochs: int, setting: str) -> str:
    """Makes the runs `whole` and `kept`; returns what was wrong, or ''."""
    given = environment(setting, folder / "programs")
    return (train(folder / "whole", epochs, given)
            or train(folder / "kept", epochs, given))


def same_program(setting: str) -> str:
    """Runs one program twice in a process; returns the first difference, or ''."""
    done = subprocess.run(
        [sys.executable, "experiments/determinism.py"], cwd=ROOT, text=True,
        capture_output=True, env=environment(setting, None), timeout=PATIENCE)
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return "" if done.returncode == 0 else lines[-1]


def check(out: Path, small: bool, must_be_exact: bool) -> list[dict[str, Any]]:
    """Makes all runs in a new folder `out`; returns the rows.

    must_be_exact: whether other bits under 'default' are wrong, as on a CPU. Under
    'deterministic' they always are.
    """
    epochs, least = ((EPOCHS_SMALL, ACCURACY_SMALL) if small else (EPOCHS, ACCURACY))
    settings = ["default"] if small else [*SETTINGS]
    with concurrent.futures.ThreadPoolExecutor(1 if small else 8) as pool:
        jobs = {}
        for setting in settings:
            folder, anew = out / setting, environment(setting, None)
            jobs |= {(setting, "kept"): pool.submit(twice, folder, epochs, setting),
                     (setting, "resumed"): pool.submit(
                         resumed, folder / "resumed", epochs, anew)}
            if not small:
                jobs |= {(setting, "compiled"): pool.submit(
                             train, folder / "compiled", epochs, anew),
                         (setting, "one process"): pool.submit(same_program, setting)}
    rows = []
    for setting in settings:
        row = accuracy(out / setting, least, jobs[setting, "kept"].result())
        rows.append({"name": f"{setting}: accuracy"} | row)
        for way in ("kept", "compiled", "resumed", "one process"):
            if (setting, way) in jobs:
                failed = jobs[setting, way].result()
                rows.append({"name": f"{setting}: {way}"} | bits(
                    out / setting, way, failed, must_be_exact or setting != "default"))
    return rows


def accuracy(folder: Path, least: float, failed: str) -> dict[str, Any]:
    if failed:
        return {"wrong": failed}
    values = results(folder / "whole")
    low = values["test_accuracy"] < least
    return {"accuracy": values["test_accuracy"], "devices": values["devices"],
            "wrong": f"accuracy {values['test_accuracy']}, at least {least}" * low}


def bits(folder: Path, way: str, failed: str, must_be_exact: bool) -> dict[str, Any]:
    """Compares the parameters at the end of a run with those of `whole`.

    failed: what was wrong with the run; of 'one process', the first difference.
    """
    if way == "one process":
        same = not failed
    elif failed:
        return {"wrong": failed}
    else:
        first, second = (results(folder / name) for name in ("whole", way))
        same = first["params_sha256"] == second["params_sha256"]
    return {"same_bits": same, "difference": failed,
            "wrong": "other bits than whole" * (must_be_exact and not same)}
