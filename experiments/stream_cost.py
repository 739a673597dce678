"""How much longer is a training step on a streamed batch than on resident images?

    python experiments/stream_cost.py [--rounds 9] [--steps 60]
    python experiments/stream_cost.py --only=restart [--rounds 9]

Trains LeNet-5 on grey images of 28 x 28, in batches of 128 and of 512, and ResNet-18 on
colour images of 64 x 64 pixels: from an array on the devices, and from a stream of the
same array, which is fast to read. The two take turns. Steps whose batches were ready
before the clock started do not count. Prints the median time of a step and the ratio of
each round, with quartiles, then the time from opening a stream to its first batch, at
step 0 and at step 100,000.

`restart` measures what a user sees: `main.py` resumes on class folders of 120,000
pictures (hard links to a few small ones) from a checkpoint at step 0 and at step
100,000. It prints the time from the start of the process to the end of its first step.
"""

import argparse
import contextlib
import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import ops  # noqa: E402
from cnn_jax.console import Reporter  # noqa: E402
from cnn_jax.data.examples import Dataset, Examples  # noqa: E402
from cnn_jax.data.info import describe  # noqa: E402
from cnn_jax.data.lazy import lazy_dataset  # noqa: E402
from cnn_jax.data.images import Preprocessing  # noqa: E402
from cnn_jax.data.records import InMemory, RecordDataset, Subset  # noqa: E402
from cnn_jax.errors import InputError  # noqa: E402
from cnn_jax.training import parallel  # noqa: E402
from cnn_jax.training.feed import Feed, Streamed, open_feed  # noqa: E402
from cnn_jax.training.input_wait import InputWait  # noqa: E402
from cnn_jax.training.recipe import create_recipe, first_state  # noqa: E402
from cnn_jax.training.setup import open_run, restore_or_init  # noqa: E402
from cnn_jax.workdir.progress import Progress  # noqa: E402
from configs import default  # noqa: E402
from experiments.measuring import run_script  # noqa: E402

CASES = {  # {name: (network, shape of an image, batch size)}
    "lenet5": ("lenet5", (28, 28, 1), 128),
    "lenet5-512": ("lenet5", (28, 28, 1), 512),
    "resnet18": ("resnet18", (64, 64, 3), 32)}
COUNT = 120_000
RESTARTED = {
    "model.name": "lenet5", "data.name": "folder", "data.stream": True,
    "data.validation": 0.05, "data.test": 0.05, "data.channels": 1, "batch_size": 1,
    "epochs": 1, "log.every_steps": 1, "checkpoint.monitor": "loss",
    "data.image_size": (28, 28)}
READY = 30  # steps before the clock starts; more than the batches that are read ahead
FAR_STEP = 100_000


def make_sets(shape: tuple[int, int, int], count: int) -> tuple[Dataset, Dataset]:
    """Draws a set of random images; returns it in memory and as lazy images."""
    rng = np.random.default_rng(0)
    splits = [Examples(rng.integers(0, 256, (n, *shape), dtype=np.uint8),
                       rng.integers(0, 10, n).astype(np.int32)) for n in (count, 0, 0)]
    names = tuple("0123456789")
    records = RecordDataset("random", *(
        Subset(InMemory(split), np.arange(len(split.labels))) for split in splits),
        names, "random")
    return (Dataset("random", *splits, names, "random"),
            lazy_dataset(records, Preprocessing(), skip=False))


class Trainer:
    """Trains a network from one feed."""

    def __init__(self, config, dataset: Dataset):
        self.placement = parallel.make_placement(config)
        recipe = create_recipe(config, describe(dataset, config.data))
        self.feed: Feed = open_feed(self.placement, dataset, config, steps_per_call=1)
        self.state = self.placement.replicate(
            first_state(recipe, dataset.train.images.shape[1:]))
        step = self.placement.compile(
            functools.partial(self.feed.train, recipe=recipe), donate=(0,))
        self.program = step.lower(self.state, *self.feed.example_call(1)).compile(
            compiler_options=ops.compiler_options())
        self.feed.start(0, 0)

    def time_step(self, epoch: int, steps: int) -> float:
        """Trains an epoch as the training loop does; returns the seconds of a step."""
        ranges = [(step, step + 1) for step in range(READY + steps)]
        calls = self.feed.calls(epoch, ranges)
        with contextlib.closing(InputWait(self.feed)) as input_wait:
            for step, _ in ranges:
                if step == READY:
                    jax.block_until_ready(self.state)
                    begun = time.perf_counter()
                arguments = input_wait.next(calls)
                self.state, metrics = self.program(self.state, *arguments)
                input_wait.after(metrics)
        jax.block_until_ready(self.state)
        return (time.perf_counter() - begun) / steps


def time_to_first_batch(feed: Streamed, step: int, steps: int) -> float:
    """Returns the seconds from opening a stream to its first batch on the device."""
    epoch, step = divmod(step, steps)
    feed.close()
    begun = time.perf_counter()
    feed.start(epoch, step)
    jax.block_until_ready(next(feed.calls(epoch, [(step, step + 1)])))
    seconds = time.perf_counter() - begun
    feed.close()
    return seconds


def measure(name: str, rounds: int, steps: int) -> None:
    network, shape, batch = CASES[name]
    config = default.get_config()
    config.update_from_flattened_dict({
        "model.name": network, "batch_size": batch, "devices": 1, "epochs": FAR_STEP,
        "optimizer.learning_rate": 1e-4, "checkpoint.monitor": "loss",
        "early_stopping.patience": None})
    arms = [Trainer(config, dataset)
            for dataset in make_sets(shape, batch * (READY + steps))]
    times = [[arm.time_step(epoch, steps) for arm in arms]
             for epoch in range(rounds + 1)][1:]  # the first warms up
    quartiles = [1e3 * np.percentile(column, (25, 50, 75)) for column in zip(*times)]
    ratio = np.percentile([streamed / resident for resident, streamed in times],
                          (25, 50, 75))
    for title, (low, middle, high) in zip(("resident", "streamed"), quartiles):
        print(f"{name:10} {title:9} {middle:8.2f} ms a step ({low:.2f} - {high:.2f})")
    print(f"{name:10} ratio     {ratio[1]:8.3f} ({ratio[0]:.3f} - {ratio[2]:.3f}), "
          f"{rounds} rounds of {steps} steps of {batch} images")
    firsts = {at: statistics.median(
        time_to_first_batch(arms[1].feed, at, READY + steps) for _ in range(5))
        for at in (0, FAR_STEP)}
    print(f"{name:10} first batch after {1e3 * firsts[0]:.0f} ms at step 0, "
          f"{1e3 * firsts[FAR_STEP]:.0f} ms at step {FAR_STEP:,} (medians of 5)")


def restart_config(folder: Path):
    """Makes a config of LeNet-5 with batch size 1: an epoch has over 100,000 steps."""
    config = default.get_config()
    config.update_from_flattened_dict(RESTARTED | {"data.dir": str(folder / "set")})
    return config


def prepare_restart(folder: Path, at: int) -> Path:
    """Writes class folders, and a workdir whose only checkpoint is at step `at`."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        path = folder / "set" / name
        if not path.exists():
            path.mkdir(parents=True)
            for number in range(COUNT // 2):
                if number < 2:  # file systems allow about 65,000 links to a file
                    Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(
                        path / f"{number}.png")
                else:
                    os.link(path / f"{number % 2}.png", path / f"{number}.png")
    workdir = folder / f"from{at}"
    with open_run(restart_config(folder), workdir, Reporter(quiet=True)) as run:
        state, _ = restore_or_init(run)
        state = state.replace(step=np.array(at, np.int32))
        run.checkpoints.save(state, Progress(at, []))
    return workdir


def time_to_first_step(folder: Path, at: int) -> float:
    """Returns the seconds from starting main.py to the end of its first step."""
    kept = prepare_restart(folder, at)
    workdir = Path(shutil.copytree(kept, folder / "run"))
    flags = [f"--config.{name}={value}" for name, value in RESTARTED.items()]
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "main.py", "--config=configs/default.py", *flags,
         f"--config.data.dir={folder / 'set'}", f"--workdir={workdir}"],
        cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL)
    metrics = workdir / "metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        if process.poll() is not None:
            raise InputError(f"main.py ended with code {process.returncode}")
        time.sleep(0.01)
    seconds = time.perf_counter() - begun
    process.kill()
    process.wait()
    shutil.rmtree(workdir)
    shutil.rmtree(kept)
    return seconds


def measure_restart(rounds: int) -> None:
    times: dict[int, list[float]] = {0: [], FAR_STEP: []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds + 1):
            for at in (0, FAR_STEP) if turn % 2 else (FAR_STEP, 0):
                seconds = time_to_first_step(Path(folder), at)
                if turn:  # the first warms up
                    times[at].append(seconds)
    for at, values in times.items():
        low, middle, high = np.percentile(values, (25, 50, 75))
        print(f"restart    first step after {middle:.2f} s ({low:.2f} - {high:.2f}) "
              f"from step {at:,}, {rounds} rounds")
    low, middle, high = np.percentile(np.divide(times[FAR_STEP], times[0]),
                                      (25, 50, 75))
    print(f"restart    ratio of a round {middle:.3f} ({low:.3f} - {high:.3f})")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--only", choices=[*CASES, "restart"])
    flags = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.platform} ({device.device_kind}), jax {jax.__version__}")
    for name in [flags.only] if flags.only else [*CASES, "restart"]:
        if name == "restart":
            measure_restart(flags.rounds)
        else:
            measure(name, flags.rounds, flags.steps)


if __name__ == "__main__":
    run_script(main)
