"""A run on a streamed set equals that in memory, bit for bit, and resumes."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from tests.support.caches import own_cache
from tests.support.tiny_runs import (PATIENCE_SECONDS, assert_same_run, end,
                                     killed_after, main, picture_folder,
                                     read_results, refusal, rows_written, start_main,
                                     tiny, wait_until)
from tests.support.tiny_runs import undrawn as undrawn_child

from cnn_jax import data, training
from cnn_jax.data.lazy import LazyImages
from cnn_jax.inspection import run as inspection_run
from cnn_jax.training import parallel
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.training.feed import open_feed

pytestmark = pytest.mark.usefixtures("compiled_once", "fused", "undrawn")

STEPS = 6  # an epoch: 23 images to train, 4 a step


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Writes 40 pictures in four classes."""
    root = tmp_path_factory.mktemp("data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNN_JAX_CACHE", own_cache(root / "cache"))
        flags = picture_folder(root / "set", ["ant", "bee", "cat", "dog"], 256)
        yield flags | {
            "data.stream": True, "epochs": 2, "eval_batch_size": 3,
            "augment.horizontal_flip": True, "augment.mixup": 0.4,
            "checkpoint.every_steps": 2,
            "checkpoint.keep": 100, "log.every_steps": 2}


@pytest.fixture(scope="module")
def streamed(folder, tmp_path_factory, compiled_once, fused):
    workdir = tmp_path_factory.mktemp("runs") / "streamed"
    training.run(tiny(folder), workdir, quiet=True)
    return workdir


def test_it_equals_the_run_in_memory(folder, streamed, tmp_path):
    training.run(tiny(folder | {"data.stream": False}), tmp_path, quiet=True)
    assert_same_run(streamed, tmp_path)


@pytest.mark.parametrize("step", [2, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_it_resumes_with_the_same_bits(folder, streamed, tmp_path, step):
    workdir = killed_after(streamed, tmp_path / "run", step)
    training.run(tiny(folder), workdir, quiet=True)
    assert_same_run(workdir, streamed)


def test_later_modes_evaluate_and_predict(folder, streamed, capsys):
    results = read_results(streamed)
    scores = evaluate_run(streamed, quiet=True)
    # A later evaluation may fuse layers, which rounds differently.
    assert scores["test"]["loss"] == pytest.approx(results["test_loss"], rel=1e-5)
    assert scores["test"]["examples"] == results["test_examples"] == 10
    run = inspection_run.load_run(streamed)
    dataset = data.load(tiny(folder).data, run.config.seed)
    assert len(run.predictions[0]) == len(dataset.test.labels)
    assert run.pixels.shape == (8, 8, 8, 1)


@pytest.fixture
def broken(folder, tmp_path):
    """Copies the folder and truncates four pictures."""
    shutil.copytree(folder["data.dir"], tmp_path / "set")
    for name in ("ant/3.png", "bee/0.png", "cat/7.png", "dog/9.png"):
        path = tmp_path / "set" / name
        path.write_bytes(path.read_bytes()[:60])
    return folder | {"data.dir": str(tmp_path / "set")}


def test_a_broken_picture_stops_the_run_by_name(broken, tmp_path):
    line = refusal(main(tmp_path / "run", broken), 2)
    for fact in (str(tmp_path / "set"), ".png", "data.on_error=skip"):
        assert fact in line


def test_broken_pictures_are_skipped_and_named(broken, tmp_path):
    changes = broken | {"data.on_error": "skip"}
    code, output, errors = main(tmp_path / "run", changes, before=undrawn_child)
    assert code == 0, errors
    results = read_results(tmp_path / "run")
    dataset = data.load(tiny(changes).data, 0)
    names = {split: [getattr(dataset, split).images.records.name(row)
                     for row in range(len(getattr(dataset, split).labels))]
             for split in ("train", "validation", "test")}
    skipped = sorted(str(tmp_path / "set" / name) for name in
                     ("ant/3.png", "bee/0.png", "cat/7.png", "dog/9.png"))
    assert results["skipped"] == skipped
    in_test = len({*skipped} & {*names["test"]})
    assert results["test_examples"] == len(names["test"]) - in_test
    assert "skipped 4 images" in output
    run = inspection_run.load_run(tmp_path / "run")  # leaves them out
    assert len(run.predictions[0]) == results["test_examples"]


@pytest.mark.parametrize("victim", [
    "worker", pytest.param("run", marks=pytest.mark.slow)])
def test_nothing_waits_for_a_process_that_is_killed(folder, tmp_path, victim):
    """A killed worker ends the run, and a killed run ends its workers."""
    process = start_main(tmp_path, folder | {"data.workers": 2, "epochs": 100_000})
    wait_until(lambda: rows_written(tmp_path) > STEPS, process)
    children = []
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the thread has ended
            children += (thread / "children").read_text().split()
    workers = [int(child) for child in children
               if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    assert len(workers) == 2
    if victim == "worker":
        os.kill(workers[0], signal.SIGKILL)
        line = refusal(end(process), 1)  # gives up after a few minutes
        assert "exit code -9" in line and "data.workers=0" in line
    else:
        process.kill()
        process.wait()
    limit = time.monotonic() + PATIENCE_SECONDS
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < limit, "a worker is still there"
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [
    {"data.name": "shapes_segmentation", "data.split": "first", "data.limit": 12,
     "model.name": "shapes_fcn", "augment.crop_scale": (0.3, 1.0)},
    {"data.limit": 40, "steps_per_call": 2, "data.scaling": "standard",
     "augment.mixup": 0.4, "data.prefetch": 1}], ids=["masks", "several steps a call"])
def test_any_set_can_be_streamed(tmp_path, changes):
    """The test of digits, with several steps a call, is in test_progressive_runs.py.
    """
    changes = changes | {"epochs": 1, "batch_size": 4, "data.validation_count": 12}
    hashes = {training.run(tiny(changes | {"data.stream": stream}),
                           tmp_path / str(stream), quiet=True).params_sha256
              for stream in (True, False)}
    assert len(hashes) == 1


def test_the_time_of_waiting_for_images_is_measured(folder, tmp_path, monkeypatch):
    """Two threads read 24 images of an epoch; each image takes 30 ms."""
    read = LazyImages.read
    monkeypatch.setattr(LazyImages, "read",
                        lambda *arguments: (time.sleep(0.03), read(*arguments))[1])
    results = training.run(tiny(folder | {
        "data.prefetch": 1, "checkpoint.every_steps": None, "log.every_steps": 99}),
        tmp_path, quiet=True)
    assert 0.1 < results.input_seconds < results.train_seconds


def test_late_images_are_reported_once_with_figures(folder):
    """A fifth of an epoch at 100 images/s was spent waiting: 125 could be trained."""
    config = tiny(folder)
    dataset = data.load(config.data, 0)
    feed = open_feed(parallel.make_placement(config), dataset, config, 1)
    row = {"seconds": 10.0, "input_seconds": 0.5, "images_per_second": 100.0}
    assert feed.advice(row) is None  # 5 %
    text = feed.advice(row | {"input_seconds": 2.0})
    for fact in ("20%", "100 images/s", "125 images/s", "data.workers", "cnn_jax.pack",
                 "data.image_size", "threads"):
        assert fact in text
    assert feed.advice(row | {"input_seconds": 9.0}) is None  # reported already
