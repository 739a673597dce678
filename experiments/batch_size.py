"""How do time and accuracy depend on the batch size, from 1 to 1,024 images?

    python experiments/batch_size.py --data=DIR                     4 minutes, 2 cores
    python experiments/batch_size.py --data=DIR --images=10000 --seeds=1     faster

Trains LeNet-5 on MNIST by plain SGD. All batch sizes are evaluated on the test split
after the same number of epochs, and after the same number of updates. The learning
rate, 0.05, is the same for all and is not tuned. A larger batch makes fewer updates an
epoch, each with a less noisy gradient. An epoch takes 26 s at batch 1 and 1.9 s at
batch 128 (two cores of an AMD EPYC). After one epoch batch 10 is best (0.981), after
500 updates batch 1,024 (0.966). All figures: measured/speed/README.md.

Writes batch_size.txt, batch_size.json and batch_size.png after each batch size. The
same command in the same folder continues after the last one.
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import data, ops  # noqa: E402
from cnn_jax.console import Reporter  # noqa: E402
from cnn_jax.data.batches import (steps_per_epoch,  # noqa: E402
                                  train_order)
from cnn_jax.errors import InputError, RunError  # noqa: E402
from cnn_jax.training import parallel  # noqa: E402
from cnn_jax.training.eval_batch import LARGEST  # noqa: E402
from cnn_jax.training.evaluate import make_evaluation  # noqa: E402
from cnn_jax.training.feed import Resident  # noqa: E402
from cnn_jax.files import file_errors, write_atomically  # noqa: E402
from cnn_jax.training.recipe import create_recipe, first_state  # noqa: E402
from cnn_jax.training.steps import train_steps  # noqa: E402
from cnn_jax.data.info import describe  # noqa: E402
from configs import lenet  # noqa: E402
from experiments.measuring import make_out, ran_on, run_script  # noqa: E402

BATCHES = (1, 10, 32, 128, 1024)
RATE = 0.05
FETCH = 200  # steps between waits for the device


def make_config(batch: int, images: int) -> ConfigDict:
    """Returns configs/lenet.py:mnist with plain SGD and without augmentation."""
    config = lenet.get_config("mnist")
    config.batch_size = batch
    config.data.limit = images or None
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = RATE
    config.schedule.name = "constant"
    for field in ("width_shift_range", "height_shift_range"):
        config.augment[field] = 0.0
    return config


class Trainer:
    """LeNet-5 with one batch size: compiled once, trained from any seed."""

    def __init__(self, config, dataset: data.Dataset):
        self.config = config
        self.info = describe(dataset, config.data)
        self.recipe = create_recipe(self.config, self.info)
        self.placement = parallel.mesh_placement(jax.devices()[:1])
        feed = Resident(self.placement, dataset, config.seed, config.batch_size,
                        config.eval_batch_size or LARGEST)
        self.examples, self.spans = feed.data, feed.ranges
        state = self.placement.replicate(
            first_state(self.recipe, self.info.image_shape))
        step = self.placement.compile(
            functools.partial(train_steps, recipe=self.recipe), donate=(0,))
        self.step = step.lower(
            state, self.examples, self.placement.shard_batch(
                np.zeros((1, config.batch_size), np.int32))).compile(
                    compiler_options=ops.compiler_options())
        self.evaluate = make_evaluation(self.recipe, self.placement, feed,
                                        Reporter(quiet=True))

    @property
    def steps(self) -> int:
        """The updates in an epoch."""
        return steps_per_epoch(len(self.spans["train"]), self.config.batch_size)

    def train(self, seed: int, stops: list[int]) -> tuple[dict[int, float], float]:
        """Trains to the last of `stops`, evaluates at each.

        Returns {updates: test accuracy} and the seconds of an update.
        """
        recipe = dataclasses.replace(self.recipe, seed=seed)
        state = self.placement.replicate(first_state(recipe, self.info.image_shape))
        accuracies, seconds, order = {}, 0.0, None
        begun = time.perf_counter()
        for update in range(max(stops)):
            epoch, within = divmod(update, self.steps)
            if within == 0:
                order = train_order(seed, epoch, self.spans["train"],
                                    self.config.batch_size)
            state, metrics = self.step(
                state, self.examples,
                self.placement.shard_batch(order[within:within + 1]))
            if (update + 1) % FETCH == 0 or update + 1 in stops:
                loss = float(metrics["loss"][0])
                if not np.isfinite(loss):
                    raise RunError(f"batch {self.config.batch_size}: the loss is "
                                   f"{loss} at update {update + 1}")
            if update + 1 in stops:
                seconds += time.perf_counter() - begun
                accuracies[update + 1] = self.evaluate(state, "test")["accuracy"]
                begun = time.perf_counter()
        return accuracies, seconds / max(stops)


def measure(batch: int, dataset: data.Dataset, flags: argparse.Namespace) -> dict:
    """Trains with one batch size and all seeds; returns the row."""
    trainer = Trainer(make_config(batch, flags.images), dataset)
    by_epochs = flags.epochs * trainer.steps
    trainer.train(0, [min(10, by_epochs)])  # warm-up
    runs = [trainer.train(seed, sorted({by_epochs, flags.updates}))
            for seed in range(flags.seeds)]
    samples = [seconds for _, seconds in runs]
    per_update = float(np.median(samples))
    return {"batch": batch, "training_images": len(trainer.spans["train"]),
            "updates_per_epoch": trainer.steps,
            "seconds_per_epoch": per_update * trainer.steps,
            "updates_per_second": 1 / per_update,
            "seconds_per_update_by_seed": samples,
            "after_equal_epochs": [accuracies[by_epochs] for accuracies, _ in runs],
            "after_equal_updates": [
                accuracies[flags.updates] for accuracies, _ in runs]}


def spread(values: list[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"


def criteria(results: dict) -> dict[str, str]:
    """Returns {field of a row: after how much training it was measured}."""
    return {f"after_equal_{unit}": f"after {count:,} {unit if count > 1 else unit[:-1]}"
            for unit in ("epochs", "updates") for count in [results[unit]]}


def setting(results: dict) -> str:
    return (f"LeNet-5, MNIST, {results['rows'][0]['training_images']:,} training "
            f"images, SGD of rate {results['rate']}, n = {results['seeds']}")


def table(results: dict) -> str:
    fields = criteria(results)
    lines = [f"{results['machine']}, jax {results['versions']['jax']}, "
             f"{results['device']}; {setting(results)}; accuracy on the test split "
             "(mean ± standard deviation)",
             "batch  updates/epoch  seconds/epoch  updates/s  "
             + "  ".join(f"{title:17}" for title in fields.values()).rstrip()]
    for row in results["rows"]:
        lines.append(
            f"{row['batch']:5}  {row['updates_per_epoch']:13,}  "
            f"{row['seconds_per_epoch']:13.2f}  {row['updates_per_second']:9,.1f}  "
            + "  ".join(f"{spread(row[field]):17}" for field in fields).rstrip())
    return "\n".join(lines) + "\n"


def picture(results: dict, path: Path) -> None:
    """Draws time and speed by batch size, and the test errors of each seed."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    figure = Figure(figsize=(12, 3.9), layout="constrained")
    figure.suptitle(f"{setting(results)}; {results['machine']}", fontsize="medium")
    panels = figure.subplots(1, 3)
    rows = results["rows"]
    batches = [row["batch"] for row in rows]
    for axes, field in zip(panels, ("seconds_per_epoch", "updates_per_second")):
        axes.plot(batches, [row[field] for row in rows], "o-", color="C2")
        axes.set_ylabel(field.replace("_", " "))
    for color, (field, title) in zip(("C0", "C1"), criteria(results).items()):
        errors = 100 - 100 * np.array([row[field] for row in rows])  # [batch, seed]
        panels[2].plot(batches, errors.mean(axis=1), color=color, label=title)
        panels[2].plot(batches, errors, "o", color=color, alpha=0.5)
    panels[2].set_ylabel("test errors (%)")
    panels[2].legend(title="points: seeds, line: mean")
    for axes in panels:
        axes.set(xscale="log", yscale="log", xlabel="batch size")
        axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    with file_errors(path):
        figure.savefig(path, dpi=120)


def write(results: dict, folder: Path) -> None:
    write_atomically(folder / "batch_size.json", json.dumps(results, indent=1) + "\n")
    write_atomically(folder / "batch_size.txt", table(results))
    picture(results, folder / "batch_size.png")


def check(flags: argparse.Namespace) -> data.Dataset:
    """Checks all flags, makes the folder --out and loads the data."""
    for name, least in {"epochs": 1, "updates": 1, "seeds": 1, "images": 0}.items():
        if getattr(flags, name) < least:
            raise InputError(f"--{name}={getattr(flags, name)}: give {least} or more")
    dataset = data.load(make_config(1, flags.images).data, 0)
    count = len(dataset.train.labels)
    if wrong := [batch for batch in flags.batches if not 1 <= batch <= count]:
        raise InputError(
            f"--batches: {', '.join(map(str, wrong))} cannot be, there are {count:,} "
            f"training images: give 1 to {count:,}, or --images=0 for all images")
    make_out(flags.out)
    return dataset


def measured_before(settings: dict, path: Path) -> dict[int, dict]:
    """Reads {batch: row} of an earlier start with the same settings and machine."""
    if not path.exists():
        return {}
    try:
        earlier = json.loads(path.read_text())
        if {**earlier, "rows": []} != settings:
            return {}
        return {row["batch"]: row for row in earlier["rows"]}
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} cannot be read ({error}): delete it, or name another "
                         "folder as --out") from error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with mnist/ (CNN_JAX_DATA)")
    parser.add_argument("--out", type=Path, default=Path("runs/batch_size"))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--images", type=int, default=0,
                        help="training images, 0 = all 54,000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    flags = parser.parse_args(argv)
    if flags.data:
        os.environ["CNN_JAX_DATA"] = str(flags.data)
    dataset = check(flags)
    results = ran_on() | {
        "rate": RATE, "epochs": flags.epochs, "updates": flags.updates,
        "images": flags.images, "seeds": flags.seeds, "rows": []}
    before = measured_before(results, flags.out / "batch_size.json")
    for batch in dict.fromkeys(flags.batches):
        if batch in before:
            print(f"batch {batch} was measured before; to measure it again, delete "
                  f"{flags.out / 'batch_size.json'}")
        results["rows"].append(before.get(batch) or measure(batch, dataset, flags))
        write(results, flags.out)
        print(table(results).splitlines()[-1], flush=True)
    print(f"\n{table(results)}")


if __name__ == "__main__":
    run_script(main)
