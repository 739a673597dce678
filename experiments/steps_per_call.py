"""Does it pay to run several training steps inside one `jit` call (`lax.scan`)?

    python experiments/steps_per_call.py                       30 s on two cores

Trains LeNet-5 on random images with 1, 2, 4 and 8 steps a call, interleaved in one run,
and prints the median time of a step and its ratio to one step a call. On a CPU, XLA
computes a convolution inside a loop by a slower path. On an accelerator, the overhead
of a call is longer than such a step. So `steps_per_call` is 1 on a CPU and 8 elsewhere.
"""

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
from cnn_jax.training.recipe import create_recipe, first_state  # noqa: E402
from cnn_jax.training.steps import train_steps  # noqa: E402
from cnn_jax.data.info import DataInfo  # noqa: E402
from configs import lenet  # noqa: E402

SIZES, STEPS, ROUNDS, BATCH, IMAGES = (1, 2, 4, 8), 16, 15, 128, 4096


def main() -> None:
    config = lenet.get_config("mnist")
    info = DataInfo("random", "", (28, 28, 1), tuple("0123456789"),
                    Scaling(0.0, 1 / 255),
                    {"train": IMAGES, "validation": 1, "test": 1}, sha256="")
    recipe = create_recipe(config, info)
    placement = parallel.mesh_placement(jax.devices()[:1])
    rng = np.random.default_rng(0)
    data = placement.replicate(Examples(
        rng.integers(0, 256, (IMAGES, 28, 28, 1), dtype=np.uint8),
        rng.integers(0, 10, IMAGES).astype(np.int32)))
    step = placement.compile(functools.partial(train_steps, recipe=recipe))
    state = placement.replicate(first_state(recipe, info.image_shape))
    rows = {size: placement.shard_batch(
        rng.integers(0, IMAGES, (size, BATCH)).astype(np.int32)) for size in SIZES}
    programs = {size: step.lower(state, data, rows[size]).compile(
        compiler_options=ops.compiler_options()) for size in SIZES}
    times = {size: [] for size in SIZES}
    for _ in range(ROUNDS):
        for size in SIZES:
            begun = time.perf_counter()
            for _ in range(STEPS // size):
                state, metrics = programs[size](state, data, rows[size])
            jax.block_until_ready(metrics)
            times[size].append((time.perf_counter() - begun) / STEPS)
    base = np.median(times[1])
    device = jax.devices()[0]
    print(f"{device.platform} ({device.device_kind}), jax {jax.__version__}, LeNet-5, "
          f"batch {BATCH}, {ROUNDS} rounds of {STEPS} steps")
    print("steps a call  ms a step (quartiles)      time / one step a call")
    for size in SIZES:
        low, middle, high = 1e3 * np.percentile(times[size], (25, 50, 75))
        print(f"{size:12}  {middle:6.2f} ({low:.2f} - {high:.2f})"
              f"{middle / base / 1e3:22.2f}")


if __name__ == "__main__":
    main()
