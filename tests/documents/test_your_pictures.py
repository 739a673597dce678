"""Follows howto/your_pictures.md like a new user, on drawn pictures of all kinds."""

import functools
import json
import os
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from tests.support import forked
from tests.support.caches import own_cache
from tests.support.file_server import Server
from tests.support.npm_package import made_package
from tests.support.tiny_runs import undrawn

from cnn_jax import data, networks
from cnn_jax.config import check
from cnn_jax.data import memory
from cnn_jax.data.lazy import LazyImages
from cnn_jax.interop.web import folder as web
from cnn_jax.pack import command as packing
from configs import folder, transfer

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "howto" / "your_pictures.md").read_text()
RUNTIME = {"dist/ort.wasm.bundle.min.mjs": b"export const made = 1;",
           "dist/ort-wasm-simd-threaded.wasm": b"\0asm"}
# Flags that make a training of the page short.
SHORT = ["--config.epochs=1", "--config.batch_size=4", "--config.eval_batch_size=8",
         "--config.data.image_size=(32,32)", "--config.data.shorter_side=32"]


def draw_pictures(root: Path, count: int = 8) -> None:
    """Draws discs, boxes and bars of many sizes, in all kinds of files."""
    random = np.random.default_rng(0)
    for kind in ("disc", "box", "bar"):
        (root / kind).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            width, height = map(int, random.integers(40, 90, 2))
            image = Image.new("RGB", (width, height), "grey")
            shape = ImageDraw.Draw(image)
            {"disc": shape.ellipse, "box": shape.rectangle}.get(kind, shape.line)(
                (10, 10, 30, 30), fill=tuple(map(int, random.integers(0, 256, 3))))
            turned = Image.Exif()
            turned[0x0112] = 6
            mode, name, options = {
                0: ("CMYK", "cmyk.jpg", {}), 1: ("RGBA", "alpha.png", {}),
                2: ("L", "grey.jpg", {}), 3: ("P", "palette.gif", {}),
                4: ("RGB", "turned.jpg", {"exif": turned}),
            }.get(number, ("RGB", f"{number}.jpg", {}))
            image.convert(mode).save(root / kind / name, **options)


def prepare(package, draws: bool) -> None:
    """Replaces ONNX Runtime for browsers in a process, and may turn off drawing.

    ResNet-18 gets two stages of one block, which compile in a quarter of the time.
    """
    web.RUNTIME = package
    row = networks.NETWORKS["resnet18"]
    networks.NETWORKS["resnet18"] = row._replace(
        fields=row.fields | {"blocks": (1, 1)})
    if not draws:
        undrawn()


# Commands that run under -m slow. Other tests cover finetuning, skipped pictures and
# shards.
LATER = ("finetune.py", "on_error=skip", "cnn_jax.pack", "name=shards")


@pytest.fixture(scope="module", params=["part", pytest.param(
    "whole", marks=pytest.mark.slow)])
def user(request, tmp_path_factory):
    """Runs the commands of the page, in order: {command: answer}, and the folder."""
    home = tmp_path_factory.mktemp("user")
    draw_pictures(home / "photos")
    (home / "photos" / "box" / "phone.heic").write_bytes(b"heic")
    draw_pictures(home / "more", 1)
    Image.open(home / "photos" / "box" / "7.jpg").save(home / "new.jpg")
    server = Server(home / "registry")
    package = made_package(server.folder, RUNTIME)
    environment = os.environ | {
        "CNN_JAX_CACHE": own_cache(home / "cache"), "NO_PROXY": "127.0.0.1",
        "npm_config_registry": f"{server.url}/",
        "JAX_COMPILATION_CACHE_DIR": str(home / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    answers = {}
    for block in re.findall(r"^```bash\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for command in block.splitlines():
            words = shlex.split(command)[2:]
            if request.param == "part" and any(part in command for part in LATER):
                continue
            if "cnn_jax.pack" in command:
                draw_pictures(home / "photos")  # the broken one is whole again
                packing.main([str(home / words[1]), str(home / words[2]), *words[3:]])
                continue
            if "on_error=skip" in command:
                os.truncate(home / "photos" / "bar" / "6.jpg", 300)
            # The published weights are those of the run before.
            words = [word.replace("torchvision:resnet18", "runs/photos")
                     .replace("configs/", f"{ROOT}/configs/") for word in words]
            if "--config=" in command:
                words += SHORT
            answers[command] = forked.main(
                words, tmp_path_factory.mktemp("output"), cwd=home,
                environment=environment, before=functools.partial(
                    prepare, package, draws="--workdir=runs/photos" in command))
    server.close()
    return answers, home


def test_every_command_ends_well(user):
    answers, home = user
    for command, answer in answers.items():
        assert answer.returncode == 0, (command, answer.stderr)
        assert answer.stderr == "", command


def first(answers, part: str) -> str:
    """Returns what the first command with this part printed."""
    return next(answer.stdout for command, answer in answers.items()
                if part in command)


def test_what_the_user_reads(user):
    answers, home = user
    look, train, transferred = (first(answers, part) for part in (
        "show_data", "main.py --config=configs/folder.py --config.data.d",
        ":torchvision"))
    counts = "train 15, validation 4, test 5"
    assert "24 pictures: .gif, .jpg (lossy), .png" in look
    assert "without 1 other file (.heic)" in look and counts in look
    assert "parameters 314,051" in train and counts in train
    assert "convolutions" in train and "test: loss" in train
    assert re.search("387 of 314,051 parameters.*: head", transferred)
    assert counts in transferred
    if not any("on_error=skip" in command for command in answers):
        return
    skipping, packed = first(answers, "on_error=skip"), first(answers, "name=shards")
    assert "streamed" in skipping and "skipped 1 image" in skipping
    assert counts in packed
    results = json.loads((home / "runs" / "skipping" / "results.json").read_text())
    assert [Path(name).name for name in results["skipped"]] == ["6.jpg"]


def test_the_files_that_the_page_names(user):
    _, home = user
    for path in re.findall(r"`(runs/[\w./]+\.\w+)`", PAGE):
        assert (home / path).exists(), path
    report = (home / "runs" / "photos" / "report.html").read_text()
    for word in ("disc", "val_accuracy", "mistake"):
        assert word in report


def test_new_pictures_are_named(user):
    answers, _ = user
    one, as_json = (first(answers, part) for part in ("--images new.jpg", "--json"))
    lines = one.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "new.jpg", "more/bar/cmyk.jpg", "more/box/cmyk.jpg", "more/disc/cmyk.jpg"]
    assert all(len(re.findall(r"(?:disc|box|bar) \d+\.\d %", line)) == 3
               for line in lines)
    assert all(sum(answer["probabilities"]) == pytest.approx(1)
               for answer in json.loads(as_json))


def test_the_config_is_valid_for_both_starts():
    config = folder.get_config()
    config.data.dir = "photos"
    check(config)
    assert config.model.name == "resnet18"
    ours, theirs = (module.get_config("torchvision:resnet18")
                    for module in (folder, transfer))
    with theirs.unlocked():
        theirs.data.validation = ours.data.validation
    assert ours == theirs


def test_folders_of_splits_are_used_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    for split, count in (("train", 8), ("val", 2), ("test", 3)):
        draw_pictures(tmp_path / "set" / split, count)
    config = folder.get_config().data
    config.dir, config.image_size = str(tmp_path / "set"), (32, 32)
    dataset = data.load(config, 0)
    assert [len(examples.labels) for examples in dataset[1:4]] == [24, 6, 9]
    assert dataset.train.images.shape[1:] == (32, 32, 3)


def test_a_set_that_does_not_fit_is_streamed(tmp_path, monkeypatch):
    draw_pictures(tmp_path / "set")
    monkeypatch.setattr(memory, "MAX_BYTES", 24 * 224 * 224 * 3 - 1)
    config = folder.get_config().data
    config.dir = str(tmp_path / "set")
    dataset = data.load(config, 0)
    assert isinstance(dataset.train.images, LazyImages)
    assert "streamed" in dataset.source
