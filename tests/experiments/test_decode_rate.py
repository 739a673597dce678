"""The decoding experiment times its arms in turn."""

import json

import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import InputError
from experiments import decode_rate


@pytest.fixture
def photos(tmp_path):
    for number in range(70):
        folder = tmp_path / "photos" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return tmp_path / "photos"


@pytest.mark.slow
def test_it_times_each_arm(photos, tmp_path, capsys):
    arms = ["ours, threads", "ours, processes"]
    decode_rate.main([f"--photos={photos}", f"--out={tmp_path / 'out'}", "--rounds=2",
                      "--images=130", "--size=16", "--cores=2", "--only", *arms])
    results = json.loads((tmp_path / "out" / "decode_rate.json").read_text())
    assert results["photos"] == 70 and results["images"] == 128
    assert [*results["rates"]] == arms
    assert all(len(rates) == 2 and min(rates) > 0
               for rates in results["rates"].values())
    text = (tmp_path / "out" / "decode_rate.txt").read_text()
    assert text == decode_rate.table(results) and text in capsys.readouterr().out


@pytest.mark.parametrize("argv, fact", [
    (["--rounds=0"], "--rounds"), (["--images=63"], "--images"),
    (["--photos=nowhere"], "nowhere")])
def test_flags_that_are_refused(tmp_path, monkeypatch, argv, fact):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=fact):
        decode_rate.main(argv)
    assert not (tmp_path / "runs").exists()
