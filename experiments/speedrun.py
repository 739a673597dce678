"""How long does training to an accuracy take, from scratch, on this machine?

    python experiments/speedrun.py [--recipe=mnist] [--set FIELD=VALUE ...]
        [--data=FOLDER] [--cifar10-jpeg=FOLDER] [--seeds=10]
        [--without INGREDIENT ...] [--out=runs/speedrun]

Trains the network of experiments/speed/network.py with the recipe of
configs/speedrun.py, once for each seed. The rules are those of the usual speed runs:
only the training images, random initial values, and the accuracy on all test images at
the end, averaged over mirrored and shifted views of each. No decision depends
on the test images. The clock runs from the whitening to the last prediction. Reading
the data and compiling are not included.

--set changes fields of the recipe. --without also trains without single ingredients, to
show what each is worth.

On a CPU each call trains some steps, on GPU and TPU a whole epoch. Writes speedrun.json
and speedrun.txt; a seed that the JSON file has for the same recipe is not repeated.
"""

import argparse
import ast
import functools
import itertools
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import data, ops  # noqa: E402
from cnn_jax.data.scaling import Scaling  # noqa: E402
from cnn_jax.errors import InputError  # noqa: E402
from cnn_jax.files import write_atomically  # noqa: E402
from configs import default  # noqa: E402
from configs.speedrun import VARIANTS, get_config  # noqa: E402
from experiments.measuring import make_out, ran_on, run_script  # noqa: E402
from experiments.seed_statistics import mean_interval  # noqa: E402
from experiments.speed import training  # noqa: E402
from experiments.speed.training import Data, Recipe  # noqa: E402

TEST_BATCH = 1000
# {ingredient: the recipe without it}
WITHOUT: dict[str, dict[str, Any]] = {
    "whitening": {"whiten": False},
    "muon": {"optimizer": "nesterov"},
    "alternating flips": {"flip": "random"},
    "label smoothing": {"label_smoothing": 0.0},
    "lookahead": {"lookahead": False},
    "small images": {"sizes": ((1.0, 32),)},
    "test views": {"test_flips": False, "test_shifts": False},
}


class Sets(NamedTuple):
    train: Data
    test: Data
    scaling: Scaling  # of each channel to mean 0 and deviation 1
    classes: int
    source: str


class Programs(NamedTuple):
    """The compiled programs of a recipe."""

    create: Any           # (data, seed) -> state
    train: dict[tuple[int, int], Any]  # {(side of the images, steps): program}
    test: Any
    seconds: float        # that they took to compile


def load(name: str, folder: str | None, jpeg: str | None) -> Sets:
    """Loads all training images, the test images and the scaling of the former."""
    config = default.get_config().data
    config.name, config.dir = ("folder", jpeg) if jpeg else (name, folder)
    config.validation = 0.0
    dataset = data.load(config, seed=0)
    pixels = dataset.train.images
    flat = pixels.reshape(-1, pixels.shape[-1])
    # Sums of bytes are exact in float64.
    mean = flat.mean(0, dtype=np.float64)
    square = np.einsum("nc,nc->c", flat, flat, dtype=np.float64) / len(flat)
    scaling = Scaling(tuple(mean), tuple(1 / np.sqrt(square - mean**2)))
    sets = [Data(jnp.asarray(part.images), jnp.asarray(part.labels, jnp.int32))
            for part in (dataset.train, dataset.test)]
    return Sets(*sets, scaling, len(dataset.class_names), dataset.source)


def calls(recipe: Recipe, images: int, most: int) -> list[tuple[int, int, int, int]]:
    """Divides a run into calls: (epoch, first step in it, number of steps, side).

    A call has one size of images, and at most `most` steps of one epoch.
    """
    steps, per_epoch = training.steps_of(recipe, images), images // recipe.batch_size

    def epoch_and_side(step: int) -> tuple[int, int]:
        side = next(side for until, side in recipe.sizes if step < until * steps)
        return step // per_epoch, side

    made = []
    for (epoch, side), group in itertools.groupby(range(steps), epoch_and_side):
        part = [step % per_epoch for step in group]
        made += [(epoch, part[i], len(part[i:i + most]), side)
                 for i in range(0, len(part), most)]
    return made


def padded(sets: Sets, recipe: Recipe) -> Data:
    return sets.train._replace(images=training.pad(sets.train.images, recipe.translate))


def batches_of_test(sets: Sets) -> list[Data]:
    return [Data(*(array[start:start + TEST_BATCH] for array in sets.test))
            for start in range(0, len(sets.test.labels), TEST_BATCH)]


def compile_programs(recipe: Recipe, sets: Sets, most: int) -> Programs:
    """Compiles all programs of a recipe; `most` is the number of steps of a call."""
    images = len(sets.train.labels)
    steps = training.steps_of(recipe, images)
    optimizer = training.make_optimizer(recipe, steps, images // recipe.batch_size)
    begun = time.perf_counter()
    create = functools.partial(training.create, recipe, optimizer, sets.scaling,
                               sets.classes)
    given = sets.train, jnp.int32(0)
    state, draws = jax.eval_shape(create, *given), training.draw(recipe, images, 0, 0)
    train = {}
    for _, _, count, side in calls(recipe, images, most):
        if (side, count) not in train:
            step = functools.partial(
                training.train_steps, recipe=recipe, optimizer=optimizer,
                scaling=sets.scaling, side=side, steps=steps)
            train[side, count] = ops.jit(step, donate_argnums=0).lower(
                state, draws.rows[:count], padded(sets, recipe), draws).compile()
    test = functools.partial(training.count_correct, recipe=recipe,
                             scaling=sets.scaling)
    return Programs(
        ops.jit(create).lower(*given).compile(), train,
        ops.jit(test).lower(state, batches_of_test(sets)[0]).compile(),
        time.perf_counter() - begun)


def run(recipe: Recipe, sets: Sets, programs: Programs, seed: int,
        most: int) -> dict[str, Any]:
    """Trains one seed; returns its test accuracy and its seconds."""
    begun = time.perf_counter()
    images = len(sets.train.labels)
    state, data = programs.create(sets.train, jnp.int32(seed)), padded(sets, recipe)
    losses = []
    for epoch, first, count, side in calls(recipe, images, most):
        if first == 0:
            draws = training.draw(recipe, images, seed, epoch)
        state, loss = programs.train[side, count](
            state, draws.rows[first:first + count], data, draws)
        losses.append(loss)
    correct = sum(int(programs.test(state, batch)) for batch in batches_of_test(sets))
    return {"accuracy": correct / len(sets.test.labels),
            "seconds": time.perf_counter() - begun,
            "loss": float(jnp.concatenate(losses)[-10:].mean()), "seed": seed}


def recipes(config: ConfigDict, without: list[str]) -> dict[str, Recipe]:
    """Makes the recipe of a config, and those that leave out one ingredient."""
    fields = {name: tuple(map(tuple, value)) if name == "sizes" else
              tuple(value) if isinstance(value, tuple | list) else value
              for name, value in config.items() if name != "data"}
    full = Recipe(**fields)
    names = list(WITHOUT) if without == ["all"] else without
    if unknown := sorted(set(names) - set(WITHOUT)):
        raise InputError(f"--without={unknown[0]} is no ingredient; there are "
                         f"{', '.join(WITHOUT)}")
    return {"full": full} | {f"without {name}": full._replace(**WITHOUT[name])
                             for name in names if full._replace(
                                 **WITHOUT[name]) != full}


def table(results: dict[str, Any]) -> str:
    """Formats the accuracy and the time of each recipe."""
    lines = [f"{results['machine']}; {results['data']}",
             f"{'':28}{'n':>3}{'accuracy':>10}{'sd':>8}  {'95 % interval':17}"
             f"{'seconds':>9}{'compile':>9}"]
    for name, arm in results["arms"].items():
        values = [row["accuracy"] for row in arm["runs"]]
        interval = mean_interval(values)
        lines.append(
            f"{name:28}{len(values):>3}{statistics.fmean(values):>10.4f}"
            + (f"{statistics.stdev(values):>8.4f}  "
               f"{interval.low:.4f} - {interval.high:.4f}" if interval
               else f"{'':8}  {'':15}")
            + f"{statistics.median(row['seconds'] for row in arm['runs']):>11.1f}"
            f"{arm['compile_seconds']:>9.1f}")
    return "\n".join(lines) + "\n"


def resumed(earlier: dict[str, Any] | None, recipe: Recipe) -> dict[str, Any]:
    """Returns the results of an arm, if they are of this recipe, or empty ones."""
    fields = json.loads(json.dumps(recipe._asdict()))
    if earlier is not None and earlier["recipe"] == fields:
        return earlier
    return {"recipe": fields, "runs": [], "compile_seconds": 0.0}


def change(config: ConfigDict, settings: list[str]) -> None:
    """Sets fields of a recipe by texts 'FIELD=VALUE'.

    Raises InputError for an unknown field, or a value of another type.
    """
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in config:
            raise InputError(f"--set {setting}: {name} is no field; there are "
                             f"{', '.join(config)}")
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            value = text
        try:
            config[name] = value
        except TypeError as error:
            raise InputError(f"--set {setting}: write a value such as "
                             f"{config[name]!r}") from error


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=VARIANTS, default="cifar10",
                        help="of configs/speedrun.py")
    parser.add_argument("--set", nargs="+", default=[], metavar="FIELD=VALUE")
    parser.add_argument("--data", help="folder of the official files")
    parser.add_argument("--cifar10-jpeg", metavar="FOLDER",
                        help="a JPEG copy of CIFAR-10, as class folders")
    parser.add_argument("--seeds", type=int, default=10, help="n: seeds 0 ... n - 1")
    parser.add_argument("--without", nargs="+", default=[], metavar="INGREDIENT",
                        help=f"all, or of {', '.join(WITHOUT)}")
    parser.add_argument("--out", type=Path, default=Path("runs/speedrun"))
    given = parser.parse_args(argv)
    config, out = get_config(given.recipe), given.out
    change(config, given.set)
    chosen = recipes(config, given.without)
    make_out(out)
    sets = load(config.data, given.data, given.cifar10_jpeg)
    if TEST_BATCH > len(sets.test.labels) or len(sets.test.labels) % TEST_BATCH:
        raise InputError(f"the test split has {len(sets.test.labels):,} images, which "
                         f"is not a multiple of {TEST_BATCH:,}")
    most = 10 if jax.default_backend() == "cpu" else 10**9
    path = out / "speedrun.json"
    earlier = json.loads(path.read_text())["arms"] if path.exists() else {}
    results: dict[str, Any] = ran_on() | {"data": sets.source, "arms": earlier}
    for name, recipe in chosen.items():
        arm = resumed(earlier.get(name), recipe)
        results["arms"][name] = arm
        if len(arm["runs"]) >= given.seeds:
            continue
        programs = compile_programs(recipe, sets, most)
        arm["compile_seconds"] = programs.seconds
        for seed in range(len(arm["runs"]), given.seeds):
            arm["runs"].append(run(recipe, sets, programs, seed, most))
            print(name, arm["runs"][-1], flush=True)
            write_atomically(path, json.dumps(results, indent=1) + "\n")
            write_atomically(path.with_suffix(".txt"), table(results))
    print(table(results), end="")


if __name__ == "__main__":
    run_script(main)
