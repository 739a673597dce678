"""Writes the common start of all arms: images, labels and our network's variables.

A network that another library publishes has its variables twice: under our names, and
as `peer:NAME` under the names of that library.
"""

import functools
import json
import sys

import flax
import jax
import numpy as np

from arms.in_jax import create
from cnn_jax.interop.mapping import arrays_from
from cnn_jax.interop.pretrained import PRETRAINED, mapping_of_row


def main(network: str, classes: int, image: list[int], batch: int, file: str) -> None:
    rng = np.random.default_rng(0)
    images = rng.normal(size=(batch, *image)).astype(np.float32)
    net = create(network, classes)
    variables = jax.jit(functools.partial(net.init, train=False))(
        jax.random.key(0), images[:1])
    named = {"/".join(path[1:]): np.asarray(value) for path, value in
             flax.traverse_util.flatten_dict(variables).items()}
    if network in PRETRAINED:
        peer = arrays_from(mapping_of_row(PRETRAINED[network]), variables)
        named |= {f"peer:{name}": array for name, array in peer.items()}
    np.savez(file, images=images, labels=rng.integers(0, classes, batch), **named)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
