"""Augments a batch on one device, over a mesh and under pmap, and compares.

python -m tests.support.augment_devices few|all, with as many devices as there are,
prints JSON: the largest distance over the mesh and under pmap, and the collectives over
the mesh. `all` takes much longer to compile than `few`.
"""

import functools
import json
import re
import sys

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.data.augment import augment
from configs import default

FEW = {"horizontal_flip": True, "cutout": 4, "mixup": 0.4}
CHANGES = {"few": FEW, "all": FEW | {
    "rotation_range": 20.0, "crop_padding": 2, "crop_scale": (0.3, 1.0),
    "contrast": 0.4, "hue": 0.1, "trivial_augment": True, "random_erasing": 0.5}}
IMAGES_PER_DEVICE = 2


def main() -> None:
    devices = jax.devices()
    count = IMAGES_PER_DEVICE * len(devices)
    images = np.random.default_rng(0).integers(0, 256, (count, 9, 8, 3), np.uint8)
    batch = images, np.arange(count), np.arange(count)
    settings = default.get_config().augment
    settings.update(CHANGES[sys.argv[1]])
    run = functools.partial(augment, jax.random.key(3), settings=settings)
    expected = jax.jit(run)(*batch)

    sharding = NamedSharding(Mesh(np.array(devices), "batch"), PartitionSpec("batch"))
    sharded = jax.device_put(batch, sharding)
    program = jax.jit(run).lower(*sharded).compile()
    mapped = jax.pmap(functools.partial(run, axis_name="batch"), "batch")(
        *(x.reshape(len(devices), -1, *x.shape[1:]) for x in batch))
    print(json.dumps({
        "mesh": distance(expected, program(*sharded)),
        "pmap": distance(expected, mapped),
        "collectives": sorted(set(re.findall(
            "all-gather|all-to-all|collective-permute", program.as_text())))}))


def distance(expected, result) -> float:
    """Returns the largest difference of any pixel, label or weight."""
    pairs = zip(jax.tree.leaves(expected), jax.tree.leaves(result))
    return max(float(np.abs(np.asarray(a, float).ravel()
                            - np.asarray(b, float).ravel()).max()) for a, b in pairs)


if __name__ == "__main__":
    main()
