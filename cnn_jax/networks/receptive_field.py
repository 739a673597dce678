"""The theoretical receptive field: the pixels that a unit of a layer can depend on.

Along an axis, position p of a layer depends on the pixels

    stride * p + offset ... stride * p + offset + size - 1

of the network's input. A layer whose window has k taps, dilation d, stride s and `low`
zeros of padding before the image turns (size, stride, offset) into

    (size + (k - 1) * d * stride,  stride * s,  offset - low * stride)

Where branches meet, the field is their union. After a transposed convolution, positions
see different numbers of pixels: the field then contains what each of them sees. It is
unknown if its stride would be a fraction.

Source: Araujo, Norris, Sim: Computing receptive fields of convolutional neural
networks, Distill 2019.
"""

from collections.abc import Sequence
from typing import NamedTuple, cast

import flax.linen as nn

from cnn_jax import layers
from cnn_jax.layers import Padding, Pair
from cnn_jax.networks.lenet import SparseConv
from cnn_jax.networks.squeezenet import ConvHead
from cnn_jax.networks.trace import Call, ImageShape, trace_shapes
from cnn_jax.ops.geometry import resolve_padding

WHOLE_IMAGE = (layers.Flatten, layers.GlobalAvgPool, ConvHead)


class AxisField(NamedTuple):
    """The receptive field along one axis, in pixels of the network's input."""

    size: int
    stride: int  # 0 where the layer has a single position
    offset: int  # of the first position's first pixel; negative: in the padding


Fields = tuple[AxisField, AxisField]  # (vertical, horizontal)


class Window(NamedTuple):
    """The window that a layer moves over an image."""

    kernel: Pair
    strides: Pair
    padding: Padding
    dilation: Pair

    @property
    def reach(self) -> Pair:
        """The pixels from the first tap to the last, along each axis."""
        height, width = ((k - 1) * d + 1 for k, d in zip(self.kernel, self.dilation))
        return height, width


def window_of(module: nn.Module) -> Window | None:
    """Reads the window of a layer; None for a layer without one."""
    if isinstance(module, (nn.Conv, layers.ConvTranspose)):
        return Window(pair(module.kernel_size), pair(module.strides),
                      cast(Padding, module.padding), pair(module.kernel_dilation))
    if isinstance(module, SparseConv):
        return Window(module.kernel_size, (1, 1), "VALID", (1, 1))
    if isinstance(module, (layers.MaxPool, layers.AvgPool)):
        return Window(module.window, module.strides, module.padding, module.dilation)
    if isinstance(module, layers.ZeroPad):
        return Window((1, 1), (1, 1), module.padding, (1, 1))
    if isinstance(module, layers.Subsample):
        return Window((1, 1), pair(module.stride), "VALID", (1, 1))
    return None


def pair(value: int | Sequence[int] | None) -> Pair:
    """Makes (vertical, horizontal) of one number or two; None counts as 1."""
    if value is None or isinstance(value, int):
        return value or 1, value or 1
    vertical, horizontal = value
    return vertical, horizontal


def receptive_fields(calls: list[Call]) -> list[Fields | None]:
    """Follows the receptive field through the calls of a network; None: not known."""
    image = calls[-1].inputs[0]
    # By the id of a traced value; `calls` keeps the values alive, so ids are unique.
    one_pixel = AxisField(1, 1, 0)
    of_value: dict[int, Fields | None] = {id(image): (one_pixel, one_pixel)}
    fields: list[Fields | None] = []
    for call in calls:
        if not call.inside:
            field = field_of(call, [of_value.get(id(x)) for x in call.inputs])
        elif call.has_own_parameters:  # scales or shifts the output of its last layer
            field = fields[-1]
        else:
            field = of_value.get(id(call.output))
        fields.append(field)
        of_value[id(call.output)] = field
    return fields


def field_of(call: Call, inputs: list[Fields | None]) -> Fields | None:
    """Computes the field of a layer's output from those of its inputs."""
    known = [fields for fields in inputs if fields is not None]
    if not known or len(known) < len(inputs):
        return None
    vertical, horizontal = (union([fields[axis] for fields in known])
                            for axis in (0, 1))
    if vertical is None or horizontal is None:
        return None
    before, shape = (vertical, horizontal), (*call.inputs[0].shape[1:-1], 1, 1)[:2]
    if isinstance(call.module, layers.AdaptiveAvgPool):
        return None  # its positions see different numbers of pixels
    if isinstance(call.module, WHOLE_IMAGE):
        return both_axes([
            AxisField(field.size + (n - 1) * field.stride, 0, field.offset)
            for field, n in zip(before, shape)])
    window = window_of(call.module)
    if window is None:
        return before
    if isinstance(call.module, layers.ConvTranspose):
        enlarged = [n * stride for n, stride in zip(shape, window.strides)]
        pads = resolve_padding(window.padding, enlarged, window.reach, window.strides)
        return both_axes(list(map(
            transposed_field, before, window.reach, window.strides, pads)))
    pads = resolve_padding(window.padding, shape, window.reach, window.strides)
    return both_axes([
        AxisField(field.size + (reach - 1) * field.stride, field.stride * stride,
                  field.offset - low * field.stride)
        for field, reach, stride, (low, _) in zip(
            before, window.reach, window.strides, pads)])


def transposed_field(before: AxisField, reach: int, stride: int,
                     pad: Pair) -> AxisField | None:
    """Computes the field after a transposed convolution; None for a fractional stride.

    Position q sees the positions (q + low - reach + 1) / stride ... (q + low) / stride
    of its input, each of which sees `before`.
    """
    fine, remainder = divmod(before.stride, stride)
    if remainder:
        return None
    return AxisField(before.size + (reach - 1) * fine, fine,
                     before.offset + (pad[0] - reach + 1) * fine)


def both_axes(fields: Sequence[AxisField | None]) -> Fields | None:
    """Pairs the fields of both axes; None unless both are known."""
    vertical, horizontal = fields
    return None if vertical is None or horizontal is None else (vertical, horizontal)


def union(fields: list[AxisField]) -> AxisField | None:
    """Finds the smallest field that holds all; None where the strides differ."""
    if len({field.stride for field in fields}) != 1:
        return None
    first = min(field.offset for field in fields)
    last = max(field.offset + field.size for field in fields)
    return AxisField(last - first, fields[0].stride, first)


def field_of_layer(network: nn.Module, image_shape: ImageShape,
                   name: str) -> Fields | None:
    """Traces a network and finds the receptive field of a layer or block."""
    calls = trace_shapes(network, None, image_shape)
    fields = [field for call, field in zip(calls, receptive_fields(calls))
              if call.name == name]
    return fields[-1] if fields else None
