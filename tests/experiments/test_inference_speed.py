"""The inference experiment: its table and bad flags."""

import json

import pytest

from cnn_jax.errors import InputError
from experiments import inference


def test_a_line_has_the_median_of_the_ratios():
    line = inference.line_of({"network": "lenet5", "batch": 8, "times": {
        "ours": [.001, .002, .003], "openvino": [.004, .003, .012]}})
    assert line.split() == ["lenet5", "8", "2.00", "4.00", "(2.75-4.00)"]


@pytest.mark.parametrize("argument", [
    "--networks=lenet6", "--arms=openvinci", "--rounds=0"])
def test_refusals(argument, tmp_path):
    with pytest.raises(InputError, match=argument.split("=")[1]):
        inference.main([argument, f"--out={tmp_path}"])
    assert not [*tmp_path.iterdir()]


@pytest.mark.slow
def test_the_engines_have_our_logits(tmp_path):
    pytest.importorskip("onnxruntime")
    inference.main(["--networks=lenet5", "--batches=3", "--arms=unfused,onnxruntime",
                    "--rounds=1", "--turn=0.01", f"--out={tmp_path}"])
    row, = json.loads((tmp_path / "inference.json").read_text())
    assert max(row["error"].values()) < 1e-4
    assert "lenet5" in (tmp_path / "inference.txt").read_text()
