"""The documents: every command in them runs, every file they name exists."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from experiments import results_table

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(text: str) -> list[str]:
    """The shell blocks, continued lines joined."""
    found = re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", " ") for block in found]


def commands() -> list[list[str]]:
    """The arguments of every `python main.py` line of the README."""
    lines = [line for block in blocks(README) for line in block.splitlines()]
    found = [shlex.split(line) for line in lines if "main.py" in line]
    assert len(found) >= 9
    assert not re.search(r"[A-Z]+_(ACC|SEC)", README), "a figure is still to come"
    return [words[words.index("main.py") + 1:] for words in found]


def main(arguments, cwd, **environment) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "main.py"), *arguments], cwd=cwd, text=True,
        capture_output=True, timeout=600, env=os.environ | environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder like a checkout, with pictures to classify and one short run."""
    path = tmp_path_factory.mktemp("checkout")
    (path / "configs").symlink_to(ROOT / "configs")
    (path / "photos").mkdir()
    digits = load_digits().images.astype(np.uint8) * 15
    Image.fromarray(digits[0]).resize((50, 70)).save(path / "a.png")
    Image.fromarray(digits[1]).convert("RGB").save(path / "photos" / "b.png")
    done = main([*commands()[0], "--config.epochs=3"], path)
    assert done.returncode == 0, done.stderr
    return path


def test_first_command_says_what_the_readme_says(folder):
    workdir, = (folder / "runs").iterdir()
    results = json.loads((workdir / "results.json").read_text())
    assert results["params"] == 61_706 and results["test_examples"] == 359
    listed = re.findall(r"^\| (`.*?) \|", README, re.MULTILINE)
    names = [name for cell in listed for name in re.findall(r"`([\w./]+)`", cell)]
    assert "config.json" in names and "train/" in names
    for name in names:
        assert (workdir / name).exists(), name


@pytest.mark.parametrize("mode", ["eval", "predict", "weights", "summary",
                                  "report"])
def test_modes_of_the_readme(folder, mode):
    workdir, = (folder / "runs").iterdir()
    words = next(c for c in commands() if f"--mode={mode}" in c)
    words = [re.sub("runs/lenet5-digits-HASH", str(workdir), w) for w in words]
    done = main(words, folder)
    assert done.returncode == 0, done.stderr
    expected = {"eval": "359 examples", "predict": "photos/b.png: ",
                "weights": "weights.npz", "summary": "61,706",
                "report": "report.html"}[mode]
    assert expected in done.stdout


def test_the_config_finds_the_run_in_place_of_the_workdir(folder):
    done = main([*commands()[0], "--config.epochs=3", "--mode=eval"], folder)
    assert done.returncode == 0 and "359 examples" in done.stdout, done.stderr


@pytest.mark.parametrize("word", ["muon", "tanh", "im2col"])
def test_overrides_of_the_readme_train(folder, word):
    words, = (c for c in commands() if any(word in w for w in c))
    done = main([*words, "--config.epochs=1", f"--workdir={folder}/{word}"], folder)
    assert done.returncode == 0, done.stderr


def test_summary_of_a_published_network(folder):
    words, = (c for c in commands() if any("resnet50" in w for w in c))
    done = main(words, folder)
    assert done.returncode == 0 and "25,557,032" in done.stdout, done.stderr


def test_the_first_table_is_that_of_the_results():
    rows = json.loads((ROOT / "measured" / "accuracy" / "RESULTS.json").read_text())
    assert results_table.short(rows) in README


def test_test_command_is_what_ci_runs():
    """.ci/run takes the block after the mark, and the block runs pytest."""
    marked = README.split("<!-- test command -->")[1]
    assert "python -m pytest" in blocks(marked)[0]
    assert "<!-- test command -->" in (ROOT / ".ci" / "run").read_text()


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_named_files_exist(name):
    text = (ROOT / name).read_text()
    files = r"(?:configs|experiments|tests|cnn_jax)/[a-z0-9_/]+\.py"
    for path in re.findall(files, text):
        assert (ROOT / path).exists(), path
