"""Reads JAX's primitives as operations of a graph.

Operations between layers (a sum, a slice, a mean over an axis), and those of modules
that are no layer, arrive here as primitives. A primitive that is not in `READERS`, or
has parameters that no operation has, raises `Unsupported`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from cnn_jax.networks.graph.layers import transposed_padding
from cnn_jax.networks.graph.operations import (ELEMENTWISE, REDUCTIONS, AvgPool,
                                               Broadcast, Concat, Conv, ConvTranspose,
                                               Dense, Elementwise, MaxPool, Operation,
                                               Pad, Params, Reduce, Reshape, Shape,
                                               Slice, Transpose)
from cnn_jax.ops.conv.spec import rotate


class Unsupported(Exception):
    """A primitive that no operation of a graph computes, with the reason."""


class Value(NamedTuple):
    """The value of a node; it depends on the images. Other values are constants."""

    node: int     # index of the draft that computes it
    shape: Shape  # for one image


class Equation(NamedTuple):
    """One use of a primitive."""

    primitive: str
    inputs: list[Any]          # values and constants
    dtype: DTypeLike           # of the first input
    params: dict[str, Any]
    shapes: list[Shape]        # of the outputs, for one image


class Emit(Protocol):
    """Adds a node and returns its value."""

    def __call__(self, operation: Operation, inputs: Sequence[Value], shape: Shape,
                 params: Params = {}) -> Value: ...


Reader = Callable[[Equation, Emit], list[Any]]


def compute(function: Callable[..., jax.Array], *constants: Any) -> Any:
    """Applies a function to constants, or to their shapes if these are abstract."""
    if any(isinstance(x, jax.ShapeDtypeStruct) for x in constants):
        return jax.eval_shape(function, *constants)
    return function(*map(jnp.asarray, constants))


def images_of(eqn: Equation, count: int = 1) -> list[Value]:
    """Returns the first `count` inputs; they alone must depend on the images."""
    images, others = eqn.inputs[:count], eqn.inputs[count:]
    if not all(isinstance(x, Value) for x in images):
        raise Unsupported("of a constant and a value that depends on the images")
    if any(isinstance(x, Value) for x in others):
        raise Unsupported("with an operand that depends on the images")
    return images


def read_elementwise(eqn: Equation, emit: Emit) -> list[Value]:
    values = [x for x in eqn.inputs if isinstance(x, Value)]
    constants = {str(i): x for i, x in enumerate(eqn.inputs)
                 if not isinstance(x, Value)}
    return [emit(Elementwise(eqn.primitive), values, eqn.shapes[0], constants)]


def apply(emit: Emit, kind: str, *operands: Any) -> Value:
    """Emits an elementwise operation; the result has the shape of the first value."""
    first = next(x for x in operands if isinstance(x, Value))
    eqn = Equation(kind, list(operands), jnp.float32, {}, [first.shape])
    return read_elementwise(eqn, emit)[0]


def read_integer_pow(eqn: Equation, emit: Emit) -> list[Value]:
    x, = images_of(eqn)
    exponent = eqn.params["y"]
    return [apply(emit, "square", x) if exponent == 2
            else apply(emit, "pow", x, float(exponent))]


def read_clamp(eqn: Equation, emit: Emit) -> list[Value]:
    low, x, high = eqn.inputs
    return [apply(emit, "min", apply(emit, "max", x, low), high)]


def read_expm1(eqn: Equation, emit: Emit) -> list[Value]:
    x, = images_of(eqn)
    return [apply(emit, "sub", apply(emit, "exp", x), 1.0)]


def read_log1p(eqn: Equation, emit: Emit) -> list[Value]:
    x, = images_of(eqn)
    return [apply(emit, "log", apply(emit, "add", x, 1.0))]


def read_erfc(eqn: Equation, emit: Emit) -> list[Value]:
    x, = images_of(eqn)
    return [apply(emit, "sub", 1.0, apply(emit, "erf", x))]


def read_identity(eqn: Equation, emit: Emit) -> list[Any]:
    return eqn.inputs


def read_convert(eqn: Equation, emit: Emit) -> list[Value]:
    """Drops conversions of floats: a graph has no dtypes. Booleans become 0 and 1."""
    x, = images_of(eqn)
    if not jnp.issubdtype(eqn.params["new_dtype"], jnp.inexact):
        raise Unsupported(f"to {eqn.params['new_dtype']}")
    if eqn.dtype == bool:
        return [apply(emit, "select_n", x, 0.0, 1.0)]
    return [x]


def read_reshape(eqn: Equation, emit: Emit) -> list[Value]:
    shape = eqn.shapes[0]
    return [emit(Reshape(shape), images_of(eqn), shape)]


def read_broadcast(eqn: Equation, emit: Emit) -> list[Value]:
    x, = images_of(eqn)
    shape = eqn.shapes[0]
    aligned = [1] * len(shape)
    for axis, size in zip(eqn.params["broadcast_dimensions"][1:], x.shape):
        aligned[axis - 1] = size
    if x.shape != tuple(aligned):
        x = emit(Reshape(tuple(aligned)), [x], tuple(aligned))
    return [x if x.shape == shape else emit(Broadcast(shape), [x], shape)]


def read_transpose(eqn: Equation, emit: Emit) -> list[Value]:
    return [emit(Transpose(tuple(eqn.params["permutation"])), images_of(eqn),
                 eqn.shapes[0])]


def read_slice(eqn: Equation, emit: Emit) -> list[Value]:
    starts, stops = eqn.params["start_indices"][1:], eqn.params["limit_indices"][1:]
    steps = (eqn.params["strides"] or (1,) * (len(starts) + 1))[1:]
    return [emit(Slice(tuple(starts), tuple(stops), tuple(steps)), images_of(eqn),
                 eqn.shapes[0])]


def read_split(eqn: Equation, emit: Emit) -> list[Value]:
    x, = images_of(eqn)
    axis, start, slices = eqn.params["axis"] - 1, 0, []
    for shape in eqn.shapes:
        starts = [0] * len(shape)
        starts[axis] = start
        start += shape[axis]
        stops = tuple(low + size for low, size in zip(starts, shape))
        slices.append(emit(Slice(tuple(starts), stops, (1,) * len(shape)), [x], shape))
    return slices


def read_concatenate(eqn: Equation, emit: Emit) -> list[Value]:
    return [emit(Concat(eqn.params["dimension"]), images_of(eqn, len(eqn.inputs)),
                 eqn.shapes[0])]


def read_pad(eqn: Equation, emit: Emit) -> list[Value]:
    config = eqn.params["padding_config"][1:]
    if any(interior for _, _, interior in config):
        raise Unsupported("with padding between the entries")
    padding = tuple((int(low), int(high)) for low, high, _ in config)
    return [emit(Pad(padding, float(eqn.inputs[1])), images_of(eqn), eqn.shapes[0])]


def read_reduce(eqn: Equation, emit: Emit) -> list[Value]:
    kind = eqn.primitive.removeprefix("reduce_")
    return [emit(Reduce(kind, tuple(eqn.params["axes"])), images_of(eqn),
                 eqn.shapes[0])]


def read_dot(eqn: Equation, emit: Emit) -> list[Value]:
    x, = images_of(eqn)
    kernel = eqn.inputs[1]
    (left, right), batched = eqn.params["dimension_numbers"]
    if any(batched) or len(kernel.shape) != 2 or left != (len(x.shape),):
        raise Unsupported("of axes other than the last one and those of a matrix")
    if right == (1,):
        kernel = compute(jnp.transpose, kernel)
    return [emit(Dense(), [x], eqn.shapes[0], {"kernel": kernel})]


def read_conv(eqn: Equation, emit: Emit) -> list[Value]:
    x, = images_of(eqn)
    kernel, params, groups = eqn.inputs[1], eqn.params, eqn.params[
        "feature_group_count"]
    strides, padding = params["window_strides"], params["padding"]
    spread, dilation = params["lhs_dilation"], params["rhs_dilation"]
    axes = tuple(params["dimension_numbers"])
    if axes != ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)):
        raise Unsupported("of anything but NHWC images and an HWIO kernel")
    if params["batch_group_count"] != 1:
        raise Unsupported("with groups of images")
    if spread == (1, 1):
        return [emit(Conv(strides, padding, dilation, groups), [x], eqn.shapes[0],
                     {"kernel": kernel})]
    # The input gradient of a convolution: see `ops.conv.spec.transposed`.
    reach = [(k - 1) * d + 1 for k, d in zip(kernel.shape, dilation)]
    lows = [r - 1 - low for r, (low, _) in zip(reach, padding)]
    if strides != (1, 1) or min(lows) < 0:
        raise Unsupported("with these strides and paddings of a dilated input")
    pairs, extra = transposed_padding(x.shape[:2], eqn.shapes[0][:2], tuple(reach),
                                      spread, lows)
    return [emit(ConvTranspose(spread, pairs, extra, dilation, groups), [x],
                 eqn.shapes[0],
                 {"kernel": compute(lambda w: rotate(w, groups), kernel)})]


def read_window(eqn: Equation, emit: Emit) -> list[Value]:
    """Reads max pooling, or a sum over windows as a mean times its count."""
    x, = images_of(eqn)
    params = eqn.params
    (_, *window, last), (_, *strides, _) = (params["window_dimensions"],
                                            params["window_strides"])
    padding = tuple(params["padding"])
    dilation, spread = params["window_dilation"][1:-1], params["base_dilation"]
    if (len(window) != 2 or last != 1 or padding[-1] != (0, 0)
            or {*spread} != {1}):
        raise Unsupported("over anything but windows of height and width")
    sizes = tuple(window), tuple(strides), padding[1:-1]
    if eqn.primitive == "reduce_window_max":
        return [emit(MaxPool(*sizes, dilation), [x], eqn.shapes[0])]
    mean = emit(AvgPool(*sizes, padding[1:-1], dilation), [x], eqn.shapes[0])
    return [apply(emit, "mul", mean, float(math.prod(window)))]


READERS: dict[str, Reader] = {
    **dict.fromkeys(ELEMENTWISE, read_elementwise),
    **{f"reduce_{kind}": read_reduce for kind in REDUCTIONS},
    "integer_pow": read_integer_pow, "clamp": read_clamp, "expm1": read_expm1,
    "log1p": read_log1p, "erfc": read_erfc,
    "convert_element_type": read_convert,
    **dict.fromkeys(("optimization_barrier", "stop_gradient", "copy", "copy_p"),
                    read_identity),
    "reshape": read_reshape, "squeeze": read_reshape,
    "broadcast_in_dim": read_broadcast, "transpose": read_transpose,
    "slice": read_slice, "split": read_split, "concatenate": read_concatenate,
    "pad": read_pad, "dot_general": read_dot, "conv_general_dilated": read_conv,
    "reduce_window_max": read_window, "reduce_window_sum": read_window,
}


def constant(primitive: Any, inputs: list[Any], params: dict[str, Any],
             batch: int) -> list[Any]:
    """Computes a primitive of constants.

    A broadcast over the batch keeps axes of size 1 instead; elementwise operations
    broadcast them.
    """
    if primitive.name == "broadcast_in_dim" and params["shape"][:1] == (batch,):
        x, = inputs
        shape = [1] * len(params["shape"])
        for axis, size in zip(params["broadcast_dimensions"], jnp.shape(x)):
            shape[axis] = size
        return [compute(lambda x: jnp.reshape(x, shape), x)]
    result = compute(lambda *xs: primitive.bind(*xs, **params), *inputs)
    return list(result) if primitive.multiple_results else [result]
