"""The one restart with huge pages, and what prevents it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, sys
from cnn_jax.malloc import use_huge_pages
print("started", sys.argv[1:], flush=True)
use_huge_pages()
print("runs with", os.environ.get("GLIBC_TUNABLES"))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize("environment,starts,tunables", [
    ({}, 2, "glibc.malloc.hugetlb=1"),
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
