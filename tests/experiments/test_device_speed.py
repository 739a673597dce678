"""The speed part of the check of a device: its arms, its rows, what ends it."""

import contextlib
import importlib.metadata
import json
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from cnn_jax.errors import RunError
from experiments import device_check
from experiments.arms import worker
from experiments.arms.in_turn import time_in_turn
from experiments.device import speed

ROOT = Path(__file__).parents[2]


def test_a_call_is_ended_at_its_deadline():
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        next(speed.until(begun + 1, map, time.sleep, [300]))
    calls = speed.until(begun + 300, map, time.sleep, [0, 300])
    assert next(calls) is None
    calls.close()
    assert time.monotonic() - begun < 60
    with pytest.raises(RunError, match="ValueError"):
        [*speed.until(begun + 300, map, time.sleep, [-1])]
    with pytest.raises(TimeoutError):
        next(speed.until(begun, map, time.sleep, [0]))


class FakeWorker:
    closed = 0

    def __init__(self, seconds, fails="", **setup):
        self.seconds, self.fails = seconds, fails
        self.setup = {"alone": {"seconds": seconds, "device_peak_mb": 1500,
                                "peak_mb": 9}, "params": 3, "logits": [[0.0, 1.0]],
                      "losses": [1.0]} | setup

    def run(self, name, count=1):
        if name == self.fails:
            raise SystemExit(f"python -m arm\nended early, {FULL}")
        return {"seconds": self.seconds * (int(name[5:] or 1) if name[5:] else 1)}

    def close(self):
        FakeWorker.closed += 1


FULL = "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory"
BROKEN = SystemExit("python -m arm\nended early, exit code -6")


def rows_of_arms(monkeypatch, **workers):
    """Returns the rows that these workers give, or what ended them."""
    monkeypatch.setattr(speed, "without_torch", lambda platform: "")
    monkeypatch.setattr(speed, "start_arrays",
                        lambda **_: contextlib.nullcontext("file"))
    monkeypatch.setattr(speed, "started", lambda arms, given: iter([
        (arm, workers.get(name, FakeWorker(0.02))) for arm, name in zip(
            arms, ("ours", "flax", "eager", "compiled"), strict=True)]))
    monkeypatch.setattr(FakeWorker, "closed", 0)
    network = speed.Network("lenet5", 8, (28, 28, 1), steps=(8,), targets=speed.SMALL)
    return [json.loads(json.dumps(row))  # as it was when it was sent
            for row in speed.check("LeNet-5", network, "gpu")]


def test_the_figure_of_an_arm_is_kept_when_it_is_measured(monkeypatch):
    rows = rows_of_arms(monkeypatch, ours=FakeWorker(0.01))
    assert [len(row["images_per_second"]) for row in rows] == [1, 2, 3, 4, 5, 5]
    assert [row["not_reached"] for row in rows] == [True] * 5 + [False]
    assert FakeWorker.closed == 4 and not any(row["wrong"] for row in rows)
    first, last = (device_check.line("speed", rows[n]) for n in (0, -1))
    assert "not reached: LeNet-5, batch 8" in first and first.count("not reached") == 5
    assert "800 images/s (once, alone)   peak 1,500 MB" in first
    assert "ok    LeNet-5" in last and "800 images/s (800 - 800)" in last
    assert len(rows[-1]["images_per_second"][speed.EAGER]) == speed.ROUNDS


def test_an_arm_that_does_not_fit_is_no_fault(monkeypatch):
    *_, row = rows_of_arms(monkeypatch, compiled=SystemExit(
        "python\nended early, OutOfMemoryError: CUDA out of memory."))
    assert device_check.state(row) == "does not fit" and len(
        row["images_per_second"]) == 4
    text = device_check.line("speed", row)
    assert re.search("torch.compile +does not fit", text) and "batch 8" in text
    *_, row = rows_of_arms(monkeypatch, eager=BROKEN)
    assert device_check.state(row) == "WRONG"
    assert row["wrong"] == "torch: ended early, exit code -6"


def test_several_steps_that_do_not_fit_leave_the_other_figures(monkeypatch):
    *_, row = rows_of_arms(monkeypatch, ours=FakeWorker(0.01, fails="train8"))
    assert device_check.state(row) == "does not fit" and row["in_turn"]
    assert {name: len(rates) for name, rates in row["images_per_second"].items()} == {
        speed.OURS: 1, speed.FLAX: 7, speed.EAGER: 7, speed.COMPILED: 7}
    *_, row = rows_of_arms(monkeypatch, eager=FakeWorker(0.01, fails="train"))
    assert device_check.state(row) == "does not fit" and not row["in_turn"]
    assert len(row["images_per_second"]) == 5
    *_, row = rows_of_arms(monkeypatch, ours=SystemExit(FULL))
    assert device_check.line("speed", row).count(" does not fit") == 3


ARM = """
import sys
from arms.worker import errors_to, measured_alone, serve

class OutOfMemoryError(Exception):
    pass

def main():
    calls = []
    def train(count):
        calls.append(count)
        if sum(calls) > 99:
            raise OutOfMemoryError("CUDA out of memory.\\nTried")
    if "early" in sys.argv[1]:
        raise RuntimeError("RESOURCE_EXHAUSTED: 9 GB")
    serve({"alone": measured_alone(train, 0.0, lambda: 5.0)}, {"train": train})

with errors_to(sys.stdout):
    main()
"""


def test_a_worker_says_which_error_has_ended_it(monkeypatch, tmp_path):
    (tmp_path / "made_arm.py").write_text(ARM)
    monkeypatch.setattr(worker, "command", lambda module, **given: (
        [sys.executable, str(tmp_path / "made_arm.py"), json.dumps(given)],
        {"PYTHONPATH": f"{ROOT / 'experiments'}:{ROOT}", "PATH": ""}))
    arm = worker.Worker("arm", {})
    assert arm.setup["alone"]["device_peak_mb"] == 5.0
    with pytest.raises(SystemExit) as late:
        arm.run("train", 200)
    with pytest.raises(SystemExit) as early:
        worker.Worker("arm", {}, early=True)
    assert worker.in_one_line(late.value) == (
        "ended early, OutOfMemoryError: CUDA out of memory. Tried")
    assert speed.no_memory(str(late.value)) and speed.no_memory(str(early.value))


def test_small_networks_are_measured_before_resnet50():
    order = [*speed.NETWORKS]
    large = order.index("ResNet-50")
    assert all(max(speed.NETWORKS[name].image) <= 32 for name in order[:large])
    assert not any(speed.NETWORKS[name].targets for name in order[large + 1:])


def test_the_speed_part_keeps_what_a_deadline_leaves(monkeypatch):
    def rows(deadline, check, title, *_):
        yield {"name": title, "wrong": "", "not_reached": True, "figures": 1}
        raise {"a": TimeoutError, "b": RunError}[title]("ended")
    monkeypatch.setattr(speed, "until", rows)
    monkeypatch.setattr(speed, "NETWORKS", {"a": None, "b": None})
    cut, ended = speed.check_all(False, "gpu", 0.0)
    assert (cut["figures"], device_check.state(cut)) == (1, "not reached")
    assert (ended["figures"], device_check.state(ended)) == (1, "WRONG")


def test_arms_are_timed_in_turn_and_must_agree():
    workers = {speed.OURS: FakeWorker(0.01), speed.FLAX: FakeWorker(0.02)}
    seconds = time_in_turn(speed.programs(workers, (8,)), speed.TURN, speed.ROUNDS)
    assert {name: times[0] for name, times in seconds.items()} == {
        speed.OURS: 0.01, f"{speed.OURS}, 8 steps a call": 0.01, speed.FLAX: 0.02}
    ours = {"params": 3, "logits": [[0.0, 1.0]], "losses": [1.0]}
    setups = {speed.OURS: ours, speed.FLAX: ours | {"logits": [[0.0, 2.0]]},
              speed.EAGER: ours | {"losses": [float("nan")]}}
    apart, infinite = speed.disagreements(setups)
    assert "logits 2.00 apart" in apart and infinite.startswith("torch: losses")


def test_torch_is_an_arm_where_it_uses_the_device(monkeypatch):
    row = speed.NETWORKS["MobileNetV2"]
    monkeypatch.setattr(speed, "find_spec", lambda name: None)
    assert len(speed.arms(row, "gpu")) == 3
    monkeypatch.setattr(speed, "find_spec", lambda name: SimpleNamespace())
    for number, platform, count in (("2.0+cpu", "gpu", 3), ("2.0", "gpu", 5),
                                    ("2.0", "tpu", 3), ("2.0+cpu", "cpu", 5)):
        monkeypatch.setattr(importlib.metadata, "version",
                            lambda name, number=number: number)
        made = speed.arms(row, platform)
        assert len(made) == count
        assert made.get(speed.EAGER, ("", {"device": ""}))[1]["device"] in (
            "", "cuda" if platform == "gpu" else "cpu")
