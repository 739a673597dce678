"""Ray Train's JaxTrainer starts two workers that train one run together."""

import json

import pytest
from tests.support.tiny_runs import ROOT, end, start_python

pytest.importorskip("ray", reason="needs the `ray` extra")


@pytest.mark.slow
def test_two_workers_train_one_run(tmp_path):
    process = start_python(
        ROOT / "experiments" / "ray_train.py", "--config=configs/lenet.py",
        "--config.epochs=2", f"--workdir={tmp_path}", "--workers=2", "--platform=cpu")
    code, output, errors = end(process)
    assert code == 0, errors
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["devices"] == ["cpu: cpu"] * 2 and results["test_examples"] == 359
