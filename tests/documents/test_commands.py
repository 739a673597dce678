"""Every command in the documents is run here or by the test that its row names."""

import functools
import json
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from cnn_jax.huge_pages import TUNABLES
from tests.support import forked
from tests.support.tiny_runs import undrawn

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md",
             *sorted((ROOT / "docs").rglob("*.md"))]
HASH = "runs/lenet5-digits-HASH"
QUICK = ["--config.epochs=1", "--config.data.limit=96", "--config.batch_size=32"]

# {part of a command: (arguments that make it short, what it must print)}.
HERE = {
    "--config.optimizer.name=muon": (QUICK, "test: loss"),
    "--config.model.conv=im2col": (QUICK, "test: loss"),
    "--mode=summary --config=configs/default.py": ([], "25,557,032"),
    "--config=configs/network.py:mobilenet_v1": ([], "1,3"),
    "--mode=eval --config=": (QUICK, "359 examples"),
    "--mode=eval --workdir": ([], "359 examples"),
    "--mode=predict": ([], "photos/b.png: "),
    "--mode=weights": ([], "weights.npz"),
    "--config.inspect.only=": (["--config.inspect.only=kernels"], "1 picture in"),
    "--mode=inspect": (["--config.inspect.only=error_analysis"],
                       "pictures in"),
    "--mode=report": ([], "report.html"),
    "--format=stablehlo,onnx": ([], "model.onnx"),
    "--mode=compare": ([], "compare.html"),
    "--mode=overlays": ([], "overlays.png"),
    "--mode=show_data": ([], "data.png"),
    "--config=configs/segmentation.py": (QUICK, "test: loss"),
    "--config=configs/multilabel.py": (QUICK, "test: loss"),
    "main.py --config=configs/lenet.py": (QUICK, "test: loss"),
}
# Run under -m slow: other tests of a command cover what these add to it.
SLOW = {"--config.optimizer.name=muon", "--config.model.conv=im2col",
        "--config=configs/multilabel.py", "--mode=eval --config=",
        "--mode=compare", "--config.inspect.only=", "--mode=overlays",
        "--config=configs/segmentation.py"}
# Commands whose pictures other commands draw too.
UNDRAWN = {"--config.model.conv=im2col", "--config=configs/multilabel.py",
           "--config=configs/segmentation.py", "--config.optimizer.name=muon"}
# {part of a command: (the test that runs it, a text that this test contains)}.
ELSEWHERE = {
    "mynet:MyNet": ("tests/networks/test_own_network.py", "mynet.py"),
    "myresnet:MyResNet": ("tests/networks/test_own_network.py", "myresnet.py"),
    "mydata:cats_and_dogs": ("tests/data/test_own_source.py", "mydata:cats_and_dogs"),
    "grades:TASK": ("tests/config/test_own_functions.py", "grades:TASK"),
    "--config.epochs=90": ("tests/training/test_run_ends.py", "resuming after step 8"),
    "--profile_steps": ("tests/training/test_profiler.py", "profile_steps=("),
    "--roofline": ("tests/networks/test_summary.py", "roofline.peak_of("),
    "experiments/device_check.py": (
        "tests/experiments/test_device_check.py", "device_check.main("),
    "experiments/tpu_compile.py": (
        "tests/experiments/test_tpu_compile.py", "tpu_compile.main("),
    "configs/folder.py": (
        "tests/documents/test_your_pictures.py", "your_pictures.md"),
    "mine:my_loss": ("tests/config/test_own_functions.py", "mine.py"),
    "configs/regression.py": (
        "tests/training/test_regression.py", "regression.get_config()"),
    "cnn_jax.sweep configs/lenet.py --grid": (
        "tests/sweep/test_sweep.py", 'main(["configs/lenet.py", "--grid"'),
    "cnn_jax.sweep configs/lenet.py --search": (
        "tests/sweep/test_sweep.py", '"configs/lenet.py", "--search"'),
    "lr_find --config=": ("tests/training/test_lr_find.py", 'Request("lr_find"'),
    "learning_rate=auto": ("tests/training/test_lr_find.py", "learning_rate=auto"),
    "--mode=caches": ("tests/data/test_cache.py", 'caches(Request("caches"'),
    "runs/photos": ("tests/documents/test_your_pictures.py", "your_pictures.md"),
    "configs/finetune.py:runs/transfer": (
        "tests/documents/test_your_pictures.py", "your_pictures.md"),
    "experiments/ray_train.py": ("tests/experiments/test_ray_train.py", "ray_train.py"),
    "--config=configs/lenet.py:mnist": ("tests/training/test_accuracy.py", "mnist"),
    "--config=configs/imagenet.py": (
        "tests/experiments/test_imagenet.py", "imagenet.get_config("),
    "experiments/imagenet_steps.py": (
        "tests/experiments/test_imagenet.py", "imagenet_steps.main("),
    "--config=configs/transfer.py": (
        "tests/interop/test_load.py", "transfer.get_config("),
    "runs/WORKDIR": ("tests/interop/test_load.py", "finetune.get_config("),
    "--config.coordinator": ("tests/training/test_processes.py", "coordinator"),
    "--model=weights.npz": ("tests/interop/test_load.py", "model=str("),
    "--model=torchvision": ("tests/interop/test_load.py", 'model=source'),
    "--format=web": ("tests/interop/test_web.py", "--format=web"),
    "--mode=serve": ("tests/serve/test_serve.py", "--mode=serve"),
    "experiments/conv_comparison.py": (
        "tests/experiments/test_experiments.py", "conv_comparison"),
    "experiments/benchmark.py": ("tests/experiments/test_experiments.py", "benchmark"),
    "experiments/inference.py": (
        "tests/experiments/test_inference_speed.py", "inference.main("),
    "experiments/remat.py": (
        "tests/experiments/test_cost_experiments.py", "remat.main("),
    "experiments/gallery.py": ("tests/experiments/test_gallery.py", "gallery.main("),
    "experiments/reproduce.py": (
        "tests/experiments/test_reproduce.py", "reproduce.main("),
    "-m cnn_jax.native.build": (
        "tests/native/test_native_build.py", "cnn_jax.native.build"),
    "-m cnn_jax.pack": ("tests/data/test_pack.py", "command.main("),
    "-m pytest": (".ci/run", "README.md"),
    "-m sphinx": (".ci/run", "book command"),
    "-m venv": (".ci/run", "README.md"),
    "pip install": (".ci/run", "README.md"),
    "import cnn_jax.huge_pages": (
        "tests/documents/test_commands.py", "test_the_tunables_are_printed"),
}


def documented() -> list[str]:
    """Reads every line of every shell block, continued lines joined."""
    lines = []
    for path in DOCUMENTS:
        for block in re.findall(r"^```bash\n(.*?)^```", path.read_text(),
                                re.MULTILINE | re.DOTALL):
            lines += block.replace("\\\n", " ").splitlines()
    return list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))


def row(command: str) -> str | None:
    """Finds the row of `HERE` or `ELSEWHERE` that a command belongs to."""
    return next((part for part in [*ELSEWHERE, *HERE] if part in command), None)


def test_each_command_has_a_row_and_each_row_a_command():
    rows = {command: row(command) for command in documented()}
    assert None not in rows.values(), rows
    unused = {*HERE, *ELSEWHERE} - set(rows.values())
    assert not unused
    for path, mention in ELSEWHERE.values():
        assert mention in (ROOT / path).read_text(), path


def test_the_tunables_are_printed():
    command, = (line for line in documented() if "huge_pages.TUNABLES" in line)
    done = subprocess.run([sys.executable, *shlex.split(command)[1:]], cwd=ROOT,
                          text=True, capture_output=True, check=True)
    assert done.stdout.strip() == TUNABLES


class Checkout:
    """Runs commands of `HERE` in one folder, each once, training ones first."""

    def __init__(self, folder: Path, jobs: dict[str, list[str]],
                 workdirs: dict[str, Path]):
        self.folder, self.jobs, self.workdirs = folder, jobs, workdirs

    @functools.cache
    def answer(self, part: str) -> forked.Completed:
        for training, workdir in self.workdirs.items():
            if training != part and any(str(workdir) in word.split("=")
                                        for word in self.jobs[part]):
                self.answer(training)
        return forked.main(self.jobs[part], Path(tempfile.mkdtemp(dir=self.folder)),
                           cwd=self.folder,
                           before=undrawn if part in UNDRAWN else None)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory, compiled_once) -> Checkout:
    folder = tmp_path_factory.mktemp("checkout")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "photos").mkdir()
    digits = load_digits().images.astype(np.uint8) * 15
    Image.fromarray(digits[0]).resize((50, 70)).save(folder / "a.png")
    Image.fromarray(digits[1]).convert("RGB").save(folder / "photos" / "b.png")
    lenet, masks = folder / "runs" / "lenet", folder / "runs" / "masks"
    named = {HASH: str(lenet), "runs/shapes_fcn-shapes_segmentation-HASH": str(masks),
             "runs/FIRST": str(lenet), "runs/SECOND": str(folder / "runs" / "muon")}
    workdirs = {"main.py --config=configs/lenet.py": lenet,
                "--config=configs/segmentation.py": masks,
                "--config.optimizer.name=muon": folder / "runs" / "muon"}
    parts = {row(command): command for command in documented()}
    jobs = {}
    for part in HERE:
        words = shlex.split(parts[part].partition("#")[0])
        words = [named.get(word.removeprefix("--workdir="), word) if "=" not in word
                 else f"--workdir={named[word.removeprefix('--workdir=')]}"
                 if word.startswith("--workdir=") else word for word in words]
        workdir = workdirs | {"--mode=eval --config=": lenet}
        if part in workdir:
            words.append(f"--workdir={workdir[part]}")
        argv = words[words.index(next(w for w in words if w.endswith("main.py"))) + 1:]
        jobs[part] = [*argv, *HERE[part][0]]
    return Checkout(folder, jobs, workdirs)


@pytest.mark.parametrize("part", [
    pytest.param(part, marks=[pytest.mark.slow] * (part in SLOW)) for part in HERE])
def test_command(checkout, part):
    answer = checkout.answer(part)
    assert answer.returncode == 0, answer.stderr
    assert HERE[part][1] in answer.stdout


def test_a_run_leaves_the_files_of_the_table(checkout):
    for part in HERE.keys() - SLOW:  # some of them write these files
        assert checkout.answer(part).returncode == 0
    workdir = checkout.workdirs["main.py --config=configs/lenet.py"]
    results = json.loads((workdir / "results.json").read_text())
    assert results["params"] == 61_706 and results["test_examples"] == 359
    table = (ROOT / "docs" / "howto" / "running.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", table, re.MULTILINE)
    names = [name for cell in cells for name in re.findall(r"`([\w./]+)`", cell)]
    assert {"config.json", "train/", "checkpoints/", "report.html"} <= set(names)
    for name in names:
        # inspection/ is there only after --mode=inspect, which runs here too.
        if name != "inspection/" and re.search("[./]", name):
            assert (workdir / name).exists(), name
