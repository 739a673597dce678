"""The notebooks are stored without outputs, and run from top to bottom."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "experiments").glob("*.ipynb"))
pytestmark = pytest.mark.usefixtures("compiled_once")


def read(name: str):
    return nbformat.read(ROOT / "experiments" / f"{name}.ipynb", as_version=4)


def sources(notebook, kind: str) -> list[str]:
    return [cell.source for cell in notebook.cells if cell.cell_type == kind]


@pytest.fixture
def checkout(tmp_path):
    """Makes a folder like a checkout, so that runs leave nothing in the real one."""
    for name in ("cnn_jax", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "experiments").mkdir()
    for path in (ROOT / "experiments").glob("*.py"):
        (tmp_path / "experiments" / path.name).symlink_to(path)
    return tmp_path


def run(name: str, checkout: Path):
    """Runs a notebook; returns (printed text, number of pictures)."""
    notebook = read(name)
    NotebookClient(notebook, timeout=240, kernel_name="python3", resources={
        "metadata": {"path": str(checkout / "experiments")}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code"
               for output in cell.outputs]
    assert not [o["text"] for o in outputs if o.get("name") == "stderr"]
    pictures = [o for o in outputs if "image/png" in o.get("data", {})]
    # A notebook shows what rich prints as HTML, with the text beside it.
    text = "".join(o["text"] if "text" in o else o["data"]["text/plain"]
                   for o in outputs)
    return text, len(pictures)


def test_the_cells_of_the_quickstart_run(checkout, monkeypatch):
    """They run in this process, with one epoch; the slow test runs them in a kernel."""
    code = "\n".join(sources(read("quickstart"), "code"))
    code = re.sub(r"^%.*$", "", code, flags=re.MULTILINE)
    assert "config.epochs = 10\n" in code
    monkeypatch.chdir(checkout / "experiments")
    monkeypatch.setattr(sys, "path", [*sys.path])
    with mpl.rc_context({"figure.max_open_warning": 0}):
        exec(code.replace("config.epochs = 10\n", "config.epochs = 1\n"),
             values := {})
    assert values["results"].params == 61_706
    assert len(values["answers"]) == len(values["paths"]) == 8
    assert values["maps"].shape[-1] == 16 and len(plt.get_fignums()) == 4
    plt.close("all")


@pytest.mark.slow
def test_quickstart_trains_looks_and_predicts(checkout):
    text, pictures = run("quickstart", checkout)
    assert "epoch 10/10" in text and "61,706" in text
    accuracy, = set(re.findall(r"test: loss: .* accuracy: (\S+) - 359 examples", text))
    assert float(accuracy) > 0.9
    assert len(re.findall(r"digit\d\.png: \d \d+\.\d %, \d ", text)) == 3
    assert pictures == 5  # curves, digits, kernels, two layers' maps
    workdir, = (checkout / "runs").iterdir()
    assert (workdir / "results.json").exists()


@pytest.mark.slow  # the book's pages on the same operations run with every build
def test_operations_agree(checkout, monkeypatch):
    """The cells assert equality; this test reads what they print.

    The kernel compiles as users do: its loop of 10,000 steps takes longer than that.
    """
    monkeypatch.delenv("JAX_DISABLE_MOST_OPTIMIZATIONS")
    monkeypatch.setenv("XLA_FLAGS", "")
    text, pictures = run("operations", checkout)
    assert "[[ 5. 11.]\n [23. 29.]]" in text
    assert "(60, 27) @ (27, 4)" in text
    assert "ordinary 108, separable 39" in text
    assert len(re.findall(r"relative error \de-\d\d", text)) == 5 + 6
    right, wrong = (float(e) for e in re.findall(r"gradient: .*, off by (\S+)", text))
    assert right < 1e-6 and wrong > 1e-3
    assert len(re.findall(r" ms +\d+\.\d\d x lax", text)) == 4
    steps, error = re.search(r"([\d,]+) steps, loss .* kernel (\S+)", text).groups()
    assert steps == "10,000" and float(error) > 0.1
    assert pictures == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_without_outputs_and_in_plain_words(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    for cell in notebook.cells:
        assert cell.source.strip() and cell.metadata == {}
        assert cell.get("outputs", []) == [] and cell.get("execution_count") is None
    text = "\n".join(cell.source for cell in notebook.cells)
    assert not re.search(r"(?<![\w.])/(home|root|tmp|Users|content|work)\b|https?://",
                         text), "a path of one machine, or an address"
    assert not re.search(r"\b(TODO|FIXME|pypi|tensorflow|torch)\b", text, re.I)
    for name in re.findall(r"`([\w/]+\.(?:py|ipynb))`", text):
        assert any((base / name).exists() for base in (ROOT, path.parent)), name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_are_styled(path):
    """ruff accepts all cells as one file, in which imports need not come first."""
    code = "\n\n\n".join(sources(nbformat.read(path, as_version=4), "code"))
    code = re.sub(r"^%.*$", "", code, flags=re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache",
         "--extend-ignore=E303,E305,E402", "-"],
        cwd=ROOT, input=code + "\n", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def setup_cell() -> str:
    cells = {sources(nbformat.read(path, as_version=4), "code")[0]
             for path in NOTEBOOKS}
    source, = cells  # the same in all of them
    return source


@pytest.fixture
def colab(tmp_path, monkeypatch):
    """Imitates Colab: its module, a GPU plugin, an empty folder; records commands."""
    commands = []

    def record(command, check):
        assert check
        commands.append(command)
        if command[0] == "git":
            (tmp_path / command[-1] / "configs").mkdir(parents=True)
            (tmp_path / command[-1] / "configs" / "default.py").touch()

    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(subprocess, "run", record)
    monkeypatch.setattr(importlib.metadata, "distributions", lambda: [
        SimpleNamespace(name=name) for name in (None, "jax", "jax_cuda12_plugin")])
    monkeypatch.chdir(tmp_path)
    return commands


def test_setup_on_colab_clones_and_installs_once(colab, tmp_path):
    source = setup_cell().replace('REPOSITORY = ""', 'REPOSITORY = "address"')
    for _ in range(2):
        exec(source, {})
        assert Path.cwd() == tmp_path / "cnn_jax" and sys.path[0] == os.getcwd()
    clone, install = colab
    assert clone[:2] == ["git", "clone"] and clone[-2:] == ["address", "cnn_jax"]
    assert install[1:] == ["-m", "pip", "install", "-q", "-e", "./cnn_jax",
                           "jax[cuda12]"]


def test_setup_says_what_is_missing(colab, monkeypatch):
    with pytest.raises(ValueError, match="REPOSITORY"):
        exec(setup_cell(), {})
    monkeypatch.delitem(sys.modules, "google.colab")
    with pytest.raises(FileNotFoundError, match="cnn_jax"):
        exec(setup_cell(), {})
    assert not colab
