"""Makes a tiny run: its config, and ways to start it in this or in another process.

It trains the network 'baseline', with batch norm and dropout, on digits of 8 x 8
pixels. A run takes seconds, nearly all of them compiling.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image
from tests.support.forked import Forked
from tests.support.quick_compile import flags_for

from cnn_jax import data, networks
from cnn_jax.data.scaling import Scaling
from cnn_jax.training import train
from cnn_jax.training.recipe import abstract_state, create_recipe
from cnn_jax.training.steps import TrainState
from cnn_jax.config import to_json
from cnn_jax.files import write_json
from cnn_jax.workdir.checkpoints import Checkpoints, leaves, step_folders
from cnn_jax.workdir.checkpoints import restore as restore_checkpoint
from cnn_jax.workdir.progress import Progress
from cnn_jax.workdir.trained import Trained
from cnn_jax.data.info import DataInfo, describe
from configs import default

ROOT = Path(__file__).parents[2]
# Seconds until a test gives up on a process; the machine may be busy.
PATIENCE_SECONDS = float(os.environ.get("TEST_PATIENCE_SECONDS", 240))

TINY = {
    "model.name": "baseline", "data.limit": 128, "batch_size": 16,
    "eval_batch_size": 100, "epochs": 2, "checkpoint.every_seconds": 0.0}
TIMES = ("seconds", "images_per_second", "input_seconds")  # which differ between runs
# Changes with everything that a resumed run could get wrong.
RICH = TINY | {
    "epochs": 3, "augment.horizontal_flip": True, "augment.width_shift_range": 0.1,
    "optimizer.name": "adam", "optimizer.accumulate_steps": 3,
    "optimizer.ema_decay": 0.9, "schedule.name": "cosine",
    "schedule.warmup_epochs": 0.5, "checkpoint.every_steps": 3, "log.every_steps": 2}


def tiny(changes: dict | None = None, **fields) -> ConfigDict:
    """Makes the tiny config; `changes` have dotted names, `fields` plain ones."""
    config = default.get_config()
    config.update_from_flattened_dict(TINY | (changes or {}) | fields)
    return config


def as_flags(changes: dict) -> list[str]:
    """Returns the flags of main.py that make `tiny(changes)`."""
    return ["--config=configs/default.py"] + [
        f"--config.{field}={value}" for field, value in (TINY | changes).items()]


def environment(devices: int = 1) -> dict[str, str]:
    """Returns this process's environment, with this number of fake CPU devices."""
    return os.environ | {
        "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1",
        "XLA_FLAGS": flags_for(devices)}


def killed_after(whole: Path, workdir: Path, step: int) -> Path:
    """Copies a run as a kill leaves it after the checkpoint of `step`."""
    shutil.copytree(whole, workdir)
    (workdir / "results.json").unlink()
    for checkpoint in (workdir / "checkpoints").iterdir():
        if int(checkpoint.name) > step:
            shutil.rmtree(checkpoint)
    return workdir


def undrawn() -> None:
    """Turns off drawing, which takes half of the time of a tiny run."""
    train.draw = lambda *_: None


def start_python(*args, devices: int = 1, **options) -> subprocess.Popen:
    """Starts this Python in the root of the repository; output is piped as text."""
    return subprocess.Popen(
        [sys.executable, *map(str, args)], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        **{"env": environment(devices)} | options)


def start_main(workdir: Path, changes: dict | None = None, *args, devices: int = 1,
               variables: dict[str, str] | None = None,
               before: Callable[[], None] | None = None) -> Forked:
    """Starts `main.py` on the tiny config, with further arguments and variables."""
    return Forked([*as_flags(changes or {}), f"--workdir={workdir}", *map(str, args)],
                  Path(tempfile.mkdtemp(prefix="main")),
                  environment=environment(devices) | (variables or {}), before=before)


def start_module(name: str, *args, devices: int = 1,
                 variables: dict[str, str] | None = None) -> Forked:
    """Starts `python -m NAME`, with further arguments and variables."""
    return Forked([*map(str, args)], Path(tempfile.mkdtemp(prefix="module")),
                  environment=environment(devices) | (variables or {}), module=name)


def end(process: subprocess.Popen | Forked) -> tuple[int, str, str]:
    """Waits for a process, kills it if it hangs; returns (code, stdout, stderr)."""
    try:
        output, errors = process.communicate(timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        raise AssertionError(f"no end after {PATIENCE_SECONDS} s:\n{output}\n{errors}")
    return process.returncode, output, errors


def main(workdir: Path, changes: dict | None = None, *args,
         **options) -> tuple[int, str, str]:
    """Runs `main.py` to its end."""
    return end(start_main(workdir, changes, *args, **options))


def refusal(result: tuple[int, str, str], code: int) -> str:
    """Returns the one line of main.py on stderr; asserts the exit code."""
    line, *more = result[2].splitlines() or [""]
    assert result[0] == code and line.startswith("cnn_jax: ") and not more, result
    return line


def wait_until(happened: Callable[[], bool],
               process: subprocess.Popen | Forked) -> None:
    """Polls until something has happened; fails if the process ended before."""
    limit = time.monotonic() + PATIENCE_SECONDS
    while not happened():
        assert process.poll() is None, end(process)
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.02)


def picture_folder(path: Path, classes: list[str], brightness: int) -> dict:
    """Writes ten 8 x 8 pictures a class; returns the flags to train on them."""
    rng = np.random.default_rng(brightness)
    for name in classes:
        (path / name).mkdir(parents=True)
        for k in range(10):
            pixels = rng.integers(0, brightness, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(path / name / f"{k}.png")
    return {"data.name": "folder", "data.dir": str(path), "batch_size": 4,
            "data.validation": 0.25, "data.test": 0.25, "data.limit": None, "epochs": 1}


def read_results(workdir: Path) -> dict:
    """Reads results.json as plain values."""
    return json.loads((workdir / "results.json").read_text())


def read_rows(workdir: Path) -> list[dict]:
    """Reads the rows of metrics.jsonl without the times."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


def rows_written(workdir: Path) -> int:
    path = workdir / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Reads the events in a folder as TensorBoard does: {tag: [(step, value)]}."""
    # The import takes a second.
    from tensorboard.backend.event_processing.event_accumulator import (
        EventAccumulator)

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)]
            for tag in events.Tags()["scalars"]}


def losses(workdir: Path) -> list[list[str]]:
    """Reads history.csv without its last columns, which are times."""
    lines = [line.split(",") for line in
             (workdir / "history.csv").read_text().splitlines()]
    times = lines[0].index("seconds")
    assert {*lines[0][times:]} <= {*TIMES}
    return [line[:times] for line in lines]


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Asserts that final state, results and rows are the same, except the times."""
    a, b = read_results(ours), read_results(theirs)
    for name in ("params_sha256", "epochs", "best_epoch", "validation_accuracy",
                 "test_accuracy", "test_loss", "test_examples"):
        assert a[name] == b[name], name
    assert losses(ours) == losses(theirs)
    assert read_rows(ours) == read_rows(theirs)


def prepare(config: ConfigDict):
    """Prepares (data set, recipe, image shape) of a config, for one device."""
    dataset = data.load(config.data, config.seed)
    info = describe(dataset, config.data)
    return dataset, create_recipe(config, info), info.image_shape


def untrained(config: ConfigDict, image_shape: tuple[int, int, int],
              class_names: tuple[str, ...]) -> Trained:
    """Makes a run with random parameters, without its data and without compiling."""
    info = DataInfo(config.data.name, "none", image_shape, class_names,
                    Scaling(0.0, 1 / 255), {"train": 1000, "validation": 10, "test": 0},
                    sha256="")
    random = np.random.default_rng(0)
    shapes = abstract_state(create_recipe(config, info), image_shape)
    state = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    state = state.replace(
        params=jax.tree.map(lambda leaf: random.normal(
            scale=0.1, size=leaf.shape).astype(leaf.dtype), shapes.params),
        batch_stats=jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype),
                                 shapes.batch_stats))
    network = networks.from_config(config, len(class_names))
    return Trained(config, info, network, state.variables, 0, [])


def restore(workdir: Path, config: ConfigDict, step: int | None = None) -> TrainState:
    """Restores the state of a run's latest checkpoint, or that of `step`."""
    _, recipe, shape = prepare(config)
    folder = (step_folders(workdir / "checkpoints")[-1] if step is None
              else workdir / "checkpoints" / str(step))
    return restore_checkpoint(folder, abstract_state(recipe, shape))[0]


def save_run(workdir: Path, config: ConfigDict, info: DataInfo, state: object,
             step: int = 7) -> Path:
    """Writes the files of a run of one epoch that later modes need."""
    with Checkpoints(workdir / "checkpoints", config.checkpoint.monitor) as checkpoints:
        checkpoints.save(state, Progress(step, [
            {"epoch": 1, "step": step, config.checkpoint.monitor: 0.5}]))
    (workdir / "config.json").write_text(to_json(config))
    write_json(workdir / "data.json", info)
    return workdir


def distance(ours, theirs) -> float:
    """Computes the relative L2 distance of two trees: |a - b| / |b| over all leaves."""
    a, b = leaves(ours), leaves(theirs)
    assert a.keys() == b.keys() and a
    difference = sum(np.sum((a[k].astype(np.float64) - b[k]) ** 2) for k in a)
    return float(np.sqrt(difference / sum(np.sum(b[k].astype(np.float64) ** 2)
                                          for k in b)))


def assert_same_bits(ours, theirs) -> None:
    """Asserts that every leaf has the same dtype, shape and bytes."""
    a, b = leaves(ours), leaves(theirs)
    assert a.keys() == b.keys() and a
    for path in a:
        x, y = np.asarray(a[path]), np.asarray(b[path])
        assert (x.dtype, x.shape) == (y.dtype, y.shape), path
        assert x.tobytes() == y.tobytes(), path
