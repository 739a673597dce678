"""The map in CONTRIBUTING.md names every room, and imports follow its arrows."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = {"errors", "rng", "files", "console", "download", "huge_pages",
          "installation", "program_cache", "user_code"}


def read_map() -> dict[str, set[str]]:
    """Reads {room: rooms that it may import} from CONTRIBUTING.md."""
    block = (ROOT / "CONTRIBUTING.md").read_text().split("```")[3]
    rows = [line.split("|") for line in block.strip().splitlines()]
    return {row[0].split()[0]: set(row[1].split()) - {"nothing"} for row in rows}


def imported(path: Path) -> Iterator[str]:
    """Yields every module of ours that a file imports, at any depth of the code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args:
            argument = node.args[0]
            if (ast.unparse(node.func).endswith("import_module")
                    and isinstance(argument, ast.Constant)):
                yield str(argument.value)


def room_of(name: str) -> str:
    """Maps `cnn_jax.ops.conv.fft` to `ops`."""
    return name.split(".")[1]


def files() -> Iterator[tuple[str, Path]]:
    """Yields (room, file) for every module of the package."""
    for path in sorted((ROOT / "cnn_jax").rglob("*.py")):
        inside = path.relative_to(ROOT / "cnn_jax").with_suffix("")
        if inside.parts[0] not in ("__init__", "__main__"):
            yield inside.parts[0], path


@pytest.mark.parametrize("source", [
    "import cnn_jax.native", "from cnn_jax import native",
    "def load():\n    from cnn_jax import native",
    "import importlib\nimportlib.import_module('cnn_jax.native')",
    "from importlib import import_module\nimport_module('cnn_jax.native')"])
def test_the_scan_finds(tmp_path, source):
    (tmp_path / "module.py").write_text(source)
    assert "cnn_jax.native" in imported(tmp_path / "module.py")


def test_the_map_names_every_room():
    assert {room for room, _ in files()} == set(read_map()) | SHARED


def test_the_map_has_no_circle():
    graphlib.TopologicalSorter(read_map()).prepare()  # raises CycleError


def test_imports_are_the_arrows_of_the_map():
    arrows: dict[str, set[str]] = {room: set() for room in read_map()}
    for room, path in files():
        for name in imported(path):
            if not name.startswith("cnn_jax.") or name.startswith("cnn_jax.__"):
                continue
            other = room_of(name)
            assert room != "ops" or other == "ops", (path, name)
            if room in SHARED:
                assert other in SHARED, (path, name)
            elif other not in SHARED | {room}:
                assert other in read_map()[room], f"{path} imports {name}"
                arrows[room].add(other)
    assert arrows == read_map()  # each arrow of the map has an import


def test_only_one_file_of_training_draws():
    for room, path in files():
        if room == "training" and path.name != "train.py":
            assert not any(name.startswith("cnn_jax.inspection")
                           for name in imported(path)), path


def test_ops_import_jax_alone():
    for path in (ROOT / "cnn_jax" / "ops").rglob("*.py"):
        for name in imported(path):
            assert not name.startswith(("flax", "optax")), path


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def loaded(importer: str, target: str, modules: set[str]) -> set[str]:
    """Returns the modules that an import runs: the target and packages around it.

    A package around the importer is not run for it.
    """
    if target not in modules:  # an attribute
        target = target.rpartition(".")[0]
    parts = target.split(".")
    around = {".".join(parts[:n]) for n in range(1, len(parts))}
    return {target} | {package for package in around
                       if not f"{importer}.".startswith(f"{package}.")}


def test_no_room_holds_a_circle_of_modules():
    paths = {module_name(path): path for path in (ROOT / "cnn_jax").rglob("*.py")}
    graphlib.TopologicalSorter({
        name: {other for target in imported(path) if target.startswith("cnn_jax")
               for other in loaded(name, target, {*paths})}
        for name, path in paths.items()}).prepare()  # raises CycleError
