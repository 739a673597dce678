"""What is shipped has no call that runs code from a file or writes outside a folder."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = [*(ROOT / "cnn_jax").rglob("*.py"), ROOT / "main.py",
           *(ROOT / "configs").rglob("*.py")]
STARTS = {"system", "popen", "posix_spawn", "posix_spawnp", "startfile"} | {
    kind + how for kind in ("exec", "spawn") for how in (
        "l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}
SHELLS = {"sh", "bash", "dash", "zsh", "ksh", "cmd", "cmd.exe", "powershell"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
# Any name from these, under whatever name it was imported.
MODULES = {"pickle": None, "_pickle": None, "marshal": None,
           "shelve": {"open"}, "dill": None, "joblib": {"load"}, "cloudpickle": None,
           "runpy": None, "code": None, "os": STARTS,
           "importlib": {"import_module"}, "pandas": {"read_pickle"},
           "yaml": {"load", "load_all", "unsafe_load", "unsafe_load_all", "full_load",
                    "full_load_all", "Loader", "UnsafeLoader", "FullLoader"},
           "shutil": {"unpack_archive"}, "torch": {"load"},
           "subprocess": {"getoutput", "getstatusoutput"},
           "builtins": BUILTINS}
# What they must be wherever they are given: 1 is as true as True.
ARGUMENTS = {"allow_pickle": "False", "strict": "True", "shell": "False",
             "weights_only": "True"}
# main.py starts itself again, with the same interpreter and command line.
ALLOWED = {ROOT / "cnn_jax" / "malloc.py": "os.execv"}


def unsafe_calls(source: str) -> list[str]:
    """Every use of a banned name and every banned call, as 'line: code'."""
    tree, names, found = ast.parse(source), {}, []
    for node in ast.walk(tree):  # what each local name stands for
        if isinstance(node, ast.Import):
            names |= {(alias.asname or alias.name): alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {(alias.asname or alias.name): f"{node.module}.{alias.name}"
                      for alias in node.names}
    known = {id(base) for node in ast.walk(tree) if isinstance(node, ast.ClassDef)
             and any(getattr(part, "name", "") == "find_class" for part in node.body)
             for base in node.bases}  # which decides itself what may be called

    def path_of(node):
        head, _, rest = ast.unparse(node).partition(".")
        return names.get(head, head) + ("." + rest if rest else "")

    def is_shell(node):  # the first word of a command
        return isinstance(node, ast.Constant) and str(node.value).rpartition("/")[
            2] in SHELLS

    for node in ast.walk(tree):
        if (isinstance(node, ast.Attribute) and node.attr == "exec_module"
                or isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
                and node.func.attr == "find_class"  # which hands on to pickle's own
                or isinstance(node, (ast.List, ast.Tuple)) and node.elts
                and is_shell(node.elts[0])):
            found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, (ast.Name, ast.Attribute)) and id(node) not in known:
            path = path_of(node)
            module, _, attribute = path.partition(".")
            banned = MODULES.get(module, ())
            if path in BUILTINS or attribute.isidentifier() and (
                    banned is None or attribute in banned):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        if isinstance(node, ast.Call):
            path = path_of(node.func)
            attribute = path.partition(".")[2]
            keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
            if (any(keywords.get(name, safe) != safe
                    for name, safe in ARGUMENTS.items())
                    or attribute.endswith(("extractall", "extract"))
                    and keywords.get("filter") != "'data'"
                    or path.endswith(("numpy.load", ".read_array"))
                    and keywords.get("allow_pickle") != "False"):
                found.append(f"{node.lineno}: {ast.unparse(node)}")
    return found


def test_no_unsafe_calls():
    found = {str(path): [call for call in unsafe_calls(path.read_text())
                         if ALLOWED.get(path) not in call.split(": ")]
             for path in SOURCES}
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
    "import subprocess; subprocess.run(c, shell=1)", "load(p, allow_pickle=1)",
    "restore(p, strict=0)", "zip(a, b, strict=flag)", "import os; os.system(c)",
    "import os; os.execv(p, c)", "from os import spawnlp; spawnlp(0, p)",
    "import yaml; yaml.load(t)",
    "import torch; torch.load(p)", "restore(p, weights_only=False)",
    "import pickle; pickle.Unpickler(f).load()",
    "from pickle import loads; map(loads, b)",
    "import _pickle; _pickle.loads(b)", "import builtins; builtins.eval(t)",
    "import shutil; shutil.unpack_archive(p)", "map(eval, lines)",
    "import subprocess; subprocess.getoutput(c)",
    "import pickle\nclass A(pickle.Unpickler): pass",
    "import runpy; runpy.run_path(p)", "spec.loader.exec_module(m)",
    "import pandas as pd; pd.read_pickle(p)", "import yaml; yaml.load_all(t)",
    "import yaml; map(yaml.full_load, t)", "super().find_class(module, name)",
    "import subprocess; subprocess.run(['sh', '-c', c])",
    "import subprocess; subprocess.run(('/bin/bash', '-c', c))",
    "from numpy.lib import format as f; f.read_array(s)",
    "from numpy.lib import format as f; f.read_array(s, True)"])
def test_the_scan_sees_each_of_them(line):
    assert len(unsafe_calls(line)) == 1, line


@pytest.mark.parametrize("line", [
    "archive.extractall(p, filter='data')", "zip(a, b, strict=True)",
    "model.eval(x)", "step.compile()",
    "import numpy as np; np.load(p, allow_pickle=False)", "import re; re.compile(p)",
    "import os; os.path.join(a, b)", "import json; json.load(f)",
    "import yaml; yaml.safe_load(t)", "names = ['a', 'sh']",
    "from numpy.lib import format as f; f.read_array(s, allow_pickle=False)"])
def test_the_scan_leaves_the_harmless_alone(line):
    assert unsafe_calls(line) == []
