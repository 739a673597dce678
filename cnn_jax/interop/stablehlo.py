"""Writes a network as one StableHLO program for CPU, CUDA and TPU.

The program maps uint8 pixels [N, H, W, C], for any N, to probabilities. It contains the
weights, with batch norm folded into the layers before it, and the scaling of pixels.
It needs only jax:

    import jax, numpy
    from jax import export
    program = jax.jit(export.deserialize(open("model.stablehlo", "rb").read()).call)
    probabilities = program(numpy.zeros((1, 28, 28, 1), numpy.uint8))

All releases of jax in the six months after the export, at least, can read it.
"""

import contextlib
import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from cnn_jax import data, networks
from cnn_jax.data.scaling import scale
from cnn_jax.errors import InputError
from cnn_jax.inference.simplify import simplify_and_fold
from cnn_jax.installation import install_command
from cnn_jax.networks import graph
from cnn_jax.workdir.trained import Trained

PLATFORMS = ("cpu", "cuda", "tpu")


def write_stablehlo(path: Path, trained: Trained) -> Path:
    """Writes the program of a trained network, and returns the path.

    Raises InputError if flatbuffers, which jax needs for that, is not installed.
    """
    if importlib.util.find_spec("flatbuffers") is None:
        raise InputError("flatbuffers, with which jax writes StableHLO, is not "
                         f"installed; install it with {install_command('export')}")
    count, = export.symbolic_shape("n")
    pixels = jax.ShapeDtypeStruct((count, *trained.info.image_shape), jnp.uint8)
    program = export.export(jax.jit(probabilities_of(trained)), platforms=PLATFORMS)
    path.write_bytes(program(pixels).serialize())
    return path


def probabilities_of(trained: Trained) -> Callable[[jax.Array], jax.Array]:
    """Makes the function pixels -> probabilities from XLA's own operations only."""
    task = data.task_of(trained.config.data, trained.info.targets)
    logits_of = evaluation_of(trained)

    def probabilities(pixels: jax.Array) -> jax.Array:
        logits = logits_of(scale(pixels, trained.info.scaling))
        return task.probabilities(jnp.asarray(logits, jnp.float32))

    return probabilities


def evaluation_of(trained: Trained) -> Callable[[jax.Array], jax.Array]:
    """Makes the function scaled images -> logits.

    Batch norm is folded into the layers before it. It is not if the network computes in
    another dtype than float32, or has no layer graph (`graph.layer_graph`).
    """
    config = trained.config.copy_and_resolve_references()
    with config.unlocked():
        config.model.conv = config.model.pool = "lax"
    network = networks.from_config(config, len(trained.info.class_names))
    if config.dtype == "float32":
        with contextlib.suppress(InputError):  # an unknown operation of the user's own
            return functools.partial(graph.run, simplify_and_fold(graph.layer_graph(
                network, trained.variables, trained.info.image_shape)))
    return lambda images: jnp.asarray(
        network.apply(trained.variables, images, train=False))


def read_stablehlo(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Loads a program: uint8 pixels [N, H, W, C] -> probabilities."""
    program = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda pixels: np.asarray(program(pixels))
