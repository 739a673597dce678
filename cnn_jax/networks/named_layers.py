"""The layers of a network by name, and which of them to show.

Names are those of `trace.features`: `conv1`, `stage1_block2/conv1` inside a block, and
a part (`stage1`) for its last layer.
"""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from cnn_jax import layers as kinds
from cnn_jax import networks
from cnn_jax.errors import InputError
from cnn_jax.networks.trace import Call, ImageShape, trace_shapes

T = TypeVar("T")

# Layers that may follow a convolution, and their captions; an activation has its name.
FOLLOWERS = {kinds.BatchNorm: "batch norm", kinds.Activation: "",
             kinds.MaxPool: "max pool", kinds.AvgPool: "mean pool",
             kinds.LocalResponseNorm: "response norm"}


class Layer(NamedTuple):
    """A layer or a block, as it is called on one image."""

    name: str
    module: nn.Module
    shape: tuple[int, ...]              # of the output, without the batch
    input_shape: tuple[int, ...]        # of its first input, without the batch
    kernel: tuple[int, ...] | None      # shape of its own kernel
    is_leaf: bool                       # whether it has no layers inside (no block)
    follows: str | None                 # the layer whose output is its first input

    @property
    def is_map(self) -> bool:
        """Whether the output is an image of channels, [H, W, C]."""
        return len(self.shape) == 3

    @property
    def is_convolution(self) -> bool:
        """Whether its kernel moves over an image."""
        return self.kernel is not None and len(self.kernel) > 2


def layers_of(network: nn.Module, variables: Mapping[str, Any],
              image_shape: ImageShape) -> dict[str, Layer]:
    """Lists every layer and block in the order in which they end; computes only shapes.

    Layers that exist in training only (auxiliary heads) are not among them.
    """
    return layers_in(trace_shapes(network, variables, image_shape))


def layers_in(calls: Sequence[Call]) -> dict[str, Layer]:
    """Lists every layer and block among the calls of `trace_shapes`."""
    layers: dict[str, Layer] = {}
    makers: dict[int, str] = {}  # layer by the id of its output, which `calls` keeps
    for call in calls[:-1]:
        layers[call.name] = layer_of(call, makers.get(id(call.inputs[0])))
        makers.setdefault(id(call.output), call.name)  # a block's: its last layer
    return layers


def layer_of(call: Call, follows: str | None) -> Layer:
    """Describes the module of a call."""
    kernel = call.params.get("kernel")
    return Layer(call.name, call.module.clone(parent=None), call.output.shape[1:],
                 call.inputs[0].shape[1:],
                 None if kernel is None else jnp.shape(kernel), call.inside == 0,
                 follows)


def pick(layers: dict[str, Layer], name: str, network_name: str,
         maps: bool = False) -> Layer:
    """Picks the layer with a name, or the last layer of a part (`stage1`).

    maps: whether its output must be an image of channels.
    Raises InputError that lists the layers.
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
            + (f"; did you mean {near[0]}?" if near else ".") + " There are "
            + ", ".join(inside or [layer.name for layer in top])
            + ("" if inside else ", and those inside them, as block/conv1"
               if len(top) < len(layers) else ""))
    if maps and not layer.is_map:
        raise InputError(
            f"layer {layer.name} of {network_name} has no height and width, its output "
            f"is {list(layer.shape)}; layers that output images: "
            f"{', '.join(layer.name for layer in top if layer.is_map) or 'none'}")
    return layer


def kernel_of(variables: Mapping[str, Any], layer: Layer) -> np.ndarray:
    """Looks up the kernel of a layer, as float32."""
    tree = variables["params"]
    for name in layer.name.split("/"):
        tree = tree[name]
    return np.asarray(tree["kernel"], np.float32)


def kernel_layers(layers: dict[str, Layer]) -> list[Layer]:
    """Lists the convolutions, or the dense layers of a network without convolutions.

    The head is left out, and so are the convolutions of shortcuts, which only change a
    shape.
    """
    kernels = [layer for layer in layers.values()
               if layer.kernel is not None and layer.is_leaf and layer.name != "head"
               and "shortcut" not in layer.name]
    return [layer for layer in kernels if layer.is_convolution] or kernels


def with_followers(layer: Layer, layers: dict[str, Layer]) -> list[Layer]:
    """Lists a layer and the norm, activation and pool that its output goes through."""
    chain = [layer]
    while True:
        after = [other for other in layers.values() if other.follows == chain[-1].name
                 and isinstance(other.module, tuple(FOLLOWERS))]
        if not after:
            return chain
        chain.append(after[0])


def default_layers(layers: dict[str, Layer]) -> list[Layer]:
    """Lists the `kernel_layers` that an activation follows, or all if none has one.

    That leaves out the last convolution of a residual block: its output is added to the
    shortcut first.
    """
    kernels = kernel_layers(layers)
    return [layer for layer in kernels
            if any(isinstance(after.module, kinds.Activation)
                   for after in with_followers(layer, layers))] or kernels


def evenly_spaced(items: list[T], count: int) -> list[T]:
    """Picks `count` items: the first, the last, and others evenly between them."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
