"""Data-parallel training equals one device: jit over a mesh and pmap, 2 devices.

The runs are in one process with fake CPU devices, see device_runs.py. They use plain
SGD, because the bounds are about summation order. Two things would exceed them: Adam
divides a gradient that is only rounding error (a bias before batch norm) by its own
size, and a larger learning rate amplifies the one ReLU in millions whose sign rounding
reverses.
"""

import json
import re
import types

import jax.numpy as jnp
import pytest
from tests.support.quick_compile import QUICK_FLAGS, flags_for
from tests.support.tiny_runs import (end, killed_after, main, read_results,
                                     read_rows, refusal, start_module, tiny)

from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.training import loop, parallel
from cnn_jax.training.profiler import Profiler
from cnn_jax.workdir.progress import Progress
from experiments.hlo import facts

BOUNDS = (1e-6, 1e-4)  # relative L2 after 1 step and after 60


def run_devices(*counts: int) -> dict:
    flags = f"{flags_for(max(counts))} {QUICK_FLAGS}"
    code, output, errors = end(start_module("tests.support.device_runs", *counts,
                                            variables={"XLA_FLAGS": flags}))
    assert code == 0, errors
    return json.loads(output.splitlines()[-1])


@pytest.fixture(scope="module")
def measured():
    return run_devices(2)


def assert_equal_training(measured: dict) -> None:
    for setting, parts in measured["train"].items():
        for part, distances in parts.items():
            print(setting, part, distances)
            for distance, bound in zip(distances, BOUNDS, strict=True):
                assert distance <= bound, (setting, part, distances)


def test_the_same_parameters_as_one_device(measured):
    assert list(measured["train"]) == ["jit 2", "pmap 2"]
    assert_equal_training(measured)


def test_the_check_detects_batch_norm_that_is_not_synchronized(measured):
    distance = measured["unsynchronized"]["params"][0]
    print("not synchronized:", distance)
    assert distance > 10 * BOUNDS[0]


def assert_equal_groups(measured: dict) -> None:
    for setting, parts in measured["norm_groups"].items():
        for part, (distance,) in parts.items():
            assert distance <= BOUNDS[0], (setting, part, distance)


def test_groups_of_batch_norm_do_not_depend_on_the_devices(measured):
    assert list(measured["norm_groups"]) == ["jit device", "pmap device"]
    assert_equal_groups(measured)


def test_batch_norm_of_each_device_sends_no_statistics_between_its_layers(measured):
    """The running averages are sent together, after the gradient."""
    count = {name: facts(measured[name]).collectives["all-reduce"]
             for name in ("hlo", "hlo_of_groups")}
    print(count)
    assert count["hlo_of_groups"] < count["hlo"]


def test_evaluation_does_not_depend_on_the_devices(measured):
    expected = measured["evaluate"]["jit 1"]
    assert expected["examples"] == 359  # 359 = 9 * 40 - 1: the last batch is padded
    for setting, figures in measured["evaluate"].items():
        assert figures["examples"] == expected["examples"], setting
        assert figures["accuracy"] == expected["accuracy"], setting
        assert figures["loss"] == pytest.approx(expected["loss"], rel=1e-6), setting


def test_states_saved_on_some_devices_are_restored_on_others(measured):
    assert measured["save_and_restore"] == 4  # {1, 2} x {1, 2}, bit for bit


def gathered(hlo: str) -> list[str]:
    """Lists the results of all-gathers in a program, such as 'u8[16,8,8,1]'."""
    return re.findall(r"= (\w+\[[\d,]*\])\S* all-gather", hlo)


def test_no_device_gathers_the_batch(measured):
    assert gathered(measured["hlo"]) == []
    assert "all-reduce" in measured["hlo"]


def test_the_check_detects_a_gathered_batch(measured):
    assert "u8[16,8,8,1]" in gathered(measured["hlo_gathered"])


@pytest.fixture(scope="module")
def run_eight():
    return run_devices(8, 4, 2)


@pytest.mark.slow
def test_the_same_parameters_on_eight_devices(run_eight):
    assert_equal_training(run_eight)
    assert len(run_eight["train"]) == 6
    assert run_eight["save_and_restore"] == 16


@pytest.mark.slow
def test_groups_of_batch_norm_that_devices_share(run_eight):
    assert {"jit shared", "pmap shared"} < run_eight["norm_groups"].keys()
    assert_equal_groups(run_eight)


@pytest.mark.slow
@pytest.mark.parametrize("kind, other", [("jit", "pmap"), ("pmap", "jit")])
def test_a_run_resumes_on_another_number_of_devices(tmp_path, kind, other):
    """Its losses equal those of a run that was not stopped."""
    changes = {"epochs": 4, "optimizer.name": "sgd", "checkpoint.keep": 5,
               "optimizer.learning_rate": 0.02, "augment.horizontal_flip": True}
    code, _, errors = main(tmp_path / "whole", changes | {"parallel": kind}, devices=4)
    assert code == 0, errors
    stopped = killed_after(tmp_path / "whole", tmp_path / "stopped", step=16)
    code, output, errors = main(stopped, changes | {"parallel": other}, devices=2)
    assert code == 0 and "resuming after step 16" in output, errors
    whole, resumed = (
        [row["val_loss"] for row in read_rows(path) if row["kind"] == "epoch"]
        for path in (tmp_path / "whole", stopped))
    assert len(resumed) == 4 and resumed == pytest.approx(whole, rel=1e-4)


@pytest.mark.slow
def test_ten_runs_on_eight_devices_end_alike(tmp_path):
    """There are more devices than cores: a collective that waits for a thread would
    abort. An epoch has 80 steps; metrics are fetched only after the last step."""
    checksums = set()
    for number in range(10):
        code, _, errors = main(tmp_path / str(number), {
            "epochs": 2, "data.limit": None, "log.every_steps": 10_000}, devices=8)
        assert code == 0, errors
        checksums.add(read_results(tmp_path / str(number))["params_sha256"])
    assert len(checksums) == 1


def test_calls_are_waited_for_on_several_cpu_devices(monkeypatch):
    """They run one after another: queued calls can wait for each other's threads."""
    single = parallel.make_placement(tiny())
    assert len(single.devices) == 1 and not single.synchronous
    several = single._replace(devices=2 * single.devices)
    assert several.synchronous == (single.devices[0].platform == "cpu")
    waited, one = [], {"loss": jnp.ones(1), "correct": jnp.ones(1),
                       "count": jnp.ones(1)}
    monkeypatch.setattr(loop.jax, "block_until_ready", waited.append)
    monkeypatch.setattr(loop, "record_metrics",
                        lambda *_: {"loss": 0.0, "accuracy": 0.0})
    for placement, count in ((several, 5), (single, 0)):
        run = types.SimpleNamespace(
            config=tiny(), steps_per_epoch=5, steps_per_call=1, placement=placement,
            training_size=lambda epoch: None,
            profiler=Profiler(None, None, None),
            report=Reporter(quiet=True), feed=types.SimpleNamespace(
                streams=False, calls=lambda epoch, ranges: iter([()] * 5)))
        waited.clear()
        loop.train_epoch(run, None, Progress(), {(None, 1): lambda *_: (None, one)},
                         None, [])
        assert len(waited) == count


def test_a_batch_that_does_not_divide_is_refused(tmp_path):
    message = refusal(main(tmp_path, {"batch_size": 15, "epochs": 1}, devices=2), 2)
    assert "config.batch_size = 15" in message and "2 devices" in message


def test_missing_devices_are_refused():
    with pytest.raises(InputError, match="config.devices = 99"):
        parallel.make_placement(tiny(devices=99))
