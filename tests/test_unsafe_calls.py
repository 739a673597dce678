"""What is shipped has no call that runs code from a file or writes outside a folder."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [*(ROOT / "cnn_jax").rglob("*.py"), ROOT / "main.py",
           *(ROOT / "configs").rglob("*.py")]
# Any name from these, under whatever name it was imported.
MODULES = {"pickle": {"load", "loads"}, "marshal": {"load", "loads"},
           "shelve": {"open"}, "dill": None, "joblib": {"load"}, "cloudpickle": None,
           "runpy": None, "code": None, "os": {"system", "popen"},
           "importlib": {"import_module"}, "yaml": {"load", "unsafe_load"}}
BUILTINS = {"eval", "exec", "compile", "__import__"}
ARGUMENTS = {("allow_pickle", "True"), ("strict", "False"), ("shell", "True"),
             ("weights_only", "False")}


def unsafe_calls(source: str) -> list[str]:
    """Every call that is banned, as 'line: call'."""
    tree, names, found = ast.parse(source), {}, []
    for node in ast.walk(tree):  # what each local name stands for
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name): alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {(alias.asname or alias.name): f"{node.module}.{alias.name}"
                      for alias in node.names}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        head, _, rest = ast.unparse(node.func).partition(".")
        path = names.get(head, head) + ("." + rest if rest else "")
        module, _, attribute = path.partition(".")
        banned = MODULES.get(module, ())
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
        if (path in BUILTINS or banned is None or attribute in banned
                or ARGUMENTS & set(keywords.items())
                or attribute.endswith(("extractall", "extract"))
                and keywords.get("filter") != "'data'"
                or path.endswith("numpy.load") and keywords.get("allow_pickle")
                != "False"):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_unsafe_calls():
    found = {str(path): unsafe_calls(path.read_text()) for path in SOURCES}
    assert len(found) > 50 and not any(found.values()), {
        path: calls for path, calls in found.items() if calls}


@pytest.mark.parametrize("line", [
    "import pickle; pickle.load(f)", "from pickle import loads as l; l(b)",
    "import pickle as p; p.loads(b)", "eval('1')", "exec(text)", "compile(t, '', 'x')",
    "__import__(name)", "import marshal; marshal.loads(b)", "import dill; dill.load(f)",
    "import joblib; joblib.load(p)", "import numpy as np; np.load(p)",
    "import numpy as np; np.load(p, allow_pickle=True)", "archive.extractall(p)",
    "archive.extractall(p, filter='tar')", "archive.extract(member, p)",
    "restore(p, strict=False)", "import subprocess; subprocess.run(c, shell=True)",
    "import os; os.system(c)", "import yaml; yaml.load(t)",
    "torch.load(p, weights_only=False)", "import runpy; runpy.run_path(p)"])
def test_the_scan_sees_each_of_them(line):
    assert len(unsafe_calls(line)) == 1, line


@pytest.mark.parametrize("line", [
    "archive.extractall(p, filter='data')", "model.eval(x)", "step.compile()",
    "import numpy as np; np.load(p, allow_pickle=False)", "import re; re.compile(p)",
    "import os; os.path.join(a, b)", "import json; json.load(f)"])
def test_the_scan_leaves_the_harmless_alone(line):
    assert unsafe_calls(line) == []
