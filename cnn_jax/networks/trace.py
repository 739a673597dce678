"""The layers of a network by name: what they are, and how to reach into them.

Names are those of `features.features`: `conv1`, `stage1_block2/conv1` inside a block,
and a part (`stage1`) for its last layer.
"""

import difflib
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import layers as kinds
from cnn_jax import networks
from cnn_jax.errors import InputError

# What may follow a convolution, and its name; of an activation its own.
STAGES = {kinds.BatchNorm: "batch norm", kinds.Activation: "", kinds.MaxPool:
          "max pool", kinds.AvgPool: "mean pool", kinds.LocalResponseNorm:
          "response norm"}


class Layer(NamedTuple):
    """A layer or a block, as it is called on one image."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]              # of the output, without the batch
    input_shape: tuple[int, ...]        # of its first input, without the batch
    kernel: tuple[int, ...] | None      # shape of its own kernel
    whole: bool                         # it is no block: it has no layers inside
    follows: str | None                 # the layer whose output is its first input

    @property
    def is_map(self) -> bool:
        """Whether the output is an image of channels, [H, W, C]."""
        return len(self.shape) == 3

    @property
    def is_convolution(self) -> bool:
        """With a kernel that moves over an image."""
        return self.kernel is not None and len(self.kernel) > 2


def layers_of(network: nn.Module, variables: Any, image_shape: tuple[int, int, int]
              ) -> dict[str, Layer]:
    """Every layer and block in the order in which they end; only shapes are computed.

    Layers that only training has (auxiliary heads) are not among them.
    """
    found: dict[str, Layer] = {}
    opened = []
    # Which layer made a traced value; the value is kept, so that its id stays its own.
    makers: dict[int, tuple[Any, str]] = {}

    def watch(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or not module.path:
            return call(*args, **kwargs)
        opened.append(False)  # whether a layer inside it has been called
        out = call(*args, **kwargs)
        whole = not opened.pop()
        if opened:
            opened[-1] = True
        name = "/".join(module.path)
        kernel = module.variables.get("params", {}).get("kernel")
        found[name] = Layer(
            name, module.clone(parent=None), out.shape[1:], args[0].shape[1:],
            None if kernel is None else jnp.shape(kernel), whole,
            makers.get(id(args[0]), (None, None))[1])
        makers.setdefault(id(out), (out, name))  # a block's output is its last layer's
        return out

    with nn.intercept_methods(watch):
        jax.eval_shape(lambda variables: network.apply(
            variables, jnp.zeros((1, *image_shape)), train=False), variables)
    return found


def find(network: nn.Module, variables: Any, image_shape: tuple[int, int, int],
         name: str, maps: bool = False) -> Layer:
    """`pick` from the layers of a network, which is traced for it."""
    return pick(layers_of(network, variables, image_shape), name,
                type(network).__name__, maps)


def pick(layers: dict[str, Layer], name: str, network_name: str,
         maps: bool = False) -> Layer:
    """The layer of a name; of a part (`stage1`) the last one.

    maps: it must make an image of channels. Raises InputError with the layers there
    are.
    """
    top = [layer for layer in layers.values() if "/" not in layer.name]
    parts = {networks.part_of(layer.name): layer for layer in top}
    layer = layers.get(name, parts.get(name))
    if layer is None:
        block = name.rpartition("/")[0]
        inside = [other for other in layers if block and other.startswith(block + "/")]
        near = difflib.get_close_matches(name, [*layers, *parts], 1)
        raise InputError(
            f"{network_name} has no layer {name!r}"
            + (f"; did you mean {near[0]}?" if near else ";") + " There are "
            + ", ".join(inside or [layer.name for layer in top])
            + ("" if inside else ", and those inside of them, as block/conv1"
               if len(top) < len(layers) else ""))
    if maps and not layer.is_map:
        raise InputError(
            f"layer {layer.name} of {network_name} has no height and width, its output "
            f"is {list(layer.shape)}; of images are "
            f"{', '.join(layer.name for layer in top if layer.is_map) or 'none'}")
    return layer


def kernel_of(variables: Any, layer: Layer) -> np.ndarray:
    """The kernel array of a layer, float32."""
    tree = variables["params"]
    for name in layer.name.split("/"):
        tree = tree[name]
    return np.asarray(tree["kernel"], np.float32)


def weighted(layers: dict[str, Layer]) -> list[Layer]:
    """The convolutions, or of a network without any the dense layers; not the head,
    nor the convolutions that only bring a shortcut into shape."""
    found = [layer for layer in layers.values()
             if layer.kernel is not None and layer.whole and layer.name != "head"
             and "shortcut" not in layer.name]
    return [layer for layer in found if layer.is_convolution] or found


def stage_of(layer: Layer, layers: dict[str, Layer]) -> list[Layer]:
    """A layer and the norm, activation and pool that its output goes through."""
    stage = [layer]
    while True:
        after = [other for other in layers.values() if other.follows == stage[-1].name
                 and isinstance(other.module, tuple(STAGES))]
        if not after:
            return stage
        stage.append(after[0])


def shown_by_default(layers: dict[str, Layer]) -> list[Layer]:
    """Those of `weighted` that an activation follows, or all where none follows any.

    In a residual network the last convolution of a block is left out: its output is
    added to the shortcut first.
    """
    found = weighted(layers)
    return [layer for layer in found
            if any(isinstance(after.module, kinds.Activation)
                   for after in stage_of(layer, layers))] or found


def spread(layers: list[Layer], count: int) -> list[Layer]:
    """The first, the last, and others evenly between."""
    if len(layers) <= count:
        return layers
    return [layers[round(i * (len(layers) - 1) / (count - 1))] for i in range(count)]


def perturbed(network: nn.Module, variables: Any, images: jax.Array, name: str,
              change: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(logits, output of a layer) with `change` added to that output.

    The gradient of the logits at change = 0 is that for the layer's output.
    """
    outputs = []

    def add(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if "/".join(context.module.path) == name and context.method_name == "__call__":
            outputs.append(out)
            out = out + change.astype(out.dtype)
        return out

    with nn.intercept_methods(add):
        logits = network.apply(variables, images, train=False)
    return logits, outputs[-1]
