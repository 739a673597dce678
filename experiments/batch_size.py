"""What the batch size costs: time, updates and accuracy, from 1 to 1,024 images.

    python experiments/batch_size.py --data=DIR                    about 15 minutes
    python experiments/batch_size.py --data=DIR --images=10000 --seeds=1     faster

Trains LeNet-5 on MNIST by plain SGD with one and the same learning rate for every
batch size, and judges it on the test part twice: after as many epochs as every other
batch size, and after as many updates. Only the batch size differs, so a larger batch
makes fewer updates an epoch, each from a better gradient; the rate is not tuned to
it. Writes batch_size.txt, batch_size.json and batch_size.png.
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

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import data, ops  # noqa: E402
from cnn_jax.data.batches import (concatenate, steps_per_epoch,  # noqa: E402
                                  train_order)
from cnn_jax.errors import InputError, RunError  # noqa: E402
from cnn_jax.training import parallel  # noqa: E402
from cnn_jax.training.evaluate import compile_evaluation  # noqa: E402
from cnn_jax.training.results import machine  # noqa: E402
from cnn_jax.training.setup import create_recipe, first_state  # noqa: E402
from cnn_jax.training.workdir import describe  # noqa: E402
from configs import lenet  # noqa: E402

BATCHES = (1, 10, 32, 128, 1024)
RATE = 0.05
FETCH = 200  # steps between waits for the device


def make_config(batch: int, images: int):
    config = lenet.get_config("mnist")
    config.batch_size = batch
    config.data.limit = images
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = RATE
    config.schedule.name = "constant"
    for field in ("width_shift_range", "height_shift_range"):
        config.augment[field] = 0.0
    return config


class Trainer:
    """LeNet-5 with one batch size: compiled once, trained from any seed."""

    def __init__(self, batch: int, images: int):
        self.config = make_config(batch, images)
        dataset = data.load(self.config.data, 0)
        self.info = describe(dataset, self.config.data.scaling)
        self.recipe = create_recipe(self.config, self.info)
        self.placement = parallel.mesh_placement(jax.devices()[:1])
        examples, self.spans = concatenate(dataset)
        self.examples = self.placement.put(examples)
        state = self.placement.put(first_state(self.recipe, self.info.image_shape))
        step = self.placement.wrap(
            functools.partial(parallel.train_steps, recipe=self.recipe), donate=(0,))
        self.step = step.lower(
            state, self.examples, self.placement.put_rows(
                np.zeros((1, batch), np.int32))).compile(
                    compiler_options=ops.compiler_options())
        self.evaluate = compile_evaluation(
            self.recipe, self.placement, state, self.examples, self.spans,
            self.config.eval_batch_size)

    @property
    def steps(self) -> int:
        """Updates in an epoch."""
        return steps_per_epoch(len(self.spans["train"]), self.config.batch_size)

    def train(self, seed: int, stops: list[int]) -> tuple[dict[int, float], float]:
        """({updates: test accuracy}, seconds an update), to the last of `stops`."""
        recipe = dataclasses.replace(self.recipe, seed=seed)
        state = self.placement.put(first_state(recipe, self.info.image_shape))
        found, seconds, order = {}, 0.0, None
        begun = time.perf_counter()
        for update in range(max(stops)):
            epoch, within = divmod(update, self.steps)
            if within == 0:
                order = train_order(seed, epoch, self.spans["train"],
                                    self.config.batch_size)
            state, metrics = self.step(
                state, self.examples,
                self.placement.put_rows(order[within:within + 1]))
            if (update + 1) % FETCH == 0 or update + 1 in stops:
                loss = float(metrics["loss"][0])
                if not np.isfinite(loss):
                    raise RunError(f"batch {self.config.batch_size}: the loss is "
                                   f"{loss} at update {update + 1}")
            if update + 1 in stops:
                seconds += time.perf_counter() - begun
                found[update + 1] = self.evaluate(state, "test")["accuracy"]
                begun = time.perf_counter()
        return found, seconds / max(stops)


def measure(batch: int, images: int, epochs: int, updates: int, seeds: int) -> dict:
    """The row of one batch size."""
    trainer = Trainer(batch, images)
    by_epochs = epochs * trainer.steps
    trainer.train(0, [min(50, by_epochs)])  # warm-up
    runs = [trainer.train(seed, sorted({by_epochs, updates})) for seed in range(seeds)]
    per_update = float(np.median([seconds for _, seconds in runs]))
    return {"batch": batch, "training_images": len(trainer.spans["train"]),
            "updates_per_epoch": trainer.steps,
            "seconds_per_epoch": per_update * trainer.steps,
            "updates_per_second": 1 / per_update,
            "after_equal_epochs": [found[by_epochs] for found, _ in runs],
            "after_equal_updates": [found[updates] for found, _ in runs]}


def spread(values: list[float]) -> str:
    deviation = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{deviation}"


def table(results: dict) -> str:
    found = results["rows"]
    lines = [f"{results['hardware']}; LeNet-5, MNIST, {found[0]['training_images']:,} "
             f"training images, SGD of rate {results['rate']}, n = {results['seeds']}, "
             "accuracy on the test part (mean ± standard deviation)",
             "batch  updates/epoch  seconds/epoch  updates/s  "
             f"after {results['epochs']} epochs    after {results['updates']:,} "
             "updates"]
    for row in found:
        lines.append(
            f"{row['batch']:5}  {row['updates_per_epoch']:13,}  "
            f"{row['seconds_per_epoch']:13.2f}  {row['updates_per_second']:9,.0f}  "
            f"{spread(row['after_equal_epochs']):17}  "
            f"{spread(row['after_equal_updates'])}")
    return "\n".join(lines) + "\n"


def picture(results: dict, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    batches = [row["batch"] for row in results["rows"]]
    left.plot(batches, [row["seconds_per_epoch"] for row in results["rows"]], "o-")
    left.set(xscale="log", yscale="log", xlabel="batch size",
             ylabel="seconds per epoch")
    for field, label in (("after_equal_epochs", f"{results['epochs']} epochs"),
                         ("after_equal_updates", f"{results['updates']:,} updates")):
        values = [row[field] for row in results["rows"]]
        right.errorbar(batches, [np.mean(v) for v in values],
                       [np.std(v, ddof=1) if len(v) > 1 else 0 for v in values],
                       fmt="o-", capsize=3, label=f"after {label}")
    right.set(xscale="log", xlabel="batch size", ylabel="test accuracy")
    right.legend()
    for axes in (left, right):
        axes.set_xticks(batches, batches)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, help="folder with mnist/ (CNN_JAX_DATA)")
    parser.add_argument("--out", type=Path, default=Path("runs/batch_size"))
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--updates", type=int, default=500)
    parser.add_argument("--images", type=int, default=0,
                        help="training images, 0 = all 54,000")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES)
    flags = parser.parse_args(argv)
    if flags.data:
        os.environ["CNN_JAX_DATA"] = str(flags.data)
    results = {"hardware": f"{machine()}, jax {jax.__version__}, "
               f"{jax.devices()[0].platform}", "rate": RATE, "epochs": flags.epochs,
               "updates": flags.updates, "seeds": flags.seeds, "rows": []}
    for batch in flags.batches:
        results["rows"].append(measure(batch, flags.images, flags.epochs,
                                       flags.updates, flags.seeds))
        print(table(results).splitlines()[-1], flush=True)
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "batch_size.json").write_text(json.dumps(results, indent=1) + "\n")
    (flags.out / "batch_size.txt").write_text(table(results))
    picture(results, flags.out / "batch_size.png")
    print(table(results))


if __name__ == "__main__":
    try:
        main()
    except (InputError, RunError) as error:
        sys.exit(f"batch_size.py: {error}")
