"""A killed run resumes; under `-m slow` the fault commands pass with all faults.

See tests/faults/__init__.py. The short version has its own seed.
"""

import json
import os
import re
import shlex

import pytest
from tests.faults import figures
from tests.support.tiny_runs import ROOT, start_module, start_python

from cnn_jax.native import library

pytestmark = pytest.mark.usefixtures("compiled_once")

FULL = {
    "kill_resume": ("--kills=100",),
    "sigterm": ("--n=25",),
    "corrupt": ("--n=200",),
    "disk": ("--allow-missing=1",),
    "fuzz_config": ("--n=500",),
    "surroundings": ("--allow-missing=1",),
    "soak": ("--steps=20000", "--rounds=200"),
}


def run(name: str, *flags: str) -> dict:
    """Runs a fault command; returns the figures of its last line."""
    process = start_module(f"tests.faults.{name}", *flags)
    output, errors = process.communicate()
    print(output)
    assert process.returncode == 0, output[-3000:] + errors[-3000:]
    figures = json.loads(output.splitlines()[-1])
    assert figures.pop("good")
    if missing := figures.get("not tried"):
        pytest.skip(f"passed but for what cannot be tried here: {missing}")
    return figures


def test_a_run_that_is_killed_in_an_open_save_resumes():
    assert run("kill_resume", "--kills=1", "--only=batch norm and dropout", "--seed=11")


def test_the_commands_of_the_figures_name_tests_that_exist():
    for figure in figures.FIGURES.values():
        arguments = shlex.split(figure.command)
        texts = [(ROOT / word).read_text() for word in arguments
                 if word.startswith("tests/")]
        chosen = arguments[arguments.index("-k") + 1] if "-k" in arguments else ""
        for name in chosen.split(" or ") if chosen else ():
            assert re.search(rf"def test_\w*{name}", "".join(texts)), name


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_all_faults(name):
    assert run(name, *FULL[name])


@pytest.mark.slow
def test_malformed_files_take_less_than_a_gibibyte():
    """Measures peak memory, in a process that reads nothing else."""
    with start_python("-m", "pytest", "-n", "0", "-p", "no:cacheprovider",
                      "tests/data/test_malformed_inputs.py") as process:
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, output[-3000:]
    print(f"{usage.ru_maxrss // 1024} MiB: {output.splitlines()[-1]}")
    assert usage.ru_maxrss < 2**20


@pytest.mark.slow
@pytest.mark.parametrize("case", ["three steps a call", "oneDNN"])
def test_twenty_kills_where_every_process_compiles_anew(case):
    if case == "oneDNN" and library.load_onednn() is None:
        pytest.skip(library.describe())
    assert run("kill_resume", "--kills=20", f"--only={case}", "--cache=0")
