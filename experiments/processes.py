"""Trainings side by side, each in a process of its own with its share of the cores."""

import os
import queue
import re
import signal
import subprocess
import threading
from pathlib import Path

ROOT = Path(__file__).parents[1]
EPOCH = re.compile(r"epoch (\d+)/\d+ - loss")


class Interrupted(Exception):
    """A signal asked to stop."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


class Runs:
    """Trainings side by side, each in a process of its own with its share of the
    cores."""

    def __init__(self, jobs: int):
        self.shares = queue.SimpleQueue()  # cores that no process has
        for share in shares(jobs):
            self.shares.put(share)
        self.live: list[subprocess.Popen] = []
        self.stopped = False
        self.lock = threading.Lock()  # nothing starts after the stop

    def run(self, words: list[str], log: Path, data: Path | None,
            advance) -> str | None:
        """Runs one training to its end; None, or the line that says why it failed.

        data: the folder of the sets, None = what the environment says.
        advance: called with the number of epochs done.
        """
        log.parent.mkdir(parents=True, exist_ok=True)
        share, last = self.shares.get(), ""
        try:
            with log.open("a") as file:
                process = self.start(words, data)
                if share:  # before it has any thread
                    os.sched_setaffinity(process.pid, share)
                for line in process.stdout:
                    file.write(line)
                    file.flush()
                    last = line.strip() or last
                    if found := EPOCH.match(line):
                        advance(int(found[1]))
                code = process.wait()
        finally:
            self.shares.put(share)
        return f"exit code {code}: {last} (all of it in {log})" if code else None

    def start(self, words: list[str], data: Path | None) -> subprocess.Popen:
        with self.lock:
            if self.stopped:
                raise Interrupted(signal.SIGTERM)
            # A session of its own: Ctrl-C reaches us alone, and we pass it on.
            self.live.append(subprocess.Popen(
                words, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | ({"CNN_JAX_DATA": str(data)} if data else {})))
            return self.live[-1]

    def stop(self) -> None:
        """Ends all, after each has saved where it is."""
        with self.lock:
            self.stopped = True
        for process in self.live:  # one that has ended is left alone
            process.terminate()


def shares(jobs: int) -> list[set[int]]:
    """The cores of each job; empty sets, which leave it to the system, for one job and
    where a process cannot be kept to some cores."""
    if jobs == 1 or not hasattr(os, "sched_setaffinity"):
        return [set()] * jobs
    cores = sorted(os.sched_getaffinity(0))
    return [set(cores[job * len(cores) // jobs:(job + 1) * len(cores) // jobs])
            for job in range(jobs)]
