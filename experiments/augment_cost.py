"""What augmentation adds to a training step of the monkeys' network.

python experiments/augment_cost.py [--batch 64] [--rounds 7] [--only NAME ...]

Times whole training steps of `monkey_cnn` on random images of 128 x 128 pixels, without
and with the augmentation of configs/monkeys.py (rotation, shifts, shear, zoom, flip),
and with crop-and-pad, cutout and mixing. All of them take turns in each round, and the
ratio to the plain step is taken within the round, since the machine's speed drifts.
Expected: the monkeys' augmentation adds at most 15 % on a CPU.
"""

import argparse
import functools
import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import ops  # noqa: E402
from cnn_jax.data.examples import Examples  # noqa: E402
from cnn_jax.data.scaling import Scaling  # noqa: E402
from cnn_jax.training import parallel  # noqa: E402
from cnn_jax.training.setup import create_recipe, first_state  # noqa: E402
from cnn_jax.training.workdir import DataInfo  # noqa: E402
from configs import default, monkeys  # noqa: E402

IMAGES = 256
PIPELINES = {
    "nothing": {},
    "the monkeys'": dict(monkeys.get_config().augment),
    "flip": {"horizontal_flip": True},
    "flip, crop": {"horizontal_flip": True, "crop_padding": 8},
    "flip, crop, cutout": {"horizontal_flip": True, "crop_padding": 8, "cutout": 32},
    "mixup": {"mixup": 0.2},
    "cutmix": {"cutmix": 1.0},
}


def programs(batch: int, names: list[str]) -> tuple[dict, tuple]:
    """{pipeline: compiled step}, and the arguments of each."""
    shape, steps = (128, 128, 3), {}
    rng = np.random.default_rng(0)
    placement = parallel.mesh_placement(jax.devices()[:1])
    data = placement.put(Examples(
        rng.integers(0, 256, (IMAGES, *shape), dtype=np.uint8),
        rng.integers(0, 10, IMAGES).astype(np.int32)))
    rows = placement.put_rows(rng.integers(0, IMAGES, (1, batch)).astype(np.int32))
    info = DataInfo("random", "", shape, tuple("0123456789"), Scaling(0.0, 1 / 255),
                    {"train": IMAGES, "validation": 1, "test": 1}, sha256="")
    for name in names:
        config = monkeys.get_config()
        config.batch_size = batch
        config.augment = default.get_config().augment
        config.augment.update(PIPELINES[name])
        recipe = create_recipe(config, info)
        state = placement.put(first_state(recipe, shape))
        steps[name] = placement.wrap(functools.partial(
            parallel.train_steps, recipe=recipe)).lower(state, data, rows).compile(
                compiler_options=ops.compiler_options())
    return steps, (state, data, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--batch", type=int, default=64, help="images a step")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", choices=PIPELINES, default=[*PIPELINES],
                        metavar="NAME", help=f"of {', '.join(PIPELINES)}")
    options = parser.parse_args()
    steps, arguments = programs(options.batch, list(
        dict.fromkeys(["nothing", *options.only])))
    seconds = {name: [] for name in steps}
    for turn in range(options.rounds + 1):
        for name, step in steps.items():
            begun = time.perf_counter()
            jax.block_until_ready(step(*arguments))
            if turn:  # the first round warms up
                seconds[name].append(time.perf_counter() - begun)
    device = jax.devices()[0]
    print(f"{device.platform} ({device.device_kind}), jax {jax.__version__}, "
          f"monkey_cnn, batch {options.batch}, {options.rounds} rounds")
    print(f"{'augmentation':20} ms a step   / nothing (quartiles)")
    base = np.array(seconds["nothing"])
    for name, values in seconds.items():
        low, middle, high = np.percentile(np.array(values) / base, (25, 50, 75))
        print(f"{name:20} {1e3 * np.median(values):9.1f}   {middle:.3f} "
              f"({low:.3f} - {high:.3f})")


if __name__ == "__main__":
    main()
