"""Runs trainings side by side, each in its own process on its share of the cores."""

import os
import queue
import re
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
EPOCH = re.compile(r"epoch (\d+)/\d+ - loss")


class Interrupted(Exception):
    """Raised when a signal asks the program to stop."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Runs:
    """Processes that train, `jobs` at a time, each on its own cores."""

    def __init__(self, jobs: int):
        self.shares: queue.SimpleQueue[set[int]] = queue.SimpleQueue()  # free cores
        for share in shares(jobs):
            self.shares.put(share)
        self.live: list[subprocess.Popen] = []
        self.stopped = False
        self.lock = threading.Lock()  # nothing starts after the stop

    def run(self, words: list[str], log: Path, data: Path | None,
            advance: Callable[[int], object]) -> str | None:
        """Runs one training to its end; returns None, or one line that says why it
        failed.

        data: the folder of the data sets; None: that of the environment.
        advance: called with the number of epochs done.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        share, last = self.shares.get(), ""
        try:
            with log.open("a") as file:
                with self.start(words, data) as process:
                    if share:  # before the process has started a thread
                        os.sched_setaffinity(process.pid, share)
                    for line in process.stdout:
                        file.write(line)
                        file.flush()
                        last = line.strip() or last
                        if epoch := EPOCH.match(line):
                            advance(int(epoch[1]))
                code = process.returncode
        finally:
            self.shares.put(share)
        return f"exit code {code}: {last} (the whole log: {log})" if code else None

    def start(self, words: list[str], data: Path | None) -> subprocess.Popen[str]:
        """Starts a process unless `stop` was called before."""
        with self.lock:
            if self.stopped:
                raise Interrupted(signal.SIGTERM)
            # In its own session: Ctrl-C reaches only this process, which passes it on.
            self.live.append(subprocess.Popen(
                words, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | ({"CNN_JAX_DATA": str(data)} if data else {})))
            return self.live[-1]

    def stop(self) -> None:
        """Ends all processes; each saves a checkpoint first."""
        with self.lock:
            self.stopped = True
        for process in self.live:  # one that has ended is left alone
            process.terminate()


def shares(jobs: int) -> list[set[int]]:
    """Divides the cores among jobs.

    Returns empty sets, which leave the choice to the system, for one job and on systems
    that cannot bind a process to cores.
    """
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return [set()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[job * len(cores) // jobs:(job + 1) * len(cores) // jobs])
            for job in range(jobs)]
