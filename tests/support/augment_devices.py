"""Augmentation of one batch on one device, over a mesh, and under pmap, as JSON:
{changes: [largest distance over the mesh, under pmap, collectives over the mesh]}.

python tests/support/augment_devices.py, with as many devices as there are.
"""

import functools
import json
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cnn_jax.data.augment import augment
from configs import default

MOVED = {"rotation_range": 20.0, "horizontal_flip": True, "crop_padding": 2,
         "cutout": 4}
MIXED = {"horizontal_flip": True, "mixup": 0.4, "cutmix": 1.0}
IMAGES = 8


def main() -> None:
    devices = jax.devices()
    split = NamedSharding(Mesh(np.array(devices), "batch"), PartitionSpec("batch"))
    batch = (np.random.default_rng(0).integers(0, 256, (IMAGES, 9, 8, 3), np.uint8),
             np.arange(IMAGES), np.arange(IMAGES))
    found = {}
    for name, changes in (("moved", MOVED), ("mixed", MIXED)):
        settings = default.get_config().augment
        settings.update(changes)
        run = functools.partial(augment, jax.random.key(3), settings=settings)
        want = jax.jit(run)(*batch)
        program = jax.jit(run).lower(*jax.device_put(batch, split)).compile()
        over_mesh = program(*jax.device_put(batch, split))
        mapped = jax.pmap(functools.partial(run, axis_name="batch"), "batch")(
            *(part.reshape(len(devices), -1, *part.shape[1:]) for part in batch))
        collectives = set(re.findall("all-gather|all-to-all|collective-permute",
                                     program.as_text()))
        found[name] = [distance(want, over_mesh), distance(want, mapped),
                       sorted(collectives)]
    print(json.dumps(found))


def distance(want, got) -> float:
    """The largest difference of any pixel, label or weight."""
    pairs = zip(jax.tree.leaves(want), jax.tree.leaves(got))
    return max(float(np.abs(np.asarray(a, float).ravel()
                            - np.asarray(b, float).ravel()).max()) for a, b in pairs)


if __name__ == "__main__":
    main()
