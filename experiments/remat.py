"""How much memory does a training step need with and without `model.remat`?

    python experiments/remat.py [--batch 32] [--side 224] [NETWORK[:FREEZE] ...]

Compiles a training step of each network (momentum, 1,000 classes) both ways. FREEZE is
a value of model.freeze, for fine-tuning of the other parts. Prints the working memory
that XLA reserves: what the step needs besides parameters, optimizer state and images.
Nothing is run, so it says nothing about time. The default networks take a few minutes
on two cores.
"""

import argparse
import functools
import sys
from pathlib import Path

import jax
import jax.numpy as jnp

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import ops  # noqa: E402
from cnn_jax.config import check  # noqa: E402
from cnn_jax.data.info import DataInfo  # noqa: E402
from cnn_jax.data.scaling import Scaling  # noqa: E402
from cnn_jax.errors import InputError  # noqa: E402
from cnn_jax.training.recipe import abstract_state, create_recipe  # noqa: E402
from cnn_jax.training.steps import Batch, train_step  # noqa: E402
from configs import default  # noqa: E402
from experiments.measuring import ran_on, run_script  # noqa: E402

NETWORKS = ["resnet50", "densenet121", "resnet50:stem,stage1,stage2", "resnet50:trunk"]
CLASSES = tuple(map(str, range(1000)))


def working_bytes(network: str, batch: int, side: int, remat: bool) -> int:
    """Compiles a step and returns the bytes of its temporary buffers."""
    shape = (side, side, 3)
    config = default.get_config()
    config.model.name, _, freeze = network.partition(":")
    config.model.freeze, config.model.remat = freeze or None, remat
    config.batch_size = batch
    config.optimizer.name = "momentum"
    check(config)
    recipe = create_recipe(config, DataInfo(
        "random", "", shape, CLASSES, Scaling(0.0, 1 / 255),
        {"train": batch, "validation": 1, "test": 1}, sha256=""))
    count = jax.ShapeDtypeStruct((batch,), jnp.int32)
    program = jax.jit(functools.partial(train_step, recipe=recipe), donate_argnums=0)
    compiled = program.lower(abstract_state(recipe, shape), Batch(
        jax.ShapeDtypeStruct((batch, *shape), jnp.uint8), count,
        jax.ShapeDtypeStruct((batch,), jnp.float32), count)).compile(
            compiler_options=ops.compiler_options(remat))
    return int(compiled.memory_analysis().temp_size_in_bytes)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK[:FREEZE]",
                        default=NETWORKS)
    parser.add_argument("--batch", type=int, default=32, help="images a step")
    parser.add_argument("--side", type=int, default=224, help="pixels")
    flags = parser.parse_args(argv)
    if min(flags.batch, flags.side) < 1:
        raise InputError(f"--batch={flags.batch} --side={flags.side}: give 1 or more")
    facts = ran_on()
    print(f"{facts['device']}, jax {facts['versions']['jax']}; batches of "
          f"{flags.batch} images of {flags.side} x {flags.side} pixels")
    print(f"{'network':27} {'kept':>10} {'model.remat':>12}   ratio")
    for network in flags.networks:
        kept, again = (working_bytes(network, flags.batch, flags.side, remat)
                       for remat in (False, True))
        print(f"{network:27} {kept / 2**20:6,.0f} MiB {again / 2**20:8,.0f} MiB   "
              f"{again / kept:.2f}", flush=True)


if __name__ == "__main__":
    run_script(main)
