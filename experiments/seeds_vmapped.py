"""Does it pay to train the n seeds of a small network in one vmapped program?

python experiments/seeds_vmapped.py

Trains five seeds one after another and all five at once, with 1 and with 16 training
steps a call (`lax.scan`), on random images: first it checks that the seeds' parameters
agree, then it lets the arms run in turn. A vmapped convolution with a kernel for each
seed is a grouped convolution to XLA; a vmapped dense layer is a batched product.
Prints the time of a step of one seed, and (one after another, 1 step a call) / arm.
"""

import dataclasses
import functools
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import ops  # noqa: E402
from cnn_jax.data.examples import Examples  # noqa: E402
from cnn_jax.data.scaling import Scaling  # noqa: E402
from cnn_jax.training import parallel  # noqa: E402
from cnn_jax.training.setup import create_recipe, first_state  # noqa: E402
from cnn_jax.training.workdir import DataInfo  # noqa: E402
from configs import lenet, mnist, shapes  # noqa: E402

SEEDS, CALLS, STEPS, ROUNDS, IMAGES = 5, (1, 16), 64, 11, 4096
AGREE = 1e-5  # relative distance of the parameters after 16 steps
RATE = 1e-4  # costs what any rate costs, and does not enlarge the rounding of a step
CASES = {  # name: (config, image shape, classes)
    "shape DNN, batch 16": (shapes.get_config("shape_dnn"), (28, 28, 1), 5),
    "shape CNN, batch 16": (shapes.get_config("shape_cnn"), (28, 28, 1), 5),
    "colour CNN, batch 16": (shapes.get_config("colour_cnn"), (28, 28, 3), 6),
    "MNIST DNN, batch 128": (mnist.get_config("dnn"), (28, 28, 1), 10),
    "LeNet-5, batch 64": (lenet.get_config("mnist"), (28, 28, 1), 10),
}


def train_seed(state, seed, data, order, recipe):
    """`train_steps` with a seed that may be traced."""
    return parallel.train_steps(state, data, order,
                                dataclasses.replace(recipe, seed=seed))


class Case:
    """The programs of one network and what they start from."""

    def __init__(self, config, shape, classes):
        rng = np.random.default_rng(0)
        info = DataInfo("random", "", shape, tuple(map(str, range(classes))),
                        Scaling(0.0, 1 / 255),
                        {"train": IMAGES, "validation": 1, "test": 1}, sha256="")
        config.optimizer.learning_rate = RATE
        recipe = create_recipe(config, info)
        self.data = jax.device_put(Examples(
            rng.integers(0, 256, (IMAGES, *shape), dtype=np.uint8),
            rng.integers(0, classes, IMAGES).astype(np.int32)))
        self.orders = rng.integers(
            0, IMAGES, (SEEDS, STEPS, config.batch_size)).astype(np.int32)
        self.states = [first_state(dataclasses.replace(recipe, seed=seed), shape)
                       for seed in range(SEEDS)]
        self.stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *self.states)
        one = functools.partial(train_seed, recipe=recipe)
        every = jax.vmap(one, in_axes=(0, 0, None, 0))
        self.programs = {}
        for calls in CALLS:
            for name, step, state, seed, order in (
                    ("one after another", one, self.states[0], jnp.int32(0),
                     self.orders[0, :calls]),
                    ("at once", every, self.stacked, jnp.arange(SEEDS),
                     self.orders[:, :calls])):
                self.programs[name, calls] = jax.jit(step, donate_argnums=0).lower(
                    state, seed, self.data, order).compile(
                        compiler_options=ops.compiler_options())

    def train(self, name: str, calls: int, steps: int):
        """Parameters after so many steps, stacked by seed, and the seconds."""
        program = self.programs[name, calls]
        seeds = jax.device_put(np.arange(SEEDS, dtype=np.int32))
        jobs = ([(self.stacked, seeds, self.orders)] if name == "at once" else
                list(zip(self.states, list(seeds), self.orders)))
        jobs = [(jax.device_put(state), seed, order) for state, seed, order in jobs]
        jax.block_until_ready(jobs)
        begun, ends = time.perf_counter(), []
        for state, seed, order in jobs:
            for done in range(0, steps, calls):
                rows = jax.device_put(order[..., done:done + calls, :])
                state, _ = program(state, seed, self.data, rows)
            ends.append(jax.block_until_ready(state.params))
        seconds = time.perf_counter() - begun
        if name != "at once":
            ends = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *ends)]
        return ends[0], seconds


def distance(ours, theirs) -> float:
    """|a - b| / |b| over all parameters of all seeds."""
    change = jax.tree.map(jnp.subtract, ours, theirs)
    return float(optax.tree.norm(change) / optax.tree.norm(theirs))


def main() -> None:
    device = jax.devices()[0]
    print(f"{device.platform} ({device.device_kind}), jax {jax.__version__}, {SEEDS} "
          f"seeds, median (quartiles) of {ROUNDS} rounds of {STEPS} steps")
    print("network                 seeds              steps/call  us a step of a seed"
          "      times as fast          relative distance")
    for title, settings in CASES.items():
        case = Case(*settings)
        first, _ = case.train("one after another", 1, 16)
        apart = {arm: distance(case.train(*arm, 16)[0], first)
                 for arm in case.programs}
        assert max(apart.values()) < AGREE, apart
        times = {arm: [] for arm in case.programs}
        for _ in range(ROUNDS):
            for arm in times:
                times[arm].append(case.train(*arm, STEPS)[1])
        base = np.array(times["one after another", 1])
        for arm, seconds in times.items():
            microseconds = 1e6 * np.median(seconds) / STEPS / SEEDS
            low, middle, high = np.percentile(base / seconds, (25, 50, 75))
            print(f"{title:22}  {arm[0]:18} {arm[1]:11} {microseconds:20.0f}"
                  f"{middle:12.2f} ({low:.2f} - {high:.2f})  {apart[arm]:16.0e}",
                  flush=True)


if __name__ == "__main__":
    main()
