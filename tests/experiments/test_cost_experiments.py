"""Experiments on cost, vmapped seeds and determinism: results and bad flags."""

import itertools
import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.data.batches import train_order
from cnn_jax.data.examples import Examples
from cnn_jax.errors import InputError
from cnn_jax.native import library
from cnn_jax.ops.conv import conv_spec
from experiments import (augment_cost, auto_grid, conv_errors, dead_filters,
                         determinism, remat, seeds_vmapped)

pytestmark = pytest.mark.usefixtures("compiled_once")
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_vmapped_seeds_equal_seeds_trained_one_by_one(monkeypatch, capsys):
    """Both ways give the same parameters on random images, for every seed."""
    rng = np.random.default_rng(0)
    parts = [Examples(rng.integers(0, 256, (count, 4, 4, 1), dtype=np.uint8),
                      rng.integers(0, 3, count).astype(np.int32))
             for count in (32, 16, 16)]
    dataset = data.Dataset("shapes_shape", *parts, ("a", "b", "c"), "random")
    monkeypatch.setattr(seeds_vmapped.data, "load", lambda *_, **__: dataset)
    seeds_vmapped.main(["--seeds=2", "--epochs=1"])
    output = capsys.readouterr().out
    assert re.search(r"shape_dnn: test accuracy 0\.\d{4} ± 0\.\d{4} \(2 seeds", output)
    for wrong in (1e-4, math.nan):
        monkeypatch.setattr(seeds_vmapped, "compare", lambda *_: (None, 1, 1, wrong))
        with pytest.raises(SystemExit, match="16 steps.*(1e-04|nan)"):
            seeds_vmapped.main(["--seeds=2", "--epochs=1"])


def test_one_wrong_seed_changes_the_distance():
    """It is |(0, 1)| / |(3, 4)| over the parameters of two seeds."""
    theirs = {"w": jax.numpy.array([[3.0], [4.0]])}
    assert seeds_vmapped.distance({"w": theirs["w"].at[1].add(1)},
                                  theirs) == pytest.approx(0.2)


def test_hidden_colours_are_counted():
    """Without biases only red is seen; with them, all but cyan."""
    kernel = np.zeros((1, 1, 3, 2), np.float32)
    kernel[0, 0, :, 0] = 1, -2, -2  # red 1, yellow -1
    kernel[0, 0, :, 1] = -1, -1, -1
    params = {"conv1": {"kernel": kernel, "bias": np.float32([0, 0])}}
    assert int(dead_filters.hidden(params)) == 5
    params["conv1"]["bias"] = np.float32([1.5, 1.5])  # cyan has -2.5 and -0.5
    assert int(dead_filters.hidden(params)) == 1


def test_dead_filters_write_a_table_and_a_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(dead_filters, "train_order",
                        lambda *arguments: train_order(*arguments)[:2])
    dead_filters.main(["--seeds=2", "--epochs=1", "--inits", "he",
                       f"--out={tmp_path}"])
    rows = json.loads((tmp_path / "dead_filters.json").read_text())["rows"]
    assert [row["seed"] for row in rows] == [0, 1]
    assert (tmp_path / "dead_filters.txt").read_text() == capsys.readouterr().out
    assert (tmp_path / "dead_filters.png").read_bytes().startswith(b"\x89PNG")
    committed = json.loads(
        (ROOT / "measured/accuracy/dead_filters.json").read_text())["rows"]
    assert all(row["accuracy"] <= dead_filters.bound_of(row["hidden_after"]) + 0.03
               for row in committed)


def test_determinism_repeats_steps(capsys):
    determinism.main(["--steps=2"])
    assert "2 steps made twice, every bit the same" in capsys.readouterr().out


def test_determinism_names_the_first_step_and_leaf_that_differ():
    """The second run gets other values from step 1 on."""
    calls = itertools.count()

    def step(state, batch):
        noise = next(calls) % 2 * 1e-7  # the runs take turns
        return {"w": state["w"] + np.float32([0, noise])}, {"loss": np.float32(1)}

    assert determinism.compare(step, {"w": np.float32([1, 1])}, [None] * 3).startswith(
        "step 1, leaf [0]['w']: at [1]: ")
    assert determinism.compare(lambda state, _: (state, {}), {}, [None] * 3) == ""


def test_first_difference_compares_every_bit():
    zero, minus = np.float32([[0, 0]]), np.float32([[-0.0, 0]])
    assert determinism.first_difference(zero, zero) == ""
    assert determinism.first_difference(zero, minus) == (
        f"at [0, 0]: {zero[0, 0]!r} and {minus[0, 0]!r} (1 of 2 values)")
    nan = np.float32([np.nan])
    assert determinism.first_difference(nan, nan) == ""


@pytest.fixture
def small_images(monkeypatch):
    monkeypatch.setattr(augment_cost, "SHAPE", (32, 32, 3))
    monkeypatch.setattr(augment_cost, "IMAGES", 8)


@pytest.mark.slow
def test_augment_cost_writes_its_samples(small_images, tmp_path):
    augment_cost.main([f"--out={tmp_path}", "--batch=2", "--rounds=3", "--only",
                       "the monkeys'"])
    results = json.loads((tmp_path / "augment_cost.json").read_text())
    assert results["machine"] and "jax" in results["versions"]
    assert list(results["seconds"]) == ["nothing", "the monkeys'"]
    for samples in results["seconds"].values():
        assert len(samples) == 3 and min(samples) > 0
    text = (tmp_path / "augment_cost.txt").read_text()
    assert text == augment_cost.table(results)


def test_the_timed_steps_are_augmented(small_images):
    steps, arguments = augment_cost.programs(2, ["nothing", "the monkeys'"])
    (_, plain), (_, augmented) = (step(*arguments) for step in steps.values())
    assert float(plain["loss"][0]) != float(augmented["loss"][0])


def test_cost_of_augmentation_is_a_ratio_within_each_round():
    plain = [1.0, 8.0, 2.0]
    seconds = {"nothing": plain, "the monkeys'": [1.125 * value for value in plain]}
    assert "adds 12.5 % (12.5 % to 12.5 %)" in augment_cost.conclusion(seconds)
    assert augment_cost.conclusion({"nothing": plain}) == ""


@pytest.mark.parametrize("flag, answer", [
    ("--batch=0", "--batch=0.*1 to 256"),
    ("--batch=257", "--batch=257.*1 to 256"),
    ("--rounds=0", "--rounds=0"),
    ("--out=setup.cfg", "--out=setup.cfg")])
def test_augment_cost_refuses_bad_flags(monkeypatch, flag, answer):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(augment_cost, "measure", None)
    with pytest.raises(InputError, match=answer):
        augment_cost.main([flag])


@pytest.mark.slow
def test_remat_prints_the_memory_of_both_steps(capsys):
    remat.main(["tf2_inception10", "--batch=4", "--side=16"])
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"tf2_inception10 +\d+ MiB +\d+ MiB +0\.\d\d", line), line
    with pytest.raises(InputError, match="--batch=0"):
        remat.main(["--batch=0"])


@pytest.mark.skipif(library.load_onednn() is None, reason=library.describe())
def test_auto_grid_compares_the_chosen_method_with_the_others(tmp_path, monkeypatch):
    spec = conv_spec((1, 4, 4, 16), (3, 3, 16, 16), 1, "SAME")
    monkeypatch.setattr(auto_grid, "convolutions", lambda: iter([spec]))
    auto_grid.main([f"--out={tmp_path}", "--seconds=0"])
    rows = json.loads((tmp_path / "auto_grid.json").read_text())
    assert [row["pass"] for row in rows] == [0, 1, 2]
    assert {"lax", "onednn", "native im2col", "native Winograd F(4 x 4, 3 x 3)"} <= set(
        rows[0]["seconds"])
    groups = conv_spec((2, 5, 5, 4), (3, 3, 1, 4), 2, "SAME", groups=4)
    assert "native im2col" not in auto_grid.methods(0, groups)
    assert all(row["chosen"] in row["seconds"] for row in rows)
    rows[0]["seconds"] = {"lax": [1., 2., 9.], rows[0]["chosen"]: [3., 1., 4.]}
    assert auto_grid.slowdowns(rows[:1]) == [1.5]
    assert "1.50  forward" in auto_grid.table(rows)
    assert (tmp_path / "auto_grid.png").exists()


def test_errors_of_the_methods_of_a_convolution(tmp_path, monkeypatch):
    spec = conv_errors.conv(1, 5, 3, 16, 16)
    monkeypatch.setattr(conv_errors, "CONVOLUTIONS", {"one": spec})
    conv_errors.main([f"--out={tmp_path}"])
    rows = (tmp_path / "conv_errors.txt").read_text().splitlines()[3:]
    without = library.load_onednn() is None
    assert [row.split()[-1] == "-" for row in rows] == [without] * 3
    monkeypatch.setattr(conv_errors, "methods",
                        lambda *_: {"lax": lambda a, b: np.zeros(spec.y_shape)})
    assert conv_errors.errors(0, spec) == {"lax": 1.0}


@pytest.mark.slow
def test_auto_grid_draws_convolutions_of_all_networks_at_any_batch():
    specs = list(itertools.islice(auto_grid.convolutions(), 60))
    assert {spec.x_shape[0] for spec in specs} == set(auto_grid.BATCHES)
    assert specs == list(itertools.islice(auto_grid.convolutions(), 60))
