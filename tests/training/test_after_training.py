"""A trained run ends normally even if its pictures or its output fail."""

import importlib.util
import io
import os
import shutil
import sys
from pathlib import Path

import pytest
from tests.support.tiny_runs import read_results, tiny

from cnn_jax import training
from cnn_jax.cli import start
from cnn_jax.console import Reporter
from cnn_jax.errors import RunError
from cnn_jax.training import train
from cnn_jax.workdir.machine import machine

pytestmark = pytest.mark.usefixtures("compiled_once")


@pytest.fixture(scope="module")
def undrawn_run(tmp_path_factory, compiled_once):
    """Trains a run that lacks matplotlib at its end: (workdir, results, stderr)."""
    workdir = tmp_path_factory.mktemp("runs") / "undrawn"
    with pytest.MonkeyPatch.context() as patch, io.StringIO() as errors:
        patch.setitem(sys.modules, "matplotlib.figure", None)
        patch.setattr(sys, "stderr", errors)
        results = training.run(tiny(epochs=1), workdir, quiet=True)
        return workdir, results, errors.getvalue()


def test_a_run_without_matplotlib_has_its_results(undrawn_run):
    workdir, results, errors = undrawn_run
    assert read_results(workdir)["test_loss"] == results.test_loss
    assert [*(workdir / "checkpoints").iterdir()]
    assert not (workdir / "report.html").exists()
    assert errors.count("\n") == 1 and "matplotlib" in errors


@pytest.mark.parametrize("error", [
    OSError(28, "No space left on device"), ValueError("bad backend"),
    RunError("picture could not be written")])
def test_errors_of_the_pictures_are_one_line(error, undrawn_run, tmp_path, monkeypatch,
                                             capsys):
    def fail(*_):
        raise error
    workdir = shutil.copytree(undrawn_run[0], tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(train, "draw", fail)
        again = training.run(tiny(epochs=1), workdir)
    output, errors = capsys.readouterr()
    assert again == undrawn_run[1] and str(workdir) in output
    assert errors.count("\n") == 1 and str(error.args[-1]) in errors


def test_a_run_whose_folder_has_vanished_fails(undrawn_run, tmp_path, monkeypatch):
    def lose(run, *_):
        shutil.rmtree(run.workdir)
        raise RunError(f"{run.workdir} could not be written")
    workdir = shutil.copytree(undrawn_run[0], tmp_path / "run")
    monkeypatch.setattr(train, "draw", lose)
    with pytest.raises(RunError, match=str(workdir)):
        training.run(tiny(epochs=1), workdir, quiet=True)


def written_into(file, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stdout", file)
    report = Reporter()
    for text in ("first", "second"):
        report.line(text)
        file.flush()
    file.close()


def test_a_closed_output_does_not_end_a_run(monkeypatch, capsys):
    reader, writer = os.pipe()
    os.close(reader)
    written_into(os.fdopen(writer, "w"), monkeypatch)
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "Broken pipe" in errors


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_a_log_on_a_full_disk_does_not_end_a_run(monkeypatch, capsys):
    written_into(open("/dev/full", "w"), monkeypatch)
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and "No space left" in errors


def test_an_ascii_terminal_gets_escapes(monkeypatch):
    content = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(content, encoding="ascii"))
    Reporter().line("caf\xe9 28 \xd7 28")
    assert content.getvalue() == rb"caf\xe9 28 \xd7 28" + b"\n"


def test_a_missing_drawing_package_is_reported_before_training(
        monkeypatch, capsys):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec",
                        lambda name: find_spec(name) if name != "jinja2" else None)
    with pytest.raises(SystemExit) as caught:
        start.start()
    assert caught.value.code == 2 and "has no jinja2" in capsys.readouterr().err


def test_an_unknown_processor_has_a_name(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError
    monkeypatch.setattr(Path, "read_text", refuse)
    assert "core" in machine()
