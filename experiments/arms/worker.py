"""Processes that compute in turn: one worker for each arm of a comparison.

A worker reads commands from stdin, a line `NAME COUNT` each, and answers each with one
line of JSON. It sleeps while another worker computes, so that arms can be interleaved
without sharing a process.
"""

import contextlib
import fcntl
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from cnn_jax import huge_pages
from cnn_jax.installation import install_command

EXPERIMENTS = Path(__file__).parents[1]
HUGE_PAGES = {"GLIBC_TUNABLES": huge_pages.HUGE_PAGES}
KEPT = {"GLIBC_TUNABLES": huge_pages.TUNABLES}  # huge pages that are not given back


def command(module: str, **arguments) -> tuple[list[str], dict[str, str]]:
    """Returns the command line that runs `arms.MODULE`, and its environment."""
    paths = [str(EXPERIMENTS), str(EXPERIMENTS.parent), os.environ.get("PYTHONPATH")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)),
                   "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a GPU is shared
    return [sys.executable, "-m", f"arms.{module}", json.dumps(arguments)], environment


@contextlib.contextmanager
def start_arrays(**arguments) -> Iterator[str]:
    """Yields the file of arrays that all arms start from, which `arms.start` writes.

    arguments: those of `arms.start.main` but for the file, which is deleted afterwards.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "arrays.npz")
        line, environment = command("start", **arguments, file=file)
        subprocess.run(line, env=environment, check=True)
        yield file


class Worker:
    """A child process that runs `serve`; `setup` holds the facts that it first printed.

    cores: how many cores it may use; 0: those of this process.
    """

    def __init__(self, module: str, settings: dict[str, str], cores: int = 0,
                 **arguments):
        line, environment = command(module, **arguments)
        with on_cores(cores):
            self.process = subprocess.Popen(
                line, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                env=environment | settings)
        self.setup = self._answer()

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {}
        if not line or "error" in answer:
            self.close()
            reason = answer.get("error", f"exit code {self.process.returncode}")
            raise SystemExit(f"{' '.join(self.process.args)}\nended early, {reason}")
        return answer

    def run(self, name: str, count: int = 1) -> dict:
        """Runs a command: {"seconds": of one of `count` runs, "peak_mb": so far}."""
        self.process.stdin.write(f"{name} {count}\n")
        self.process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        with self.process:  # closes the other pipe and waits
            self.process.stdin.close()


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Starts the processes of its block on the first `count` cores; 0: on all."""
    if not count:
        yield
        return
    before = os.sched_getaffinity(0)  # of this thread, which a child inherits
    os.sched_setaffinity(0, sorted(before)[:count])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def compiling_alone(file: str) -> Iterator[None]:
    """Waits while another worker with the same `file` compiles.

    Workers may start together, but compilers of a GPU time their choices.
    """
    with open(f"{file}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:  # a forked child may keep the file open
            fcntl.flock(lock, fcntl.LOCK_UN)


@contextlib.contextmanager
def errors_to(file: IO[str]) -> Iterator[None]:
    """Writes an error of its block as the answer of a worker, and raises it again."""
    try:
        yield
    except Exception as error:
        print(json.dumps({"error": in_one_line(error)}), file=file, flush=True)
        raise


def in_one_line(error: BaseException) -> str:
    """Writes an error as 'ValueError: message', with at most 300 characters of it.

    Of a worker that has ended, it returns the last line, which says why.
    """
    if isinstance(error, SystemExit):
        return (str(error).splitlines() or [type(error).__name__])[-1]
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def measured(command: Callable[[int], None], count: int,
             device_peak_mb: Callable[[], float | None]) -> dict:
    """Runs a command: {"seconds": of one of `count` runs, the peak memories so far}.
    """
    begun = time.perf_counter()
    command(count)
    seconds = (time.perf_counter() - begun) / count
    return {"seconds": seconds, "device_peak_mb": device_peak_mb(),
            "peak_mb": peak_kb() / 1024}


def measured_alone(command: Callable[[int], None], turn: float,
                   device_peak_mb: Callable[[], float | None]) -> dict:
    """Runs a command for about `turn` s, within `compiling_alone`: as `measured`."""
    once = min(measured(command, 1, device_peak_mb)["seconds"] for _ in range(2))
    return measured(command, max(1, int(turn / once)), device_peak_mb)


def serve(setup: dict, commands: dict[str, Callable[[int], None]],
          device_peak_mb: Callable[[], float | None] = lambda: None) -> None:
    """Prints `setup`, then runs the commands it reads; each blocks until it is done.

    device_peak_mb: the peak memory of a device, None where nothing counts it.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr

    def answer(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    answer(**setup)
    for line in sys.stdin:
        name, count = line.split()
        with errors_to(answers):
            answer(**measured(commands[name], int(count), device_peak_mb))


class FirstUse:
    """Measures the first use of an operation.

    It measures the seconds with compiling and, on Linux, the memory that the process
    takes for the operation and its operands.
    """

    def __init__(self):
        self.begun, self.before = time.perf_counter(), {}
        if (reset := Path("/proc/self/clear_refs")).exists():
            reset.write_text("5")  # resets the peak
            self.before = memory_kb()

    def facts(self) -> dict[str, float]:
        facts = {"compile_s": time.perf_counter() - self.begun}
        if self.before:
            facts["memory_mb"] = (memory_kb()["VmHWM"] - self.before["VmRSS"]) / 1e3
        return facts


def peak_kb() -> float:
    """Reads the peak memory of this process.

    On Linux ru_maxrss may be that of the process which started this one.
    """
    if Path("/proc/self/status").exists():
        return memory_kb()["VmHWM"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_kb() -> dict[str, int]:
    """Reads the memory of this process: now (VmRSS) and its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: int(value.split()[0]) for name, value in (
        line.split(":") for line in lines if line.startswith(("VmRSS", "VmHWM")))}


def check_flags(parser, flags, peers) -> None:
    """Exits with code 2 and one line for wrong flags; makes the folder `flags.out`."""
    flags.peers = [peer for peer in flags.peers.split(",") if peer]
    if unknown := [peer for peer in flags.peers if peer not in peers]:
        parser.error(f"--peers={','.join(unknown)} is not known; there are "
                     f"{', '.join(peers)}")
    torch = ["torch", "torchvision", "timm"] if getattr(
        flags, "published", False) else ["torch"]
    needed = {"torch": torch, "compile": torch, "keras": ["keras", "tensorflow"]}
    if missing := [name for peer in flags.peers for name in needed.get(peer, [])
                   if not find_spec(name)]:
        parser.error(f"{', '.join(missing)} not installed: "
                     f"{install_command('peers')}")
    for name in ("seconds", "rounds"):
        if getattr(flags, name, 1) <= 0:
            parser.error(f"--{name}={getattr(flags, name)} must be more than 0")
    try:
        flags.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out={flags.out} cannot be made: {error.strerror}")


def processor() -> str:
    """Names the processor; on Linux 'AMD EPYC, family 25, model 17'."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return platform.processor()
    first = info.read_text().partition("\n\n")[0].splitlines()
    facts = dict(map(str.strip, line.partition(":")[::2]) for line in first)
    return (f"{facts.get('model name', platform.machine())}, family "
            f"{facts.get('cpu family', '?')}, model {facts.get('model', '?')}")
