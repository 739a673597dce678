"""experiments/seeds_vmapped.py and augment_cost.py: files, verdicts, refusals."""

import json
import math
from pathlib import Path

import jax
import pytest

from cnn_jax.errors import InputError, RunError
from configs import shapes
from experiments import augment_cost, seeds_vmapped

pytestmark = pytest.mark.usefixtures("compiled_once")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny_case(monkeypatch):
    monkeypatch.setattr(seeds_vmapped, "CASES", {
        "tiny": (shapes.get_config("shape_dnn"), (4, 4, 1), 3)})
    for name, value in {"SEEDS": 2, "CALLS": (1, 2), "STEPS": 4, "IMAGES": 32}.items():
        monkeypatch.setattr(seeds_vmapped, name, value)


def test_seeds_vmapped_writes_its_samples_and_a_verdict(tiny_case, tmp_path, capsys):
    seeds_vmapped.main([f"--out={tmp_path}", "--rounds=3"])
    results = json.loads((tmp_path / "seeds_vmapped.json").read_text())
    assert results["machine"] and "jax" in results["versions"]
    row, = results["rows"]
    assert [(arm["seeds"], arm["steps_per_call"]) for arm in row["arms"]] == [
        ("one after another", 1), ("at once", 1),
        ("one after another", 2), ("at once", 2)]
    for arm in row["arms"]:
        assert len(arm["seconds"]) == 3 and min(arm["seconds"]) > 0
        assert 0 <= arm["distance"] < 1e-5
    text = (tmp_path / "seeds_vmapped.txt").read_text()
    assert seeds_vmapped.verdict(row) in text and text in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [1e-4, math.nan])
def test_seeds_that_differ_are_not_timed(tiny_case, monkeypatch, wrong):
    monkeypatch.setattr(seeds_vmapped, "distance", lambda *_: wrong)
    with pytest.raises(RunError, match="tiny: seeds trained one after another, "
                                       "1 steps/call, are (1e-04|nan) apart"):
        seeds_vmapped.measure("tiny", 1)


def test_distance_sees_one_seed():
    """|(0, 1)| / |(3, 4)| over the parameters of two seeds."""
    theirs = {"w": jax.numpy.array([[3.0], [4.0]])}
    assert seeds_vmapped.distance({"w": theirs["w"].at[1].add(1)},
                                  theirs) == pytest.approx(0.2)


@pytest.mark.parametrize("at_once, words", [
    ([0.5, 1.0, 2.0], "tiny: vmapping pays: at once (16 steps/call) is "
                      "2.00 (2.00 - 2.00) times"),  # the drift falls on both
    ([2.0, 4.0, 8.0], "tiny: vmapping does not pay: at once (16 steps/call) is "
                      "0.50 (0.50 - 0.50) times"),
    ([0.5, 2.0, 8.0], "tiny: vmapping makes no clear difference: at once")])
def test_whether_vmapping_pays(at_once, words):
    """The fastest arm of each kind counts: of those at once the one of 16 steps."""
    row = {"case": "tiny", "arms": [
        {"seeds": seeds, "steps_per_call": calls, "seconds": seconds}
        for seeds, calls, seconds in (
            ("one after another", 1, [1.0, 2.0, 4.0]), ("at once", 1, [9.0] * 3),
            ("one after another", 16, [3.0] * 3), ("at once", 16, at_once))]}
    assert seeds_vmapped.verdict(row).startswith(words)


@pytest.fixture
def small_images(monkeypatch):
    monkeypatch.setattr(augment_cost, "SHAPE", (32, 32, 3))
    monkeypatch.setattr(augment_cost, "IMAGES", 8)


@pytest.mark.parametrize("aim", [math.inf, -1.0])
def test_augment_cost_writes_its_samples_and_a_verdict(small_images, monkeypatch,
                                                       tmp_path, aim):
    monkeypatch.setattr(augment_cost, "AIM", aim)
    command = [f"--out={tmp_path}", "--batch=2", "--rounds=3", "--only", "the monkeys'"]
    if aim > 0:
        augment_cost.main(command)
    else:
        with pytest.raises(RunError, match="the aim is at most -100 %: missed"):
            augment_cost.main(command)
    results = json.loads((tmp_path / "augment_cost.json").read_text())
    assert results["machine"] and "jax" in results["versions"]
    assert list(results["seconds"]) == ["nothing", "the monkeys'"]
    for samples in results["seconds"].values():
        assert len(samples) == 3 and min(samples) > 0
    assert results["verdict"] in (tmp_path / "augment_cost.txt").read_text()


def test_the_steps_timed_are_augmented(small_images):
    steps, arguments = augment_cost.programs(2, ["nothing", "the monkeys'"])
    (_, plain), (_, augmented) = (step(*arguments) for step in steps.values())
    assert float(plain["loss"][0]) != float(augmented["loss"][0])


@pytest.mark.parametrize("times, met, words", [
    (1.125, True, "adds 12.5 % (12.5 % to 12.5 %) to the step, the aim is at most "
                  "15 %: met"),
    (1.1875, False, "adds 18.8 % (18.8 % to 18.8 %) to the step, the aim is at most "
                    "15 %: missed")])
def test_augmentation_is_judged_by_its_ratio_in_each_round(times, met, words):
    plain = [1.0, 8.0, 2.0]
    found = augment_cost.verdict(
        {"nothing": plain, "the monkeys'": [times * seconds for seconds in plain]})
    assert found == (met, f"the monkeys' augmentation {words}")


def test_what_was_not_measured_is_not_judged():
    met, sentence = augment_cost.verdict({"nothing": [1.0], "flip": [9.0]})
    assert met and "was not measured" in sentence


@pytest.mark.parametrize("experiment, flag, answer", [
    (augment_cost, "--batch=0", "--batch=0: give 1 to 256 images"),
    (augment_cost, "--batch=257", "--batch=257: give 1 to 256 images"),
    (augment_cost, "--rounds=0", "--rounds=0: give 1 or more"),
    (augment_cost, "--out=setup.cfg", "--out=setup.cfg cannot be made"),
    (seeds_vmapped, "--rounds=0", "--rounds=0: give 1 or more"),
    (seeds_vmapped, "--out=setup.cfg", "--out=setup.cfg cannot be made")])
def test_what_they_refuse(monkeypatch, experiment, flag, answer):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(experiment, "measure", None)
    with pytest.raises(InputError, match=answer):
        experiment.main([flag])
