"""The experiment on large sets makes, measures and removes them."""

import json

import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import InputError
from experiments import scale


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 256, (60, 80, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    return folder


@pytest.mark.slow
def test_scale_measures_each_kind_and_cleans_up(photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(scale, "READS", 5)
    monkeypatch.setattr(scale, "BATCH", 8)
    monkeypatch.setattr(scale, "NETWORK", "lenet5")
    monkeypatch.setattr(scale, "open_in_new_process",
                        lambda kind, folder, _: scale.open_once(kind, str(folder)))
    out = tmp_path / "out"
    scale.main([f"--photos={photos}", f"--out={out}", "--counts=40", "--classes=4",
                "--rounds=2"])
    results = json.loads((out / "scale.json").read_text())
    assert [(row["kind"], row["count"]) for row in results["rows"]] == [
        (kind, 40) for kind in scale.KINDS]
    for row in results["rows"]:
        assert row["first"] > 0 and row["pickle"] > 0 and len(row["again"]) == 2
        assert min(row["step"]) > 1 and min(row["process"]) > 1e8
    text = (out / "scale.txt").read_text()
    assert text == scale.table(results) and text in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["scale.json", "scale.txt"]


@pytest.mark.parametrize("argv, fact", [
    (["--classes=1"], "--classes"), (["--counts", "5"], "--counts"),
    (["--rounds=0"], "--rounds"), (["--photos=nowhere"], "nowhere")])
def test_flags_that_are_refused(tmp_path, monkeypatch, argv, fact):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=fact):
        scale.main(argv)
    assert not (tmp_path / "runs").exists()
