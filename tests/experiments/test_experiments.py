"""The comparison and the benchmark run, and refuse bad flags."""

import csv
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture
def load(monkeypatch):
    """Imports an experiment as when it runs as a script: with its folder on the path.
    """
    monkeypatch.syspath_prepend(ROOT / "experiments")
    monkeypatch.chdir(ROOT)
    return importlib.import_module


@pytest.mark.parametrize("names", [
    ["lax", "banded", "loops", "auto"], pytest.param(None, marks=pytest.mark.slow)],
    ids=["some", "all"])
def test_comparison_writes_equal_implementations(load, monkeypatch, tmp_path, names):
    comparison = load("conv_comparison")
    if names:
        monkeypatch.setattr(comparison, "implementations", lambda layer: names)
    comparison.main(["--only=tutorial, padding", "--rounds=2", f"--out={tmp_path}"])
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    timed = {row["implementation"]: row for row in rows if not row["refused"]}
    assert {"lax", "banded", "auto"} <= timed.keys() and "loops" not in timed
    assert all(float(row["error"]) <= 1e-4 and float(row["both_ms"]) > 0
               for row in timed.values())
    assert "GFLOP/s" in (tmp_path / "comparison.txt").read_text()
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_benchmark_times_lenet(load, monkeypatch, tmp_path, capsys):
    benchmark = load("benchmark")
    monkeypatch.setattr(benchmark, "ARMS", {
        name: benchmark.ARMS[name] for name in ("cnn_jax", "plain Flax")})
    benchmark.main(["--only=W1", "--seconds=1", f"--out={tmp_path}"])
    seconds = json.loads((tmp_path / "benchmark.json").read_text())["W1 LeNet-5"]
    assert set(seconds["train"]) == {"cnn_jax", "plain Flax"}
    assert len(seconds["train"]["cnn_jax"]) >= 5
    assert seconds["setup"]["cnn_jax"]["params"] == 61706
    assert "ours" in capsys.readouterr().out
    assert (tmp_path / "benchmark.png").exists()


def test_committed_benchmark_is_the_table_of_its_samples(load):
    benchmark = load("benchmark")
    for path in (ROOT / "measured" / "speed").glob("benchmark*.json"):
        text = path.with_suffix(".txt").read_text()
        assert benchmark.table(json.loads(path.read_text())) in text, path.name


def test_arms_with_fewer_cores_stand_beside_those_with_all(load, monkeypatch):
    benchmark = load("benchmark")
    monkeypatch.setattr(benchmark, "core_count", lambda: 2)
    arms = benchmark.on_threads(benchmark.ARMS, [1, 2])
    assert {name: arm.cores for name, arm in arms.items()} == (
        dict.fromkeys(benchmark.ARMS, 0)
        | {f"{name}, 1 core": 1 for name in benchmark.ARMS})
    assert benchmark.on_threads(benchmark.ARMS, []) == benchmark.ARMS


def test_a_worker_starts_on_its_cores(load):
    worker = load("arms.worker")
    before = os.sched_getaffinity(0)
    with worker.on_cores(1):
        count = subprocess.run(
            [sys.executable, "-S", "-c", "import os; print(os.sched_getaffinity(0))"],
            capture_output=True, text=True, check=True).stdout
    assert count.strip() == str({min(before)}) and os.sched_getaffinity(0) == before


def test_small_pages_are_the_same_arms_without_kept_memory(load):
    benchmark = load("benchmark")
    arms = benchmark.ARMS | benchmark.PEERS["onednn"]
    for ours in benchmark.OURS, benchmark.WITH_ONEDNN:
        kept, small = arms[ours], arms[f"{ours}, small pages"]
        assert small.settings["CNN_JAX_HUGE_PAGES"] == "0"
        assert not small.settings["GLIBC_TUNABLES"] and kept.settings["GLIBC_TUNABLES"]
        for name in ("CNN_JAX_NATIVE", "plain"):
            first, second = (arm.settings | arm.arguments for arm in (kept, small))
            assert first[name] == second[name]


@pytest.mark.parametrize("threads", ["0", "two", "1,999999"])
def test_numbers_of_cores_that_are_not_there_are_refused(load, capsys, tmp_path,
                                                         threads):
    with pytest.raises(SystemExit) as end:
        load("benchmark").main([f"--out={tmp_path}", f"--threads={threads}"])
    assert end.value.code == 2 and f"--threads={threads}" in capsys.readouterr().err


@pytest.mark.parametrize("script", ["benchmark", "conv_comparison"])
@pytest.mark.parametrize("flag, answer", [
    ("--peers=caffe", "caffe is not known; there are "),
    ("--out=setup.cfg", "--out=setup.cfg cannot be made"),
    ("--only=W99", "is in no name of")])
def test_bad_flags_are_refused(load, capsys, tmp_path, script, flag, answer):
    with pytest.raises(SystemExit) as end:
        load(script).main([f"--out={tmp_path}", flag])
    assert end.value.code == 2 and answer in capsys.readouterr().err
