"""A run is read back from its workdir."""

import json
from pathlib import Path

import numpy as np
import pytest
from tests.support.tiny_runs import save_run, tiny, untrained

from cnn_jax.errors import InputError
from cnn_jax.workdir import trained


def test_a_run_comes_back_and_averages_are_preferred(tmp_path, monkeypatch):
    run = untrained(tiny(), (8, 8, 1), tuple("0123456789"))
    averages = {f"ema_{name}": tree for name, tree in run.variables.items()}
    zeros = {"params": {"head": {"bias": np.zeros(10, np.float32)}}, "batch_stats": {}}
    save_run(tmp_path, run.config, run.info, zeros | averages)
    monkeypatch.chdir(tmp_path.parent)
    loaded = trained.load(Path(tmp_path.name))  # orbax itself refuses relative paths
    np.testing.assert_array_equal(loaded.variables["params"]["head"]["kernel"],
                                  run.variables["params"]["head"]["kernel"])
    assert (loaded.info, loaded.step, loaded.network) == (run.info, 7, run.network)
    assert [row["epoch"] for row in loaded.history] == [1]


def test_parameters_of_another_network_are_refused_by_leaf(tmp_path):
    run = untrained(tiny(), (8, 8, 1), tuple("0123456789"))
    save_run(tmp_path, run.config, run.info, run.variables)
    values = json.loads((tmp_path / "config.json").read_text())
    values["model"]["num_classes"] = 12
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"head/bias.*\[12\].*\[10\]"):
        trained.load(tmp_path)
