"""What the program imports before it trains."""

import json
import os
import subprocess
import sys

import pytest

# Each would take from one to several seconds.
SLOW = "keras", "pandas", "scipy.stats", "sklearn", "tensorflow", "torch"
SCRIPT = f"""
import json, sys
import cnn_jax.cli.program
from cnn_jax import data
from configs.lenet import get_config
data.load(get_config().data, seed=0)
print(json.dumps([name for name in {SLOW} if name in sys.modules]))
"""


@pytest.mark.parametrize("installed", [(), ("tensorflow", "torch")])
def test_slow_packages_are_not_imported(installed, tmp_path):
    for name in installed:
        (tmp_path / f"{name}.py").write_text("Tensor = None\n")
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True,
                          text=True, env=os.environ | {"PYTHONPATH": path})
    assert json.loads(done.stdout) == [], done.stderr
