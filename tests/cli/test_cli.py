"""Command lines that cannot be run end with one line and exit code 2."""

import configparser
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cnn_jax import data, networks, ops
from cnn_jax.cli import commands, config_file, explain
from cnn_jax.cli.listing import print_piped
from cnn_jax.console import Reporter
from cnn_jax.installation import install_command
from cnn_jax.optimizers import OPTIMIZERS, SCHEDULES
from tests.support import forked

ROOT = Path(__file__).parents[2]
BAD = [
    ([], "needs --config"),
    (["--config=configs/nope.py"], "configs holds cifar10.py, default.py, "),
    (["--config=nope.py"], "configs holds cifar10.py, default.py, "),
    (["--config=nowhere/nope.py"], "cnn_jax/configs/nowhere/nope.py\n"),
    (["--config=configs/lenet.py:mnst"],
     "configs/lenet.py:mnst is not a variant; there are digits, mnist, fashion_mnist, "
     "cifar10"),
    (["--config=configs/lenet.py", "--config.batch_szie=3"], "config.batch_size?"),
    (["--config=configs/lenet.py", "--config.data.nmae=mnist"], "config.data.name?"),
    (["--config=configs/lenet.py", "--config.batch_size=1.5"], "1.5"),
    (["--config=configs/lenet.py", "--config.optimizer.learning_rate=nan"],
     "config.optimizer.learning_rate = nan"),
    (["--config=configs/lenet.py", "--config.model.fields.activation=tahn"], "tanh"),
    (["--config=configs/lenet.py", "--config.batch_size=2000"], "1294"),
    (["--config=configs/lenet.py", "--lr=3"], "--config.optimizer.learning_rate=VALUE"),
    (["--config=configs/lenet.py", "--config.lr=3"], "config.optimizer.learning_rate?"),
    (["--config=configs/lenet.py", "--config.data.img_size=3"],
     "config.data.image_size?"),
    (["--config=configs/lenet.py", "--config.weight_decay=3"],
     "config.optimizer.weight_decay?"),
    (["--config=configs/lenet.py", "--config.workdir=x"], "--workdir?"),
    (["--config=configs/lenet.py", "--config.mode=eval"], "--mode?"),
    (["--workdir=nowhere"], "nowhere/config.json does not exist"),
    (["--config=configs/lenet.py", "--empty=all"], "--mode=caches"),
    (["--config=configs/lenet.py", "--rates=3"], "--mode=lr_find"),
    (["--config=configs/lenet.py", "--seed=3"],
     "--seed is a field of configs: --config.seed=VALUE"),
    (["--config=configs/lenet.py", "--port=five"],
     "--port=five is not allowed: must be an integer in the range [0, 65535]"),
    (["--config=configs/lenet.py", "--config.epochs=two"],
     "--config.epochs=two is not allowed: must be an integer"),
    (["--config=configs/lenet.py", "--config.optimizer.momentum=high"],
     "--config.optimizer.momentum=high is not allowed: must be a number"),
    (["--config=configs/lenet.py", "extra"], "'extra'"),
    (["--config=configs/lenet.py", "--mode=trian"], "eval, predict"),
    (["--mode=eval", "--workdir=nowhere"], "nowhere/config.json does not exist"),
    (["--mode=predict", "--workdir=nowhere"], "--images"),
    (["--mode=weights"], "--workdir=FOLDER"),
    (["--mode=describe", "nowhere"], "nowhere/config.json does not exist"),
    (["--mode=report", "--workdir=nowhere"], "nowhere/config.json does not exist"),
    (["--mode=compare", "tests"], "at least two runs, not 1"),
    (["--mode=compare", "tests", "configs"], "tests is not the folder of a run"),
    (["--config="], "--config="),
    (["--config=configs"], "--config=configs"),
    (["--config=configs/lenet.py", "--config.model.fields.foo=1"],
     "config.model.fields.foo"),
    (["--config=configs/default.py", "--config.model.fields.width=0.5"],
     "config.model.fields.width: --config=configs/default.py"),
    (["--config=configs/network.py:mobilenet_v1", "--mode=summary",
      "--config.model.fields.width=0.01"], "width must be from 1/32 to 32, not 0.01"),
    (["--config=configs/lenet.py", "--config.data.image_size=(4000,4000)",
      "--config.data.stream=false"], "GiB"),
    (["--config=configs/lenet.py", "--config.coordinator=auto"], "coordinator"),
]


@pytest.fixture
def main(tmp_path_factory):
    """Runs a command line in a forked process whose imports are done."""
    def run(arguments, **options) -> forked.Completed:
        return forked.main(arguments, tmp_path_factory.mktemp("output"), **options)
    return run


def test_main_py_in_a_new_process():
    """It imports everything itself and restarts with huge pages."""
    done = subprocess.run([sys.executable, "main.py", "--mode=weights"], cwd=ROOT,
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "--workdir=FOLDER" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout


OLD_PYTHON = """
import runpy, sys
sys.version_info = (3, 10, 12, "final", 0)
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("arguments, facts", [
    (["-S", "main.py"], ["no absl, jax"]),
    (["-S", "-m", "cnn_jax.sweep", "configs/lenet.py"], ["no absl, jax"]),
    (["-S", "-m", "cnn_jax.pack", "photos", "packed"], ["no absl, jax"]),
    (["-S", "-m", "cnn_jax.native.build"], ["no absl, jax"]),
    (["-c", OLD_PYTHON, "cnn_jax"], ["too old"]),
    (["-c", OLD_PYTHON, "cnn_jax.sweep"], ["too old"]),
    (["-c", OLD_PYTHON, "cnn_jax.pack"], ["too old"])])
def test_one_line_says_what_to_install(arguments, facts):
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT,
                          capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    for fact in (*facts, "Python 3.11", f"pip install -e {ROOT}"):
        assert fact in done.stderr


@pytest.mark.parametrize("module", ["cnn_jax", "cnn_jax.sweep", "cnn_jax.pack"])
def test_ctrl_c_during_the_imports_prints_nothing(tmp_path, module):
    for name in ("numpy", "ml_collections"):
        (tmp_path / f"{name}.py").write_text(
            "import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, "-m", module, "configs/lenet.py", "out"], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "CNN_JAX_HUGE_PAGES": "0"})
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT and errors == ""


def interrupted_while_compiling():
    """Imitates XLA, which goes on in its thread after Ctrl-C."""
    def run(request):
        threading.Thread(target=time.sleep, args=(120,)).start()
        raise KeyboardInterrupt
    commands.run = run


def test_ctrl_c_ends_a_run_at_once(main):
    begun = time.monotonic()
    done = main(["--config=configs/lenet.py"], before=interrupted_while_compiling)
    assert done.returncode == 130 and time.monotonic() - begun < 100
    assert done.stderr.startswith("cnn_jax: ") and done.stderr.count("\n") == 1


def test_a_slow_block_is_named_without_a_terminal(capsys):
    for after in (60.0, 0.05):
        with Reporter().under_way(f"slow after {after}", plain=False, after=after):
            time.sleep(0.3)
    assert capsys.readouterr().out == "slow after 0.05 ...\n"


def test_commands_that_install_extras_need_no_clone():
    """Each extra that a message names exists."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    texts = [path.read_text() for folder in ("cnn_jax", "experiments")
             for path in (ROOT / folder).rglob("*.py")]
    named = {extra for text in texts
             for extras in re.findall(r"install_command\(['\"]([\w,]+)['\"]", text)
             for extra in extras.split(",")}
    assert named and named <= {*parser["options.extras_require"]}
    assert install_command("export") == "pip install 'cnn_jax[export]'"


@pytest.mark.parametrize("error, fact", [
    (MemoryError("Unable to allocate 18.6 GiB for an array with shape (5000000000,)"),
     "18.6 GiB"),
    (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 40448528592 bytes."),
     "37.7 GiB"),
    (RuntimeError("RESOURCE_EXHAUSTED: Allocation failed."), "batch_size")])
def test_out_of_memory_errors_name_a_remedy(error, fact):
    reason = explain.out_of_memory(error)
    for text in (fact, "out of memory", "batch_size", "accumulate_steps", "remat"):
        assert text in reason
    assert explain.out_of_memory(RuntimeError("INTERNAL: something else")) is None


def test_a_platform_that_jax_lacks_is_named(monkeypatch):
    def reason(file):
        try:
            exec(compile("assert False", file, "exec"))
        except AssertionError as error:
            return explain.no_device(error)

    for platform, extra in (("cuda", "jax[cuda12]"), ("tpu,cpu", "jax[tpu]")):
        monkeypatch.setenv("JAX_PLATFORMS", platform)
        text = reason("jax/_src/xla_bridge.py")
        assert f"JAX_PLATFORMS={platform}" in text and extra in text
    monkeypatch.setenv("JAX_PLATFORMS", "metal")
    assert "jax[" not in reason("jax/_src/xla_bridge.py")
    assert reason("elsewhere.py") is None


@pytest.mark.parametrize("arguments,fact", BAD)
def test_bad_command_is_one_line_and_code_2(main, arguments, fact):
    runs = set((ROOT / "runs").glob("*"))
    done = main(arguments)
    assert done.returncode == 2, done.stderr
    assert fact in done.stderr and done.stderr.count("\n") == 1, done.stderr
    assert not done.stdout  # not even a line about compiling
    assert set((ROOT / "runs").glob("*")) == runs  # no new workdir


@pytest.mark.parametrize("text,facts", [
    ("import nothing_like_this", ["broken.py:1: ModuleNotFoundError: ",
                                  "nothing_like_this"]),
    ("def get_config(:", ["not Python", "broken.py, line 1"]),
    ("def get_config():\n    return 1 / 0", ["broken.py:2: ZeroDivisionError: "]),
    ("def get_config():\n    return {}['foo']", ["broken.py:2: KeyError: 'foo'"]),
    ("def get_config():\n    raise ValueError('a\\nb')",
     ["broken.py:2: ValueError: a b"]),
    ("from configs import default\ndef get_config():\n    c = default.get_config()\n"
     "    c.nothing_like_this = 1\n    return c",
     ["broken.py:4: ", "nothing_like_this"]),
    ("x = 1", ["get_config"]),
])
def test_errors_inside_a_config_file_are_reported(main, tmp_path, text, facts):
    path = tmp_path / "broken.py"
    path.write_text(text)
    done = main([f"--config={path}"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    assert all(fact in done.stderr for fact in facts), done.stderr


def test_fields_of_a_network_that_a_flag_replaces_are_reset(main):
    done = main(["--config=configs/lenet.py", "--config.model.name=resnet18",
                 "--mode=summary"])
    assert done.returncode == 0 and "11,689,512" in done.stdout, done.stderr
    note = done.stdout.splitlines()[0]
    assert not done.stderr
    for fact in ("resnet18", "activation", "pool"):
        assert fact in note
    done = main(["--config=configs/lenet.py", "--config.model.name=lenet5_1998",
                 "--config.model.fields.pool=mean"])
    assert done.returncode == 2 and "lenet5_1998" in done.stderr


def test_every_name_is_listed(main):
    done = main(["--mode=list"])
    assert done.returncode == 0 and not done.stderr
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert not re.findall(r"^  \S+ \S.*$", done.stdout, re.MULTILINE)  # a narrow gap
    rows = dict(line.split(maxsplit=1) for line in done.stdout.splitlines()
                if re.match(r"  \w", line))
    assert rows.keys() >= {*networks.NETWORKS, *data.SOURCES, *OPTIMIZERS, *SCHEDULES,
                           *ops.ALGORITHMS, *ops.POOLS, "batch_norm",
                           "configs/lenet.py"}
    assert rows["resnet50"].startswith("224 x 224 x 3")
    words = set(done.stdout.replace(",", " ").split())
    assert {"configs/lenet.py", "digits", "tfds:NAME", "auto", "adamw", "onecycle",
            "torchvision:NAME", *networks.NETWORKS} <= words
    assert not {"workdir.py", "configs/workdir.py"} & words


def test_the_reader_of_the_output_may_close_it(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        print_piped("text")
        print("what Python flushes at its end", flush=True)


def test_an_unknown_data_set_shows_the_nearest_names(main):
    done = main(["--config=configs/lenet.py", "--config.data.name=cifar"])
    assert done.returncode == 2 and "cifar10?" in done.stderr
    done = main(["--config=configs/lenet.py", "--config.data.name=shapes"])
    assert sum(f"{name} or" in done.stderr for name in data.SOURCES) >= 2


def test_an_unknown_network_shows_the_nearest_names_and_the_list(main):
    done = main(["--config=configs/lenet.py", "--config.model.name=resnet5"])
    assert done.returncode == 2 and "--mode=list" in done.stderr
    assert sum(name in done.stderr for name in networks.NETWORKS) >= 4


def test_summary_needs_no_data(main, tmp_path):
    done = main(["--mode=summary", "--config=configs/lenet.py:cifar10",
                 f"--config.data.dir={tmp_path}/none"])
    assert done.returncode == 0, done.stderr
    assert "62,006" in done.stdout


def test_a_folder_of_runs_names_one_of_them(main, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    done = main(["--mode=eval", f"--workdir={tmp_path}"])
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert str(tmp_path / "b") in done.stderr


@pytest.mark.parametrize("line, config", [
    ("--mode=inspect --workdir=runs/a --config.inspect.images=3", "runs/a"),
    ("--workdir runs/a --config.seed 3", "runs/a"),
    ("--workdir=runs/a", None),
    ("--config.seed=3", None),
    ("--config=configs/lenet.py --workdir=runs/a --config.seed=3", None)])
def test_fields_without_a_config_are_those_of_the_workdir(line, config):
    argv = ["main.py", *line.split()]
    expected = argv if config is None else [
        argv[0], f"--config={ROOT}/cnn_jax/configs/workdir.py:{config}", *argv[1:]]
    assert config_file.with_config_of_run(argv) == expected
