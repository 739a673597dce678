"""A worker that trains in JAX: with the operations of cnn_jax, or in plain Flax.

Plain Flax is the same network on `nn.Conv`, `nn.BatchNorm` and `reduce_window`, without
compiler options.
"""

import functools
import json
import sys
import time

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from arms.networks import FIELDS
from arms.peak import matrix_gflops
from arms.plain_flax import PlainFlax, make_train_step
from arms.worker import serve
from cnn_jax import networks, ops
from cnn_jax.interop.pretrained import PRETRAINED, network_of
from cnn_jax.networks.summary import layer_table
from cnn_jax.layers import Layers
from cnn_jax.native import library


def create(network: str, classes: int, make: Layers = Layers()):
    """Creates a registered network, or our equal of a published one (1,000 classes).

    The published network is named by its source, 'torchvision:resnet50'.
    """
    if network in PRETRAINED:
        return network_of(PRETRAINED[network], make)
    return networks.create(network, classes, make, **FIELDS.get(network, {}))


def load(net, images, arrays: dict[str, np.ndarray]):
    """Arranges the variables of `start.py` as the tree of `net`."""
    shapes = jax.eval_shape(functools.partial(net.init, train=False),
                            jax.random.key(0), images[:1])
    return flax.traverse_util.path_aware_map(
        lambda path, _: jnp.asarray(arrays["/".join(path[1:])]), shapes)


def main(network: str, classes: int, file: str, dtype: str, plain: bool) -> None:
    """Trains on the arrays of `file`: images, labels and our variables.

    dtype: of the computation; parameters stay float32.
    """
    arrays = np.load(file)
    images, labels = jnp.asarray(arrays["images"]), jnp.asarray(arrays["labels"])
    make = PlainFlax if plain else Layers
    net = create(network, classes, make(dtype=dtype))
    variables = load(net, images, arrays)
    del arrays
    optimizer = optax.sgd(0.01, momentum=0.9)
    options = {} if plain else ops.compiler_options()

    def predict(state, images):
        return net.apply(state[0], images, train=False).astype(jnp.float32)

    state = variables, optimizer.init(variables["params"])
    begun = time.perf_counter()
    train_step = jax.jit(make_train_step(net, optimizer), donate_argnums=0).lower(
        state, images, labels, jax.random.key(0)).compile(compiler_options=options)
    compile_s = time.perf_counter() - begun
    predict = jax.jit(predict).lower(state, images).compile(compiler_options=options)

    def train(count):
        nonlocal state
        for i in range(count):
            state, loss = train_step(state, images, labels, jax.random.key(i))
        return float(loss)

    def infer(count):
        for _ in range(count):
            logits = predict(state, images)
        return jax.block_until_ready(logits)

    device, onednn = jax.devices()[0], library.load()
    logits = infer(1)[:4].tolist()
    memory = train_step.memory_analysis()
    serve({"logits": logits, "losses": [train(1) for _ in range(3)],
           "version": f"jax {jax.__version__}", "compile_s": compile_s,
           "onednn": str(onednn) if onednn else None, "no_onednn": library.describe(),
           "device": f"{device.platform} {device.device_kind}",
           "temporary_mb": memory.temp_size_in_bytes / 1e6 if memory else None,
           "matmul_gflops": matrix_gflops(),
           "macs": layer_table(net, images.shape[1:]).macs,
           "params": sum(p.size for p in jax.tree.leaves(state[0]["params"]))},
          {"train": train, "infer": infer})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
