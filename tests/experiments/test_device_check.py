"""The check of a device: each part made small, its table, its exit codes."""

import contextlib
import functools
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from cnn_jax import networks as registry
from cnn_jax import data, ops
from cnn_jax.data.info import describe
from cnn_jax.errors import InputError, RunError
from cnn_jax.training.recipe import abstract_state, create_recipe
from cnn_jax.training.steps import train_step
from configs import lenet
from experiments import determinism, device_check
from experiments.device import networks, operations, training
from experiments.imagenet_steps import last_step

ROOT = Path(__file__).parents[2]
CPU = jax.devices("cpu")[0]


@pytest.mark.parametrize("name", ["dense", "max_pool disjoint lax"])
def test_an_operation_is_within_its_tolerances(name):
    row = operations.check(name, operations.SHAPES[0], CPU)
    assert row["wrong"] == "" and set(row["errors"]) == set(operations.PRECISIONS)
    assert row["errors"]["float32"] < 1e-6 and row["errors"]["bfloat16"] < 0.02


def test_every_operation_has_a_case(monkeypatch):
    public = {name for name in ops.__all__ if callable(getattr(ops, name))} - {"jit"}
    called = set()

    def note(name, *args, **options):
        called.add(name)
        raise InterruptedError

    for name in public:
        monkeypatch.setattr(ops, name, functools.partial(note, name))
    monkeypatch.setattr(operations, "CONV", ops.correlate)
    for f, args in operations.cases(operations.SHAPES[0]).values():
        with contextlib.suppress(InterruptedError):
            f(*args)
    assert called == public


def test_a_wrong_operation_is_seen(monkeypatch):
    def off(x):
        return x * (1 if x.dtype == np.float64 else 1.001)
    monkeypatch.setattr(operations, "cases", lambda shape: {
        "off": (off, (operations.normal(0, *shape),))})
    row = operations.check("off", (2, 3), CPU)
    assert "in float32, highest, at most 0.0001" in row["wrong"]
    assert row["errors"]["float32"] == pytest.approx(1e-3, rel=1e-2)


def test_a_training_step_is_near_that_of_the_cpu(monkeypatch):
    monkeypatch.setattr(networks, "SIDE", 28)
    row = networks.check("lenet5", CPU)
    assert row["wrong"] == "" and row["error"] < 1e-5 and 0 < row["rounding"] < 1e-4
    update, = networks.faults(row | {"error": 1e-2, "rounding": 1e-5})
    loss, = networks.faults(row | {"loss": 1.01 * row["loss_cpu"]})
    assert "1.0e-02 from the CPU's, at most 3.1e-03" in update and "loss" in loss
    assert len([*networks.faults(row | {"error": np.nan, "loss": np.nan})]) == 2


def test_names_with_one_program_share_it():
    groups = networks.shared(registry.NETWORKS)
    assert sorted(sum(groups.values(), [])) == sorted(registry.NETWORKS)
    assert groups["resnet50"] == ["resnet50", "resnet101", "resnet152"]
    assert groups["resnet18"] == ["resnet18", "resnet34"]
    assert groups["mobilenet_v2"] == ["mobilenet_v2"]


# Writes rows as main.py does; ends by SIGTERM with 143; ends by itself with results.
RUN = """
import json, signal, sys, time
from pathlib import Path
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
flags = dict(word.lstrip("-").split("=") for word in sys.argv[1:])
folder = Path(flags["workdir"])
with open(folder / "metrics.jsonl", "a") as file:
    for step in range(41 * int(flags["config.epochs"])):
        print(json.dumps({"step": step}), file=file, flush=True)
        time.sleep(0.002)
(folder / "results.json").write_text(json.dumps(
    {"params_sha256": folder.name[:1], "test_accuracy": 0.98, "devices": ["cpu"]}))
"""


def test_training_is_stopped_killed_and_compared(monkeypatch, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    monkeypatch.setattr(training, "COMMAND", [sys.executable, "-S", str(script)])
    monkeypatch.setattr(training, "EPOCHS_SMALL", 2)
    hour = time.monotonic() + 3600
    rows = training.check(tmp_path / "small", True, must_be_exact=True, deadline=hour)
    assert [(row["name"], row.get("same_bits")) for row in rows] == [
        ("default: accuracy", None), ("default: kept", False),
        ("default: resumed", False)]
    assert rows[0] | {"wrong": ""} == rows[0] and rows[0]["accuracy"] == 0.98
    assert {row["wrong"] for row in rows[1:]} == {"other bits than whole"}
    ends = training.train(tmp_path / "ends", 1, {}, hour, stop=10_000)
    assert ends.startswith("exit code 0 of a run")
    seen = training.bits(tmp_path / "small/default", "kept", "", must_be_exact=False)
    assert (seen["same_bits"], seen["wrong"]) == (False, "")


@pytest.mark.parametrize("pool, scatters", [("auto", True), (determinism.POOL, False)])
def test_steps_that_must_repeat_have_no_scatter(pool, scatters):
    config = lenet.get_config()
    config.model.pool = pool
    info = describe(data.load(config.data, config.seed), config.data)
    recipe = create_recipe(config, info)
    state = abstract_state(recipe, info.image_shape)
    batch = networks.drawn_batch("lenet5", info.image_shape)
    program = jax.jit(functools.partial(train_step, recipe=recipe)).trace(state, batch)
    text = program.lower(lowering_platforms=("cuda",)).as_text()
    assert ("scatter" in text) == scatters


def test_runs_that_must_repeat_pool_without_scatter(monkeypatch):
    assert f"--config.model.pool={determinism.POOL}" in training.COMMAND
    made = []
    monkeypatch.setattr(determinism, "create_recipe", lambda config, info: (
        made.append(config.model.pool), sys.exit("made")))
    with pytest.raises(SystemExit, match="made"):
        determinism.main(["--config=configs/lenet.py"])
    assert made == [determinism.POOL]


def test_training_ends_at_the_deadline(monkeypatch, tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN)
    monkeypatch.setattr(training, "COMMAND", [sys.executable, "-S", str(script)])
    monkeypatch.setattr(training, "EPOCHS_SMALL", 10_000)
    begun = time.monotonic()
    rows = training.check(tmp_path, True, must_be_exact=True, deadline=begun + 0.5)
    assert time.monotonic() - begun < 20
    assert [row["name"] for row in rows if row["not_reached"]] == [
        "default: accuracy", "default: kept", "default: resumed"]


def test_an_error_of_a_run_is_a_row_that_is_wrong(monkeypatch, tmp_path):
    def half_written(workdir, *_):
        if workdir.name == "resumed":
            raise KeyError("step")
        workdir.mkdir(parents=True, exist_ok=True)
        (workdir / "results.json").write_text("{}")
        return ""
    monkeypatch.setattr(training, "train", half_written)
    rows = training.check(tmp_path, True, must_be_exact=True, deadline=time.monotonic())
    assert [row["wrong"] for row in rows] == [
        "KeyError: 'test_accuracy'", "KeyError: 'params_sha256'", "KeyError: 'step'"]


def test_a_half_written_line_is_no_step(tmp_path):
    file = tmp_path / "metrics.jsonl"
    for text, step in (("", 0), ('{"st', 0), ('{"step": 7}\n', 7),
                       ('{"step": 7}\n{"step": 81', 7)):
        file.write_text(text)
        assert last_step(tmp_path) == step


def test_bits_of_one_process(tmp_path):
    other = training.bits(tmp_path, "one process", "a: not repeated: step 1", False)
    assert (other["same_bits"], other["wrong"]) == (False, "")
    assert training.bits(tmp_path, "one process", "", True)["same_bits"]
    assert training.bits(tmp_path, "one process", "no module", False)["wrong"]


@pytest.mark.parametrize("asked", [device_check.PARTS, ("networks", "speed")])
def test_each_part_ends_at_its_share_and_speed_has_the_rest(asked):
    ends = [device_check.share_until(part, asked) for part in asked]
    assert ends == sorted(ends) and ends[-1] == 1.0 and ends[-2] <= 0.6
    assert device_check.share_until(asked[0], asked[:1]) == 1.0


FOUND = {
    "operations": [
        {"name": "dense", "errors": {"float32": 2e-7}, "wrong": ""},
        {"name": "conv", "errors": {"float32": 1.0}, "wrong": "error 1"}],
    "networks": [{"name": "lenet5", "error": 1e-6, "rounding": 2e-6, "wrong": ""},
                 {"name": "vgg16", "not_reached": True, "wrong": ""}],
    "training": [{"name": "default: kept", "same_bits": False, "wrong": ""}],
    "speed": [{"name": "LeNet-5, batch 8", "wrong": "", "does_not_fit": True,
               "arms": ["cnn_jax", "torch", "torch.compile"],
               "images_per_second": {"cnn_jax": [100.0] * 7, "torch": [50.0] * 7},
               "failed": {"torch.compile": "OutOfMemoryError: 3 GB"},
               "setup": {"cnn_jax": {"alone": {"device_peak_mb": None, "peak_mb": 1500},
                                     "temporary_mb": 700.4}},
               "targets": {"torch": 3.0}}]}


def test_the_table_and_exit_code_1(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(device_check, "rows_of", lambda part, *_: FOUND[part])
    with pytest.raises(RunError, match="1 .*conv"):
        device_check.main(["--small", f"--out={tmp_path}"])
    text = (tmp_path / "device_check.txt").read_text()
    assert "3 ok, 1 wrong, 1 not reached, 1 do not fit" in text
    assert "not reached: vgg16" in text and "does not fit: LeNet-5" in text
    assert "WRONG conv: error 1" in text and "other bits" in text
    assert "2.00 times as fast (target 3.0)" in text
    assert "peak 1,500 MB (a step's temporaries 700.4)" in text
    assert json.loads((tmp_path / "device_check.json").read_text())["parts"] == FOUND
    device_check.main(["--small", f"--out={tmp_path}", "--part", "networks"])


@pytest.mark.parametrize("flags, answer", [
    ([], "GPU"), (["--small", "--part", "speeds"], "speeds"),
    (["--small", "--minutes=0"], "--minutes=0"),
    (["--small", "--workers=0"], "--workers=0")])
def test_what_is_refused(flags, answer, tmp_path):
    with pytest.raises(InputError, match=answer):
        device_check.main([*flags, f"--out={tmp_path}"])


def test_a_platform_that_is_missing_is_not_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("JAX_PLATFORMS", "cuda,cpu")
    with pytest.raises(InputError, match="JAX_PLATFORMS=cuda"):
        device_check.main(["--small", f"--out={tmp_path}"])


def test_an_error_and_the_deadline_are_rows():
    def broken(name, device):
        raise ValueError("no such kernel")
    late = time.monotonic() - 1
    rows = [*device_check.in_parallel(broken, [("a",)], 1, late + 60),
            *device_check.in_parallel(broken, [("b", (1, 2))], 1, late)]
    assert rows[0]["wrong"] == "ValueError: no such kernel"
    assert rows[1] == {"name": "b (1, 2)", "not_reached": True, "wrong": ""}


def test_a_check_that_does_not_fit_is_no_fault():
    def full(name, device):
        raise MemoryError("RESOURCE_EXHAUSTED: Out of memory")
    row, = device_check.in_parallel(full, [("a",)], 1, time.monotonic() + 60)
    assert device_check.line("operations", row) == "  does not fit: a"


def test_a_process_that_ends_breaks_one_row(monkeypatch, tmp_path):
    (tmp_path / "ending.py").write_text("""
import os
def check(name, device):
    return {"name": name, "wrong": ""} if name != "b" else os._exit(3)
""")
    monkeypatch.syspath_prepend(tmp_path)
    check = importlib.import_module("ending").check
    rows = [*device_check.in_parallel(check, [("a",), ("b",), ("c",), ("d",)], 2,
                                      time.monotonic() + 300)]
    assert [row["name"] for row in rows] == ["a", "b", "c", "d"]
    assert [bool(row["wrong"]) for row in rows] == [False, True, False, False]


@pytest.mark.parametrize("given, set_to", [
    ("", ""), ("cuda", "cuda,cpu"), ("cuda,cpu", "cuda,cpu"), ("cpu", "cpu")])
def test_the_cpu_is_a_platform_too(given, set_to):
    assert device_check.with_cpu(given) == set_to


@pytest.mark.slow
def test_all_parts_made_small(tmp_path):
    done = subprocess.run(
        [sys.executable, "experiments/device_check.py", "--small", "--minutes=30",
         f"--out={tmp_path}"], cwd=ROOT, text=True, capture_output=True)
    assert done.returncode == 0, (done.stdout, done.stderr)
    parts = json.loads((tmp_path / "device_check.json").read_text())["parts"]
    assert {part: len(rows) for part, rows in parts.items()} == {
        "operations": 5, "networks": 3, "training": 3, "speed": 1}
    assert all(row["same_bits"] for row in parts["training"][1:])
    rates, = (row["images_per_second"] for row in parts["speed"])
    assert {"cnn_jax", "cnn_jax, 2 steps a call", "plain Flax"} <= rates.keys()
