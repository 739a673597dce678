"""The documents name only files that exist; README has the table of the results."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import data
from cnn_jax.configs import lenet
from cnn_jax.training import train
from experiments import results_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_first_table_is_that_of_the_results():
    rows = json.loads((ROOT / "measured" / "accuracy" / "RESULTS.json").read_text())
    assert results_table.short(rows) in README


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 150


def test_test_command_is_what_ci_runs():
    """.ci/run takes the block after the mark, and the block runs pytest."""
    _, _, marked = README.partition("<!-- test command -->")
    block, = re.findall(r"^```bash\n(.*?)^```", marked, re.MULTILINE | re.DOTALL)[:1]
    assert "python -m pytest" in block
    assert "block 'test command' README.md" in (ROOT / ".ci" / "run").read_text()


def test_the_python_block_runs(tmp_path, monkeypatch, compiled_once):
    """It trains one epoch on few images, and draws nothing."""
    get_config = lenet.get_config

    def short(variant):
        config = get_config(variant)
        config.epochs, config.data.limit = 1, 96
        return config

    monkeypatch.setattr(lenet, "get_config", short)
    monkeypatch.setattr(train, "draw", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    block, = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    random = np.random.default_rng(0)
    values = {"images": random.integers(0, 256, (150, 20, 30, 1), np.uint8),
              "labels": np.arange(150) % 10}
    with pytest.warns(match="20 x 30 x 1.* 28 x 28 x 1"):
        exec(block, values)
    assert values["results"].params == 61_706
    for name in ("first", "own"):
        assert (tmp_path / "runs" / name / "results.json").exists()


@pytest.mark.parametrize("path", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"),
                                  *(ROOT / "measured").rglob("*.md")],
                         ids=lambda path: str(path.relative_to(ROOT)))
def test_named_files_exist(path):
    text = path.read_text()
    files = r"(?:configs|experiments|tests|cnn_jax|measured)/[a-z0-9_/]+\.[a-z]+"
    for name in re.findall(files, text):
        assert (ROOT / name).exists(), name


def test_the_page_of_the_data_lists_every_set():
    table = (ROOT / "docs" / "howto" / "data.md").read_text().split("\n\n")[2]
    listed = {name for row in table.splitlines()[2:]
              for name in re.findall(r"`([\w:]+)`", row.split("|")[1])}
    own = {name for name in data.SOURCES if name.startswith("arrays")}
    assert listed == {*data.SOURCES, "tfds:NAME"} - own
