"""The project's style, types, imports, requirements and wheel are right."""

import ast
import configparser
import fnmatch
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "cnn_jax").rglob("*.py"), ROOT / "main.py",
           *(ROOT / "configs").rglob("*.py")]


def test_style():
    done = subprocess.run([sys.executable, "-m", "ruff", "check", "--no-cache"],
                          cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_types():
    """mypy passes with the settings of setup.cfg; .mypy_cache makes it quick."""
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def imports(path: Path) -> Iterator[str]:
    """Yields the full path of every module that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_no_tensorflow_and_no_pytorch():
    for path in SOURCES:
        for name in imports(path):
            assert name.split(".")[0] not in ("tensorflow", "torch", "keras"), path


def test_requirements_cover_the_imports():
    """Every third-party module that is imported is declared in setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    declared = setup["options"]["install_requires"] + "".join(
        setup["options.extras_require"].values())
    names = {"absl": "absl-py", "orbax": "orbax-checkpoint", "sklearn": "scikit-learn",
             "PIL": "pillow", "ml_collections": "ml-collections",
             "tensorflow_datasets": "tensorflow-datasets", "numpy": "jax",
             "jaxlib": "jax", "ml_dtypes": "jax"}
    for path in SOURCES:
        for name in {name.split(".")[0] for name in imports(path)}:
            if name in sys.stdlib_module_names or name in ("cnn_jax", "configs", ""):
                continue
            assert names.get(name, name) in declared, f"{path}: {name}"


def tracked_files() -> list[str]:
    """Lists the files that git tracks and that exist."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True,
                            text=True, check=True).stdout.splitlines()
    return [name for name in listed if (ROOT / name).exists()]


def test_no_file_is_large():
    for name in tracked_files():
        assert (ROOT / name).stat().st_size < 1_000_000, name


def test_every_file_of_the_package_is_of_a_package_or_its_data():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    data = {package: [pattern.strip() for pattern in patterns.split(",")]
            for package, patterns in setup["options.package_data"].items()}
    for name in tracked_files():
        folder = Path(name).parent
        if folder.parts[:1] != ("cnn_jax",):
            continue
        if not name.endswith(".py"):
            while not (ROOT / folder / "__init__.py").exists():
                folder = folder.parent
            inside = str(Path(name).relative_to(folder))
            assert any(fnmatch.fnmatch(inside, pattern)
                       for pattern in data[".".join(folder.parts)]), name
        assert (ROOT / folder / "__init__.py").exists(), name


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_package(tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", ".",
                    "-w", str(tmp_path)], cwd=ROOT, check=True, capture_output=True)
    wheel, = tmp_path.glob("cnn_jax-*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {name for name in tracked_files() if name.startswith("cnn_jax/")} <= packed
    assert not [name for name in packed if name.startswith(("tests/", "experiments/"))]
