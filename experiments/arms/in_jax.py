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
from arms.worker import compiling_alone, errors_to, measured_alone, serve
from cnn_jax import networks, ops
from cnn_jax.interop.pretrained import PRETRAINED, network_of
from cnn_jax.networks.summary import layer_table
from cnn_jax.layers import Layers
from cnn_jax.native import library
from cnn_jax.ops.conv import depthwise, lax, registry
from cnn_jax.ops.conv.algorithm import Algorithm
from cnn_jax.ops.conv.auto import is_depthwise
from cnn_jax.ops.conv.vjp import trilinear
from cnn_jax.workdir.machine import peak_memory_mb

# A convolution for `conv`: shifted multiply-adds where it is depthwise, else XLA's.
TAPS = "depthwise by taps"
BY_TAPS = Algorithm("taps", *trilinear(
    depthwise.forward, depthwise.input_gradient, depthwise.weight_gradient))


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


def depthwise_by_taps(spec, dtype):
    return BY_TAPS if is_depthwise(spec) else lax.select(spec, dtype)


def several_steps(train_step):
    """Makes (state, images, labels, keys) -> (state, loss) with a step for each key."""
    def train_steps(state, images, labels, keys):
        state, losses = jax.lax.scan(
            lambda state, key: train_step(state, images, labels, key), state, keys)
        return state, losses[-1]
    return train_steps


def main(network: str, classes: int, file: str, dtype: str, plain: bool,
         conv: str = "auto", steps: tuple[int, ...] = (), turn: float = 0.0) -> None:
    """Trains on the arrays of `file`: images, labels and our variables.

    dtype: of the computation; parameters stay float32.
    conv: a name in `ops.ALGORITHMS`, or `TAPS`.
    steps: of calls that make several; 8 is the command 'train8', which its first call
        compiles.
    turn: seconds to train for before another worker may compile; 'alone' in the setup.
    """
    arrays = np.load(file)
    images, labels = jnp.asarray(arrays["images"]), jnp.asarray(arrays["labels"])
    registry.ALGORITHMS[TAPS] = depthwise_by_taps
    make = PlainFlax if plain else Layers
    net = create(network, classes, make(dtype=dtype, conv=conv))
    variables = load(net, images, arrays)
    del arrays
    optimizer = optax.sgd(0.01, momentum=0.9)
    options = {} if plain else ops.compiler_options()

    def predict(state, images):
        return net.apply(state[0], images, train=False).astype(jnp.float32)

    state = variables, optimizer.init(variables["params"])
    train_step = make_train_step(net, optimizer)

    def compile(step, keys):
        def of_parts(variables, opt_state, *arguments):
            return step((variables, opt_state), *arguments)
        # Ours donates as `main.py` does: training/loop.py's `kept_leaves` says why.
        donated = 1 if jax.devices()[0].platform == "cpu" and not plain else (0, 1)
        return jax.jit(of_parts, donate_argnums=donated).lower(
            *state, images, labels, keys).compile(compiler_options=options)

    def trainer(program, keys):
        def train(count):
            nonlocal state
            for _ in range(count):
                state, loss = program()(*state, images, labels, keys)
            return float(loss)
        return train

    def several(count):
        keys = jax.random.split(jax.random.key(0), count)
        return trainer(functools.cache(
            lambda: compile(several_steps(train_step), keys)), keys)

    device = jax.devices()[0]

    def device_peak_mb():
        return peak_memory_mb([device]).get("device_peak_memory_mb")

    def infer(count):
        for _ in range(count):
            logits = predict(state, images)
        return jax.block_until_ready(logits)

    with compiling_alone(file):
        begun = time.perf_counter()
        key = jax.random.key(0)
        one_step = compile(train_step, key)
        compile_s = time.perf_counter() - begun
        predict = jax.jit(predict).lower(state, images).compile(
            compiler_options=options)
        train = trainer(lambda: one_step, key)
        commands = {"train": train, "infer": infer} | {
            f"train{count}": several(count) for count in steps}
        logits = infer(1)[:4].tolist()
        losses = [train(1) for _ in range(3)]
        alone = {"alone": measured_alone(train, turn, device_peak_mb)} if turn else {}
        onednn, gflops = library.load_onednn(), matrix_gflops()
    memory = one_step.memory_analysis()
    serve({"logits": logits, "losses": losses, **alone,
           "version": f"jax {jax.__version__}", "compile_s": compile_s,
           "onednn": str(onednn) if onednn else None, "no_onednn": library.describe(),
           "device": f"{device.platform} {device.device_kind}",
           "temporary_mb": memory.temp_size_in_bytes / 1e6 if memory else None,
           "matmul_gflops": gflops,
           "macs": layer_table(net, images.shape[1:]).macs,
           "params": sum(p.size for p in jax.tree.leaves(state[0]["params"]))},
          commands, device_peak_mb)


if __name__ == "__main__":
    with errors_to(sys.stdout):
        main(**json.loads(sys.argv[1]))
