"""Does this machine repeat training steps bit for bit?

    python experiments/determinism.py                              20 s on a CPU
    python experiments/determinism.py --config=configs/mnist.py:cnn --steps=100

A resumed run ends with the bits of an uninterrupted one only if the device gives the
same result for the same program and operands; some GPU kernels do not. This makes the
first steps of a config twice from the same state, and compares every leaf of the state
and every metric after each step. It ends with code 1 at the first bit that differs. On
the CPUs that were tried (AMD EPYC, Intel Xeon) no bit differs.

It pools by slices on every device (`model.pool=windows`): the gradient of XLA's own max
pooling is a select-and-scatter, which a GPU may add up in any order.
"""

import argparse
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import data, ops  # noqa: E402
from cnn_jax.cli import config_file  # noqa: E402
from cnn_jax.data.batches import concatenate, train_order  # noqa: E402
from cnn_jax.data.info import describe  # noqa: E402
from cnn_jax.errors import InputError  # noqa: E402
from cnn_jax.training.recipe import create_recipe  # noqa: E402
from cnn_jax.training.steps import (Batch, TrainState, create_state,  # noqa: E402
                                    train_step)

Leaves = dict[str, np.ndarray]
POOL = "windows"  # its gradient has no scatter


def first_difference(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Describes the first value whose bits differ; '' if there is none."""
    a, b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8).reshape(x.size, -1)
            for x in (ours, theirs))
    where = np.flatnonzero((a != b).any(axis=1))
    if not len(where):
        return ""
    index = tuple(int(i) for i in np.unravel_index(where[0], ours.shape))
    return (f"at {list(index)}: {ours[index]!r} and {theirs[index]!r} "
            f"({len(where)} of {ours.size} values)")


def train(step: jax.stages.Compiled, state: TrainState,
          batches: list[Batch]) -> Iterator[Leaves]:
    """Yields every leaf of the state and every metric after each step, on the host."""
    for batch in batches:
        state, metrics = step(state, batch)
        leaves = jax.tree_util.tree_leaves_with_path((state, metrics))
        yield {jax.tree_util.keystr(path): np.array(leaf) for path, leaf in leaves}


def compare(step: jax.stages.Compiled, state: TrainState, batches: list[Batch]) -> str:
    """Makes the steps twice; describes the first difference, '' if there is none."""
    twice = (train(step, state, batches) for _ in range(2))
    for number, (ours, theirs) in enumerate(zip(*twice, strict=True), 1):
        for path in ours:
            if difference := first_difference(ours[path], theirs[path]):
                return f"step {number}, leaf {path}: {difference}"
    return ""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/lenet.py:digits",
                        metavar="FILE[:VARIANT]")
    parser.add_argument("--steps", type=int, default=10, help="of the first epoch")
    flags = parser.parse_args(argv)
    try:
        config = config_file.load(flags.config)
        config.model.pool = POOL
        dataset = data.load(config.data, config.seed)
        info = describe(dataset, config.data)
        recipe = create_recipe(config, info)
    except InputError as error:
        parser.error(str(error))
    examples, spans = concatenate(dataset)
    order = train_order(config.seed, 0, spans["train"], config.batch_size)
    order = order[:flags.steps]
    batches = [Batch(examples.images[rows], examples.labels[rows],
                     jnp.ones(len(rows)), jnp.arange(len(rows))) for rows in order]
    state = jax.jit(create_state, static_argnums=(0, 1))(recipe, info.image_shape)
    step = jax.jit(functools.partial(train_step, recipe=recipe)).lower(
        state, batches[0]).compile(compiler_options=ops.compiler_options())
    if difference := compare(step, state, batches):
        sys.exit(f"{flags.config}: not repeated: {difference}")
    device = jax.devices()[0]
    print(f"{flags.config}: {len(batches)} steps made twice, every bit the same, on "
          f"{device.platform} ({device.device_kind})")


if __name__ == "__main__":
    main()
