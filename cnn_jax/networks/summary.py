"""A network as a table: parameters, cost and receptive field, one row per layer.

Everything is computed from shapes (`jax.eval_shape`): no array is made, so the table
of the largest network takes seconds. For one image of [H, W, C]:

    MACs     multiply-adds of convolutions and dense layers, counted once; a tap that
             falls on padding counts; bias, normalization and pooling do not
    memory   bytes of the layer's output in the compute dtype; 0 for a view
    field    its receptive field: size, stride and offset in pixels

and, for the images that a device computes at a time,

    FLOP/B   arithmetic intensity: 2 MACs / bytes of input, output and parameters
"""

import collections
import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import layers
from cnn_jax.networks.blocks import SeparableConv
from cnn_jax.networks.lenet import SparseConv
from cnn_jax.networks.receptive_field import Fields, receptive_fields, window_of
from cnn_jax.networks.squeezenet import ConvHead
from cnn_jax.networks.trace import Call, ImageShape, trace_shapes
from cnn_jax.ops.conv import addon, conv_spec, select
from cnn_jax.ops.geometry import resolve_padding

__all__ = ["LayerTable", "Row", "layer_table"]

VIEWS = (layers.Flatten,)


class Row(NamedTuple):
    """One layer."""

    name: str
    kind: str
    shape: tuple[int, ...]  # of the output, without the batch
    params: int
    macs: int
    memory: int             # bytes
    field: Fields | None    # (vertical, horizontal); None: not known
    conv: str = ""          # what computes a convolution on this machine
    inputs: int = 0         # bytes of its inputs; 0 for a view
    weights: int = 0        # bytes of its parameters in the compute dtype

    def traffic(self, images: int) -> int:
        """Counts the bytes of input, output and parameters for `images` images."""
        return images * (self.inputs + self.memory) + self.weights

    def intensity(self, images: int) -> float:
        """Returns the FLOPs for each byte of `traffic`; 0 where nothing is counted."""
        return 2 * self.macs * images / max(self.traffic(images), 1)


class LayerTable(NamedTuple):
    """The rows in the order of the calls, and the totals."""

    model: str
    input_shape: ImageShape
    rows: tuple[Row, ...]
    params: int  # trainable
    stats: int   # running statistics of batch norm
    images: int = 1  # that a device computes at a time

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    @property
    def memory(self) -> int:
        return sum(row.memory for row in self.rows)

    def by_algorithm(self) -> dict[str, list[str]]:
        """Maps each algorithm to the names of its convolutions, the rarest first."""
        layers = collections.defaultdict(list)
        for row in self.rows:
            if row.conv:
                layers[row.conv].append(row.name)
        return dict(sorted(layers.items(), key=lambda item: len(item[1])))

    def convolutions(self) -> str:
        """Describes in words what computes the convolutions, and the library behind.

        For example 'conv1 by banded / im2col / lax; 5 by onednn'. If there are several
        algorithms, the layers of one with at most three are named.
        """
        layers = self.by_algorithm()
        most_named = 3 if len(layers) > 1 else 0
        text = "; ".join(
            f"{' and '.join(names) if len(names) <= most_named else len(names)} by "
            f"{conv}" for conv, names in layers.items())
        if any("/" in conv for conv in layers):
            text += " (forward / input gradient / weight gradient)"
        if any("onednn" in conv or "native" in conv for conv in layers):
            text += f"; in a library with {addon.installed.describe()}"
        return text or "none"


def layer_table(model: nn.Module, input_shape: ImageShape,
                images: int = 1) -> LayerTable:
    """Makes the table of a network for images of `input_shape` = (H, W, C).

    images: that a device computes at a time; the algorithms of the convolutions depend
        on it.
    """
    return table_of(model, input_shape, trace_shapes(model, None, input_shape), images)


def table_of(model: nn.Module, input_shape: ImageShape, calls: list[Call],
             images: int = 1) -> LayerTable:
    """Makes the table from the calls of the network on one image."""
    rows: list[tuple[int, Row]] = []  # each with the index of its call
    counted: set[str] = set()
    for index, (call, field) in enumerate(zip(calls, receptive_fields(calls))):
        if call.inside and not is_one_row(call):
            continue
        inside = []  # a layer made of other layers replaces their rows
        while rows and rows[-1][0] >= index - call.inside:
            inside.append(rows.pop()[1])
        shared = call.name in counted  # called twice: its parameters count once
        counted.add(call.name)
        rows.append((index, Row(
            call.name, kind_of(call.module), call.output.shape[1:],
            0 if shared else size_of(call.params),
            sum(row.macs for row in inside) or macs_of(call), memory_of(call), field,
            conv_of(call, images), inputs_of(call),
            size_of(call.params) * call.output.dtype.itemsize)))
    variables = calls[-1].variables
    return LayerTable(type(model).__name__, (*input_shape,),
                      tuple(row for _, row in rows),
                      size_of(variables.get("params")),
                      size_of(variables.get("batch_stats")), images)


def is_one_row(call: Call) -> bool:
    """Tells whether a module made of layers is one row of the table.

    It is if it counts as one layer (`SeparableConv`), or has parameters of its own.
    """
    return isinstance(call.module, SeparableConv) or call.has_own_parameters


def memory_of(call: Call) -> int:
    """Counts the bytes of the output for one image; 0 for a view of the input."""
    if isinstance(call.module, VIEWS) or any(call.output is x for x in call.inputs):
        return 0
    return math.prod(call.output.shape[1:]) * call.output.dtype.itemsize


def inputs_of(call: Call) -> int:
    """Counts the bytes of the inputs for one image; 0 for a view."""
    if not memory_of(call):
        return 0
    return sum(math.prod(x.shape[1:]) * x.dtype.itemsize for x in call.inputs)


def size_of(tree: Any) -> int:
    """Counts the numbers in a tree of arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def macs_of(call: Call) -> int:
    """Counts the multiply-adds for one image.

    They are the outputs times the products that are summed for each. For a transposed
    convolution they are the inputs times the products that use each.
    """
    module, x, y = call.module, call.inputs[0], call.output
    window = window_of(module)
    taps = math.prod(window.kernel) if window else 0
    if isinstance(module, ConvHead):  # its output is a mean over the positions
        return math.prod(x.shape[1:]) * y.shape[-1]
    if isinstance(module, nn.Conv):
        return (math.prod(y.shape[1:]) * taps * x.shape[-1]
                // module.feature_group_count)
    if isinstance(module, layers.ConvTranspose):
        return (math.prod(x.shape[1:]) * taps * y.shape[-1]
                // module.feature_group_count)
    if isinstance(module, SparseConv):
        return math.prod(y.shape[1:3]) * taps * len(module.connections)
    if isinstance(module, nn.Dense):
        return math.prod(y.shape[1:]) * x.shape[-1]
    return 0


def conv_of(call: Call, images: int) -> str:
    """Names what computes a convolution of `images` images; '' for other layers."""
    module, x, y = call.module, call.inputs[0], call.output
    window = window_of(module)
    if window is None or not isinstance(module, (nn.Conv, layers.ConvTranspose)):
        return ""
    image, padding = x.shape, window.padding
    if isinstance(module, nn.Conv):
        hook = module.conv_general_dilated
        name = hook.__name__.removeprefix("conv_") if hook else "lax"
    else:  # the input gradient of the convolution from y to x
        name, image = module.implementation, y.shape
        enlarged = [n * s for n, s in zip(x.shape[1:], window.strides)]
        padding = resolve_padding(padding, enlarged, window.reach, window.strides)
    spec = conv_spec((images, *image[1:]), call.params["kernel"].shape, window.strides,
                     padding, None, window.dilation, module.feature_group_count)
    return select(name, spec, jnp.dtype(module.dtype or x.dtype)).name


def kind_of(module: nn.Module) -> str:
    """Names the class of a layer, with its window and stride if any: 'Conv 3x3/2'."""
    name, window = type(module).__name__, window_of(module)
    if window is None or isinstance(module, layers.ZeroPad):
        return name
    kernel, strides = window.kernel, window.strides
    stride = "" if strides == (1, 1) else f"/{strides[0]}"
    if len(set(strides)) > 1:
        stride = f"/{strides[0]}x{strides[1]}"
    groups = getattr(module, "feature_group_count", 1)
    return (f"{name} {kernel[0]}x{kernel[1]}{stride}"
            + (f" g{groups}" if groups > 1 else ""))
