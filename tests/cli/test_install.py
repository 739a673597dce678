"""pip installs the wheel alone, and a clone by `pip install -e`."""

import os
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

import pytest

from cnn_jax.cli import config_file
from cnn_jax.errors import InputError

ROOT = Path(__file__).parents[2]
COPIED = ("cnn_jax", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "main.py")


def run(*command, cwd):
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], cwd=cwd, text=True, capture_output=True,
                          env=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def clone(tmp_path):
    """Makes a clone without its history, in a folder cnn_jax, as git names it."""
    folder = tmp_path / "above" / "cnn_jax"
    folder.mkdir(parents=True)
    for name in COPIED:
        run("cp", "-r", ROOT / name, folder, cwd=ROOT)
    return folder


@pytest.fixture
def python(tmp_path):
    """Makes a new environment that sees the packages of this one; returns its Python.
    """
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "env", cwd=tmp_path)
    packages = next((tmp_path / "env" / "lib").glob("*/site-packages"))
    (packages / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return tmp_path / "env" / "bin" / "python"


def install(python, clone, *options):
    run(python, "-m", "pip", "install", "-q", "--no-deps", "--force-reinstall",
        *options, clone, cwd=clone.parent)


@pytest.mark.slow
def test_a_wheel_alone_has_a_command_a_module_and_the_configs(tmp_path, clone, python):
    install(python, clone)
    where = run(python, "-c", "import cnn_jax; print(cnn_jax.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "env"))
    for command in ([python.with_name("cnn-jax")], [python, "-m", "cnn_jax"]):
        for name in ("lenet.py", "configs/lenet.py"):
            assert "61,706" in run(*command, "--mode=summary", f"--config={name}",
                                   cwd=tmp_path)
    assert "configs/lenet.py" in run(python, "-m", "cnn_jax", "--mode=list",
                                     cwd=tmp_path)


@pytest.mark.slow
def test_a_script_above_an_installed_clone_imports_the_package(clone, python):
    install(python, clone, "-e")
    script = clone.parent / "script.py"
    script.write_text(textwrap.dedent("""
        import cnn_jax
        from cnn_jax import training
        print(cnn_jax.__version__)
    """))
    assert run(python, "script.py", cwd=clone.parent).startswith("0.")


def test_folders_in_which_a_config_is_searched(tmp_path, monkeypatch):
    def argv_of(*argv):
        return config_file.with_found_config(["main.py", *argv])

    monkeypatch.chdir(tmp_path)  # neither a clone nor anything else
    for name in ("configs/lenet.py:mnist", "lenet.py:mnist", "./lenet.py:mnist"):
        path = Path(argv_of(f"--config={name}")[-1].removeprefix("--config="))
        assert path.name == "lenet.py:mnist"
        assert path.with_name("lenet.py").samefile(ROOT / "configs" / "lenet.py")
    # At its position: ml_collections refuses an override before its file.
    for given in (["--config=lenet.py"], ["--config", "lenet.py"]):
        argv = argv_of(*given, "--config.epochs=2")
        assert argv[-1] == "--config.epochs=2" and len(argv) == len(given) + 2
        file = Path(argv[-2].removeprefix("--config="))
        assert file.samefile(ROOT / "configs" / "lenet.py")
    (tmp_path / "lenet.py").write_text("")
    assert argv_of("--config=lenet.py") == ["main.py", "--config=lenet.py"]
    with pytest.raises(InputError) as error:
        argv_of("--config=configs/lenett.py")
    for fact in ("configs/lenett.py", str(ROOT / "configs"), "lenet.py"):
        assert fact in str(error.value)
