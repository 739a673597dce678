"""Writes a layer graph as an ONNX model, with the `onnx` package (extra `export`).

The model takes pixels, uint8 [N, H, W, C], and scales them itself; N is symbolic. A
Transpose at the input makes them NCHW, and all images inside are NCHW. Nodes and
initializers have the names of our layers ('conv1', 'conv1/kernel'). Opset 17 with IR
version 8 loads in every ONNX Runtime since 1.13, in OpenVINO and in browsers.
"""

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

import cnn_jax
from cnn_jax import data
from cnn_jax.errors import InputError
from cnn_jax.inference.simplify import simplify_and_fold
from cnn_jax.interop.onnx_graph import Writer, helper, is_image, onnx
from cnn_jax.interop.onnx_operators import WRITERS
from cnn_jax.networks.graph import Graph, layer_graph
from cnn_jax.workdir.trained import Trained

OPSET, IR_VERSION = 17, 8
INPUT = "images"
OUTPUTS = {"softmax": "probabilities", "sigmoid": "probabilities", "logits": "logits"}

Scaling = tuple[float | Sequence[float], float | Sequence[float]]  # (offset, factor)


def to_onnx(graph: Graph, scaling: Scaling, output: str = "softmax",
            class_names: Sequence[str] = (), fold: bool = True,
            dtype: str = "float32") -> onnx.ModelProto:
    """Makes an ONNX model of a graph.

    scaling: (offset, factor), each a number or one for each channel: the network's
        input is (pixel - offset) * factor, as in `data.scaling`.
    output: 'softmax' or 'sigmoid' of the logits, named `probabilities`; or 'logits'.
        It is [N, classes], or [N, H, W, classes] if every pixel has a class.
    class_names: are stored in the model's metadata, as a JSON list.
    fold: whether functions of JAX become layers and batch norm is folded into the
        layer before it, as in `cnn_jax.inference`; if not, each is an operator.
    dtype: of the computation and the weights; float64 is for checks.
    Raises InputError for an operation that ONNX cannot express.
    """
    if output not in OUTPUTS:
        raise InputError(f"output {output!r} must be one of {', '.join(OUTPUTS)}")
    renamed = without_names(simplify_and_fold(graph) if fold else graph,
                            {INPUT, OUTPUTS[output]})
    writer = Writer(renamed, np.dtype(dtype))
    write_input(writer, scaling)
    for node in writer.graph.nodes[1:]:
        WRITERS[type(node.operation)](writer, node, node.operation)
    return make_model(write_output(writer, output), graph, output, class_names)


def trained_to_onnx(trained: Trained, fold: bool = True) -> onnx.ModelProto:
    """Makes the ONNX model of a trained network: pixels -> probabilities.

    fold: see `to_onnx`.
    """
    graph = layer_graph(trained.network, trained.variables, trained.info.image_shape)
    exclusive = data.task_of(trained.config.data).exclusive
    return to_onnx(graph, trained.info.scaling, "softmax" if exclusive else "sigmoid",
                   trained.info.class_names, fold)


def without_names(graph: Graph, taken: set[str]) -> Graph:
    """Renames the nodes whose names the model's input or output takes."""
    def name_of(name: str) -> str:
        return f"{name}/layer" if name in taken else name

    return dataclasses.replace(graph, nodes=tuple(
        dataclasses.replace(node, name=name_of(node.name),
                            inputs=tuple(map(name_of, node.inputs)))
        for node in graph.nodes))


def make_model(proto: onnx.GraphProto, graph: Graph, output: str,
               class_names: Sequence[str]) -> onnx.ModelProto:
    """Makes the model of an ONNX graph, with its producer and classes as metadata."""
    model = helper.make_model(
        proto, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION,
        producer_name="cnn_jax", producer_version=cnn_jax.__version__)
    helper.set_model_props(model, {
        "network": graph.network, "output": output,
        "image_shape": json.dumps(graph.image_shape),
        "class_names": json.dumps(list(class_names))})
    return model


def write_input(writer: Writer, scaling: Scaling) -> None:
    """Writes pixels [N, H, W, C] -> (pixels - offset) * factor [N, C, H, W]."""
    image = writer.graph.nodes[0]
    channels = image.shape[-1]
    x = writer.add("Transpose", [INPUT], f"{image.name}/nchw", perm=[0, 3, 1, 2])
    x = writer.add("Cast", [x], f"{image.name}/float", to=writer.element_type)
    for operator, field, values in zip(("Sub", "Mul"), ("offset", "factor"), scaling):
        array = np.asarray(values, np.float64)
        if array.shape not in ((), (channels,)):
            raise InputError(f"scaling: {field} must be one number or one for each of "
                             f"the {channels} channels, not {values}")
        constant = writer.floats(f"{image.name}/{field}", array.reshape(-1, 1, 1))
        name = image.name if operator == "Mul" else f"{image.name}/centred"
        x = writer.add(operator, [x, constant], name)


def write_output(writer: Writer, output: str) -> onnx.GraphProto:
    """Writes the output, and returns the whole ONNX graph."""
    last, name = writer.graph.nodes[-1], OUTPUTS[output]
    value = last.name
    if is_image(last):
        value = writer.add("Transpose", [value], f"{value}/nhwc", perm=[0, 2, 3, 1])
    if output == "softmax":
        writer.add("Softmax", [value], name, axis=-1)
    else:
        writer.add("Sigmoid" if output == "sigmoid" else "Identity", [value], name)
    pixels = helper.make_tensor_value_info(
        INPUT, onnx.TensorProto.UINT8, ["N", *writer.graph.image_shape])
    result = helper.make_tensor_value_info(
        name, writer.element_type, ["N", *last.shape])
    return helper.make_graph(writer.nodes, writer.graph.network, [pixels], [result],
                             list(writer.initializers.values()))
