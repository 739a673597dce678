"""How much time does augmentation add to a training step?

    python experiments/augment_cost.py [--batch 64] [--rounds 7] [--only NAME ...]

Times whole training steps of `monkey_cnn` on random images of 128 x 128 pixels: without
augmentation, with that of configs/monkeys.py (rotation, shifts, shear, zoom, flip), and
with crops, colours, TrivialAugment, erasing and mixing. All take turns in each round.
The ratio to the step without augmentation is computed within the round, because the
machine's speed drifts. On two cores of an AMD EPYC the augmentation of
configs/monkeys.py adds 1.1 % (quartiles -0.7 and 1.9 %, 7 rounds). Writes
augment_cost.txt and augment_cost.json.
"""

import argparse
import functools
import json
import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import ops  # noqa: E402
from cnn_jax.data.examples import Examples  # noqa: E402
from cnn_jax.data.scaling import Scaling  # noqa: E402
from cnn_jax.errors import InputError  # noqa: E402
from cnn_jax.training import parallel  # noqa: E402
from cnn_jax.files import write_atomically  # noqa: E402
from cnn_jax.training.recipe import create_recipe, first_state  # noqa: E402
from cnn_jax.training.steps import train_steps  # noqa: E402
from cnn_jax.data.info import DataInfo  # noqa: E402
from configs import default, monkeys  # noqa: E402
from experiments.measuring import make_out, ran_on, run_script  # noqa: E402

IMAGES, SHAPE = 256, (128, 128, 3)
PLAIN, MONKEYS = "nothing", "the monkeys'"
PIPELINES = {
    PLAIN: {},
    MONKEYS: dict(monkeys.get_config().augment),
    "flip": {"horizontal_flip": True},
    "flip, crop": {"horizontal_flip": True, "crop_padding": 8},
    "flip, crop, cutout": {"horizontal_flip": True, "crop_padding": 8, "cutout": 32},
    "flip, random crop": {"horizontal_flip": True, "crop_scale": (0.08, 1.0)},
    "colour jitter": {"brightness": 0.4, "contrast": 0.4, "saturation": 0.4,
                      "hue": 0.1},
    "TrivialAugment": {"trivial_augment": True},
    "random erasing": {"random_erasing": 0.25},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
}


def programs(batch: int, names: list[str]) -> tuple[dict, tuple]:
    """Compiles a step for each pipeline; returns them and the arguments of each."""
    steps, rng = {}, np.random.default_rng(0)
    placement = parallel.mesh_placement(jax.devices()[:1])
    data = placement.replicate(Examples(
        rng.integers(0, 256, (IMAGES, *SHAPE), dtype=np.uint8),
        rng.integers(0, 10, IMAGES).astype(np.int32)))
    rows = placement.shard_batch(rng.integers(0, IMAGES, (1, batch)).astype(np.int32))
    info = DataInfo("random", "", SHAPE, tuple("0123456789"), Scaling(0.0, 1 / 255),
                    {"train": IMAGES, "validation": 1, "test": 1}, sha256="")
    for name in names:
        config = monkeys.get_config()
        config.batch_size = batch
        config.augment = default.get_config().augment
        config.augment.update(PIPELINES[name])
        recipe = create_recipe(config, info)
        state = placement.replicate(first_state(recipe, SHAPE))
        steps[name] = placement.compile(functools.partial(
            train_steps, recipe=recipe)).lower(state, data, rows).compile(
                compiler_options=ops.compiler_options())
    return steps, (state, data, rows)


def measure(batch: int, rounds: int, names: list[str]) -> dict[str, list[float]]:
    """Returns {pipeline: seconds of a step in each round}."""
    steps, arguments = programs(batch, names)
    seconds = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name, step in steps.items():
            begun = time.perf_counter()
            jax.block_until_ready(step(*arguments))
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - begun)
    return seconds


def ratios(seconds: dict[str, list[float]], name: str) -> tuple[float, float, float]:
    """Returns quartiles, over the rounds, of time / time without augmentation."""
    quartiles = np.percentile(np.array(seconds[name]) / seconds[PLAIN], (25, 50, 75))
    return tuple(map(float, quartiles))


def conclusion(seconds: dict[str, list[float]]) -> str:
    """States what the augmentation of configs/monkeys.py adds, if it was measured."""
    if MONKEYS not in seconds:
        return ""
    low, middle, high = (f"{100 * (ratio - 1):.1f} %"
                         for ratio in ratios(seconds, MONKEYS))
    return f"{MONKEYS} augmentation adds {middle} ({low} to {high}) to the step\n"


def table(results: dict) -> str:
    seconds = results["seconds"]
    lines = [f"{results['machine']}, jax {results['versions']['jax']}, "
             f"{results['device']}; monkey_cnn, batch {results['batch']}, "
             f"{results['rounds']} round{'s' * (results['rounds'] > 1)}",
             f"{'augmentation':20} ms a step   / {PLAIN} (quartiles)"]
    for name, values in seconds.items():
        low, middle, high = ratios(seconds, name)
        lines.append(f"{name:20} {1e3 * np.median(values):9.1f}   {middle:.3f} "
                     f"({low:.3f} - {high:.3f})")
    return "\n".join(lines) + "\n" + conclusion(seconds)


def check(flags: argparse.Namespace) -> None:
    """Raises InputError for flags that cannot be used; makes the folder --out."""
    if not 1 <= flags.batch <= IMAGES:
        raise InputError(f"--batch={flags.batch}: give 1 to {IMAGES} images")
    if flags.rounds < 1:
        raise InputError(f"--rounds={flags.rounds}: give 1 or more")
    make_out(flags.out)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/augment_cost"))
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=PIPELINES, default=[*PIPELINES],
                        metavar="NAME", help=f"of: {'; '.join(PIPELINES)}")
    flags = parser.parse_args(argv)
    check(flags)
    seconds = measure(flags.batch, flags.rounds,
                      list(dict.fromkeys([PLAIN, *flags.only])))
    results = ran_on() | {"batch": flags.batch, "rounds": flags.rounds,
                          "seconds": seconds}
    write_atomically(flags.out / "augment_cost.json",
                     json.dumps(results, indent=1) + "\n")
    write_atomically(flags.out / "augment_cost.txt", table(results))
    print(table(results))


if __name__ == "__main__":
    run_script(main)
