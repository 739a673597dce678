"""huge_pages.py restarts a program once, unless it is turned off, and keeps memory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cnn_jax.huge_pages import TUNABLES

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
from cnn_jax.huge_pages import use_huge_pages
print("started", sys.argv[1:], flush=True)
use_huge_pages()
print("runs with", os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize("environment,starts,tunables", [
    ({}, 2, TUNABLES),
    ({"CNN_JAX_HUGE_PAGES": "0"}, 1, "None"),
    ({"GLIBC_TUNABLES": "glibc.malloc.check=0"}, 1, "glibc.malloc.check=0"),
])
def test_restarts_once_with_the_same_arguments(tmp_path, environment, starts, tunables):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    clean = {k: v for k, v in os.environ.items()
             if k not in ("GLIBC_TUNABLES", "CNN_JAX_HUGE_PAGES")}
    done = subprocess.run([sys.executable, str(path), "a b", "--c"], text=True,
                          capture_output=True, check=True,
                          env=clean | {"PYTHONPATH": str(ROOT)} | environment)
    assert done.stdout.splitlines() == [
        *["started ['a b', '--c']"] * starts, f"runs with {tunables}"]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
def test_freed_memory_is_kept():
    """64 MiB cause page faults only once, though two threads allocate them in turn."""
    program = """
import ctypes, resource, threading
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def use():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for work in threading.Thread(target=use), threading.Thread(target=use):
        work.start()
        work.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""

    def count(tunables):
        return int(subprocess.run(
            [sys.executable, "-c", program], text=True, capture_output=True, check=True,
            env=os.environ | {"GLIBC_TUNABLES": tunables}).stdout)
    assert count(TUNABLES) < 30 < 60 <= count("")
