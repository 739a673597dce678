"""Runs a reader of HDF5 in a process of its own, with limits on time and memory.

HDF5 is a library in C. A few changed bytes make it (2.0.0) loop without an end or take
gigabytes for a short name, in about 2 of 1,000 files, and no check from outside can
tell. In a process of its own this ends in one line.
"""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

from cnn_jax.interop.readers import keras_files

SECONDS = 60.0  # and one more for each 10 MB of the file
MEMORY = 2**31  # bytes, and four times the file
_REFUSED = 2  # exit code, with the reason on stderr


def run(read: Callable[[Path], dict[str, np.ndarray]], path: Path
        ) -> dict[str, np.ndarray]:
    """Calls a function of keras_files.py in a new process; returns what it returns.

    Raises ValueError with the message of the function's error, or if the process
    crashed or reached a limit.
    """
    size = path.stat().st_size
    seconds, memory = SECONDS + size / 10e6, MEMORY + 4 * size
    command = [sys.executable, "-c",
               "from cnn_jax.interop.readers import isolated; isolated.main()",
               read.__name__, str(path), str(memory)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    arrays = {}
    with subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        try:
            while line := process.stdout.readline():
                name, kind, shape = json.loads(line)
                dtype = np.dtype(kind)
                data = process.stdout.read(math.prod(shape) * dtype.itemsize)
                arrays[name] = np.frombuffer(data, dtype).reshape(shape)
            reason = process.stderr.read().decode().strip()
        except BaseException:  # Ctrl-C too, which a loop in C does not hear
            process.kill()
            raise
        finally:
            timer.cancel()
    if process.returncode == _REFUSED:
        raise ValueError(reason)
    if process.returncode:
        raise ValueError(
            f"the library that reads it crashed, or took more than {seconds:.0f} s or "
            f"{memory / 1e9:.1f} GB (exit code {process.returncode})")
    return arrays


def main() -> None:
    """Does what `run` started: writes each array, first its name, type and shape."""
    function, path, memory = sys.argv[1:]
    read = keras_files.read_keras if function == "read_keras" else keras_files.read_h5
    _limit_memory(int(memory))
    try:
        arrays = read(Path(path))
    except Exception as error:  # HDF5 and zip raise many kinds
        print(str(error) or type(error).__name__, file=sys.stderr)
        sys.exit(_REFUSED)
    for name, array in arrays.items():
        head = json.dumps([name, array.dtype.str, array.shape])
        sys.stdout.buffer.write(head.encode() + b"\n")
        sys.stdout.buffer.write(array.tobytes())


def _limit_memory(size: int) -> None:
    """Lets this process take so many more bytes of memory, where Linux can."""
    if sys.platform == "linux":
        import resource
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
