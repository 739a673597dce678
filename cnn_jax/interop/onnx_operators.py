"""Writes each operation of a layer graph as ONNX operators."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.interop.onnx_graph import Writer, arranged, is_image, layout, unchanged
from cnn_jax.networks.graph import Node
from cnn_jax.networks.graph import operations as kinds
from cnn_jax.ops.pool.spec import pool_spec
from cnn_jax.ops.pool.windows import counts as window_counts

Pair = tuple[int, int]

TO_THE_END = 2 ** 63 - 1  # ONNX's stop for a slice up to the end

# JAX primitives that are a single ONNX operator.
ELEMENTWISE = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "pow": "Pow", "max": "Max",
    "min": "Min", "neg": "Neg", "abs": "Abs", "sign": "Sign", "exp": "Exp",
    "log": "Log", "tanh": "Tanh", "logistic": "Sigmoid", "erf": "Erf", "sqrt": "Sqrt",
    "floor": "Floor", "ceil": "Ceil", "gt": "Greater", "ge": "GreaterOrEqual",
    "lt": "Less", "le": "LessOrEqual", "eq": "Equal", "not": "Not", "and": "And",
    "or": "Or",
}
# Activations as a sequence of operators: (operator, constant operands, attributes).
SELU = {"alpha": 1.6732632423543772, "gamma": 1.0507009873554805}
ACTIVATIONS: dict[str, list[tuple[str, tuple[float, ...], dict[str, float]]]] = {
    "relu": [("Relu", (), {})],
    "relu6": [("Clip", (0.0, 6.0), {})],
    "selu": [("Selu", (), SELU)],
    "sigmoid": [("Sigmoid", (), {})],
    "tanh": [("Tanh", (), {})],
    "lecun_tanh": [("Mul", (2 / 3,), {}), ("Tanh", (), {}), ("Mul", (1.7159,), {})],
}


def pads(padding: Sequence[Pair]) -> list[int]:
    """Orders padding as ONNX does: all low sides, then all high sides."""
    return [low for low, _ in padding] + [high for _, high in padding]


def window(operation: Any) -> dict[str, Any]:
    return {"strides": operation.strides, "pads": pads(operation.padding)}


def hwio_to_oihw(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 2, 0, 1)


def write_conv(writer: Writer, node: Node, operation: kinds.Conv) -> None:
    x = node.inputs[0]
    padding = operation.padding
    if any(side < 0 for pair in padding for side in pair):  # ONNX cannot crop
        x = write_padding(writer, x, f"{node.name}/pad", [(0, 0), *padding])
        padding = ((0, 0), (0, 0))
    writer.add("Conv", [x, *writer.weights(node, hwio_to_oihw, "OIHW")], node.name,
               kernel_shape=node.params["kernel"].shape[:2], pads=pads(padding),
               strides=operation.strides, dilations=operation.dilation,
               group=operation.groups)


def write_conv_transpose(writer: Writer, node: Node,
                         operation: kinds.ConvTranspose) -> None:
    if any(side < 0 for pair in operation.padding for side in pair):
        raise InputError(f"layer {node.name}: ONNX has no transposed convolution with "
                         f"the negative padding {operation.padding}")
    weights = writer.weights(node, hwio_to_oihw, "OIHW")
    writer.add("ConvTranspose", [*node.inputs, *weights], node.name,
               kernel_shape=node.params["kernel"].shape[:2],
               dilations=operation.dilation, group=operation.groups,
               output_padding=operation.output_padding, **window(operation))


def write_dense(writer: Writer, node: Node, operation: kinds.Dense) -> None:
    """Writes Gemm for vectors, a 1 x 1 convolution for images, MatMul for others."""
    x = node.inputs[0]
    if is_image(node):
        writer.add("Conv", [x, *writer.weights(node, as_pointwise, "1x1")], node.name,
                   kernel_shape=[1, 1])
        return
    shape = writer.channels_first.get(x)  # of the image before it was flattened
    kernel, *bias = writer.weights(node, functools.partial(
        channels_first, shape=shape) if shape else unchanged, shape)
    if len(node.shape) == 1:
        writer.add("Gemm", [x, kernel, *bias], node.name)
    elif bias:
        x = writer.add("MatMul", [x, kernel], f"{node.name}/product")
        writer.add("Add", [x, *bias], node.name)
    else:
        writer.add("MatMul", [x, kernel], node.name)


def as_pointwise(kernel: np.ndarray) -> np.ndarray:
    return kernel.T[:, :, None, None]


def channels_first(kernel: np.ndarray, shape: kinds.Shape) -> np.ndarray:
    """Reorders the rows of a dense kernel from H, W, C to C, H, W."""
    rows = np.moveaxis(kernel.reshape(*shape, -1), 2, 0)
    return rows.reshape(kernel.shape)


def write_batch_norm(writer: Writer, node: Node, operation: kinds.BatchNorm) -> None:
    if len(node.shape) not in (1, 3):
        raise InputError(f"layer {node.name}: ONNX has batch norm of vectors and "
                         f"images, not of values of shape {node.shape}")
    params = [writer.param(node, name) for name in ("scale", "bias", "mean", "var")]
    writer.add("BatchNormalization", [*node.inputs, *params], node.name,
               epsilon=operation.epsilon)


def write_response_norm(writer: Writer, node: Node,
                        operation: kinds.LocalResponseNorm) -> None:
    if operation.size % 2 == 0 or not is_image(node):
        raise InputError(
            f"layer {node.name}: ONNX has local response norm of images over an odd "
            f"number of channels, not of {operation.size} in {node.shape}")
    writer.add("LRN", node.inputs, node.name, size=operation.size, bias=operation.k,
               alpha=operation.alpha * operation.size, beta=operation.beta)


def write_max_pool(writer: Writer, node: Node, operation: kinds.MaxPool) -> None:
    writer.add("MaxPool", node.inputs, node.name, kernel_shape=operation.window,
               dilations=operation.dilation, **window(operation))


def write_avg_pool(writer: Writer, node: Node, operation: kinds.AvgPool) -> None:
    """Writes AveragePool, and Pad before it if only some of the padding counts.

    ceil_mode would be shorter, but programs differ in which values they count with it.
    """
    x = node.inputs[0]
    if max(operation.dilation) > 1:
        write_dilated_mean(writer, node, operation)
        return
    padding, counted = operation.padding, any(map(any, operation.counted))
    if counted and operation.counted != operation.padding:
        x = write_padding(writer, x, f"{node.name}/pad", [(0, 0), *operation.counted])
        padding, counted = operation.uncounted, False
    writer.add("AveragePool", [x], node.name, kernel_shape=operation.window,
               strides=operation.strides, pads=pads(padding),
               count_include_pad=int(counted))


def write_dilated_mean(writer: Writer, node: Node, operation: kinds.AvgPool) -> None:
    """Writes the sum as a convolution: AveragePool has no dilation before opset 19."""
    x, channels = node.inputs[0], node.shape[-1]
    ones = writer.floats(f"{node.name}/ones", np.ones((channels, 1, *operation.window)))
    total = writer.add("Conv", [x, ones], f"{node.name}/sum",
                       kernel_shape=operation.window, dilations=operation.dilation,
                       group=channels, **window(operation))
    spec = pool_spec((1, *writer.by_name[x].shape), operation.window, operation.strides,
                     operation.padding, dilation=operation.dilation)
    counts = window_counts(spec._replace(counted=operation.counted), np.float64)
    writer.add("Mul", [total, writer.floats(f"{node.name}/weights",
                                            1 / counts[None, ..., 0])], node.name)


def write_global_avg_pool(writer: Writer, node: Node,
                          operation: kinds.GlobalAvgPool) -> None:
    x = writer.add("GlobalAveragePool", node.inputs, f"{node.name}/mean")
    writer.add("Flatten", [x], node.name)


def write_activation(writer: Writer, node: Node, operation: kinds.Activation) -> None:
    steps, x = ACTIVATIONS[operation.kind], node.inputs[0]
    for i, (operator, operands, attributes) in enumerate(steps, 1):
        name = node.name if i == len(steps) else f"{node.name}/{operator.lower()}{i}"
        constants = [writer.floats(f"{name}/operand{j}", operand)
                     for j, operand in enumerate(operands, 1)]
        x = writer.add(operator, [x, *constants], name, **attributes)


def write_elementwise(writer: Writer, node: Node, operation: kinds.Elementwise) -> None:
    constants = {key: writer.tensor(f"{node.name}/operand{key}",
                                    constant_of(writer, node, value))
                 for key, value in node.params.items()}
    operands = operation.operands(constants, node.inputs)
    if operation.kind == "square":
        writer.add("Mul", operands * 2, node.name)
    elif operation.kind == "rsqrt":
        x = writer.add("Sqrt", operands, f"{node.name}/sqrt")
        writer.add("Reciprocal", [x], node.name)
    elif operation.kind == "ne":
        writer.add("Not", [writer.add("Equal", operands, f"{node.name}/eq")], node.name)
    elif operation.kind == "select_n":
        condition, if_false, if_true = operands
        writer.add("Where", [condition, if_true, if_false], node.name)
    else:
        writer.add(ELEMENTWISE[operation.kind], operands, node.name)


def constant_of(writer: Writer, node: Node, value: Any) -> np.ndarray:
    """Converts a constant operand, with a batch of 1, to ONNX's layout."""
    array = np.asarray(value)
    if array.dtype != bool:
        array = array.astype(writer.dtype)
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def write_concat(writer: Writer, node: Node, operation: kinds.Concat) -> None:
    writer.add("Concat", node.inputs, node.name,
               axis=layout(node).index(operation.axis))


def write_reshape(writer: Writer, node: Node, operation: kinds.Reshape) -> None:
    """Writes Reshape of NHWC, or Flatten of NCHW if that is equivalent.

    It is also used if only dense layers read a flattened image: the rows of their
    kernels are reordered instead, see `write_dense`.
    """
    before = writer.by_name[node.inputs[0]]
    x = before.name
    if is_image(before) and len(node.shape) == 1:
        height, width, channels = before.shape
        same_order = channels == 1 or height * width == 1
        readers = writer.consumers[node.name]
        if same_order or readers and all(isinstance(reader.operation, kinds.Dense)
                                         for reader in readers):
            if not same_order:
                writer.channels_first[node.name] = before.shape
            writer.add("Flatten", [x], node.name)
            return
    if is_image(before):
        x = writer.add("Transpose", [x], f"{node.name}/nhwc", perm=[0, 2, 3, 1])
    name = f"{node.name}/nhwc_out" if is_image(node) else node.name
    # 0 keeps the size of an axis: the batch.
    x = writer.add("Reshape", [x, writer.integers(f"{node.name}/shape",
                                                  [0, *node.shape])], name)
    if is_image(node):
        writer.add("Transpose", [x], node.name, perm=[0, 3, 1, 2])


def write_broadcast(writer: Writer, node: Node, operation: kinds.Broadcast) -> None:
    shape = writer.integers(f"{node.name}/shape", [1, *arranged(node, node.shape)])
    writer.add("Expand", [*node.inputs, shape], node.name)


def write_transpose(writer: Writer, node: Node, operation: kinds.Transpose) -> None:
    order = layout(node)
    writer.add("Transpose", node.inputs, node.name,
               perm=[order.index(operation.axes[axis]) for axis in order])


def write_slice(writer: Writer, node: Node, operation: kinds.Slice) -> None:
    inputs = [writer.integers(f"{node.name}/{name}", values) for name, values in (
        ("starts", arranged(node, operation.starts)),
        ("stops", arranged(node, operation.stops)),
        ("axes", range(1, len(node.shape) + 1)),
        ("steps", arranged(node, operation.steps)))]
    writer.add("Slice", [*node.inputs, *inputs], node.name)


def write_pad(writer: Writer, node: Node, operation: kinds.Pad) -> None:
    write_padding(writer, node.inputs[0], node.name,
                  arranged(node, operation.padding), operation.value)


def write_padding(writer: Writer, x: str, name: str, padding: Sequence[Pair],
                  value: float = 0.0) -> str:
    """Pads each axis except the batch. Slice crops the sides of negative padding."""
    if min(map(min, padding)) < 0:
        inputs = [writer.integers(f"{name}/{field}", values) for field, values in (
            ("starts", [max(0, -low) for low, _ in padding]),
            ("stops", [high if high < 0 else TO_THE_END for _, high in padding]),
            ("axes", range(1, len(padding) + 1)))]
        x = writer.add("Slice", [x, *inputs], f"{name}/cut")
        padding = [(max(0, low), max(0, high)) for low, high in padding]
    sides = writer.integers(f"{name}/sides", pads([(0, 0), *padding]))
    return writer.add("Pad", [x, sides, writer.floats(f"{name}/value", value)], name)


def write_reduce(writer: Writer, node: Node, operation: kinds.Reduce) -> None:
    before = writer.by_name[node.inputs[0]]
    order, removed = layout(before), operation.axes
    kept = [axis for axis in order if axis not in removed]
    target = [sorted(kept)[axis] for axis in layout(node)]
    name = node.name if kept == target else f"{node.name}/{operation.kind}"
    axes = sorted(map(order.index, removed))
    if operation.kind == "sum":  # the only one whose axes are an input in opset 17
        x = writer.add("ReduceSum", [before.name, writer.integers(
            f"{node.name}/axes", axes)], name, keepdims=0)
    else:
        x = writer.add(f"Reduce{operation.kind.capitalize()}", [before.name], name,
                       axes=axes, keepdims=0)
    if kept != target:
        writer.add("Transpose", [x], node.name, perm=list(map(kept.index, target)))


WRITERS: Mapping[type, Callable[..., None]] = {
    kinds.Conv: write_conv, kinds.ConvTranspose: write_conv_transpose,
    kinds.Dense: write_dense, kinds.BatchNorm: write_batch_norm,
    kinds.LocalResponseNorm: write_response_norm, kinds.MaxPool: write_max_pool,
    kinds.AvgPool: write_avg_pool, kinds.GlobalAvgPool: write_global_avg_pool,
    kinds.Activation: write_activation, kinds.Elementwise: write_elementwise,
    kinds.Concat: write_concat, kinds.Reshape: write_reshape,
    kinds.Broadcast: write_broadcast, kinds.Transpose: write_transpose,
    kinds.Slice: write_slice, kinds.Pad: write_pad, kinds.Reduce: write_reduce,
}
