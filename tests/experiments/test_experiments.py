"""The comparison and the benchmark run, and refuse what they cannot do."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(script, *flags):
    return subprocess.run(
        [sys.executable, f"experiments/{script}.py", *flags], cwd=ROOT,
        capture_output=True, text=True, timeout=300,
        env={**os.environ, "CNN_JAX_HUGE_PAGES": "0"})


def test_comparison_writes_equal_implementations(tmp_path):
    done = run("conv_comparison", "--only=tutorial, padding", "--rounds=2",
               f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((tmp_path / "comparison.csv").open()))
    timed = {row["implementation"]: row for row in rows if not row["refused"]}
    assert {"lax", "im2col", "banded", "auto"} <= timed.keys()
    assert all(float(row["error"]) <= 1e-4 and float(row["both_ms"]) > 0
               for row in timed.values())
    assert "GFLOP/s" in (tmp_path / "comparison.txt").read_text()
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


def test_benchmark_times_lenet(tmp_path):
    done = run("benchmark", "--only=W1", "--seconds=1", f"--out={tmp_path}")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "benchmark.json").read_text())["W1 LeNet-5"]
    assert set(found["train"]) == {"cnn_jax", "plain Flax", "plain Flax, kept"}
    assert len(found["train"]["cnn_jax"]) >= 5
    assert found["setup"]["cnn_jax"]["params"] == 61706
    assert "ours" in done.stdout
    assert (tmp_path / "benchmark.png").exists()


@pytest.mark.parametrize("script", ["benchmark", "conv_comparison"])
@pytest.mark.parametrize("flag, answer", [
    ("--peers=caffe", "caffe is not known; there are "),
    ("--out=setup.cfg", "--out=setup.cfg cannot be made"),
    ("--only=W99", "is in no name of")])
def test_what_they_refuse(script, flag, answer):
    done = run(script, flag)
    assert done.returncode == 2 and answer in done.stderr
