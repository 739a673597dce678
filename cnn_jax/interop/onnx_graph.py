"""Collects the nodes and initializers of an ONNX graph."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.installation import install_command
from cnn_jax.networks.graph import Graph, Node
from cnn_jax.networks.graph.operations import Shape

try:
    import onnx
    from onnx import helper, numpy_helper
except ImportError as error:
    raise InputError("export to ONNX needs the package onnx (31 MB): "
                     f"{install_command('export')}") from error

Arrange = Callable[[np.ndarray], np.ndarray]


def unchanged(array: np.ndarray) -> np.ndarray:
    return array


class Writer:
    """Collects the nodes and initializers of an ONNX graph.

    The value of one of our nodes is the ONNX value of the same name. Values for which
    `is_image` holds are NCHW, all others as in our graph.
    """

    def __init__(self, graph: Graph, dtype: np.dtype) -> None:
        self.graph, self.dtype = graph, dtype
        self.by_name = {node.name: node for node in graph.nodes}
        self.consumers = graph.consumers()
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}
        self.written: dict[Any, str] = {}  # (id of an array, arrangement): initializer
        # Flattened images whose values are in the order C, H, W: their (H, W, C).
        self.channels_first: dict[str, Shape] = {}

    def add(self, operator: str, inputs: Iterable[str], name: str,
            **attributes: Any) -> str:
        """Adds an ONNX node, and returns its name, which its value has too."""
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name=name,
                                           **attributes))
        return name

    def tensor(self, name: str, array: np.ndarray) -> str:
        """Adds an initializer, and returns its name."""
        self.initializers[name] = numpy_helper.from_array(
            np.asarray(array, order="C"), name)
        return name

    def integers(self, name: str, values: Sequence[int]) -> str:
        return self.tensor(name, np.asarray(values, np.int64))

    def floats(self, name: str, values: Any) -> str:
        return self.tensor(name, np.asarray(values, self.dtype))

    def param(self, node: Node, name: str, arrange: Arrange = unchanged,
              arrangement: Any = None) -> str:
        """Adds a parameter of a node. Layers that share it share the initializer.

        arrange: converts the array to ONNX's layout.
        arrangement: identifies that layout, as a shared parameter may need several.
        """
        array = node.params[name]
        key = id(array), arrangement
        if key not in self.written:
            self.written[key] = self.floats(f"{node.name}/{name}",
                                            arrange(np.asarray(array)))
        return self.written[key]

    def weights(self, node: Node, arrange: Arrange, arrangement: Any) -> list[str]:
        """Adds the kernel, and the bias if there is one."""
        kernel = self.param(node, "kernel", arrange, arrangement)
        return [kernel, self.param(node, "bias")] if "bias" in node.params else [kernel]

    @property
    def element_type(self) -> int:
        """The dtype as ONNX numbers it."""
        return helper.np_dtype_to_tensor_dtype(self.dtype)


def is_image(node: Node) -> bool:
    """Tells whether a value is [N, H, W, C], and so NCHW in ONNX."""
    return len(node.shape) == 3


def arranged(node: Node, items: Sequence[Any]) -> list[Any]:
    """Sorts items, one for each axis except the batch, into ONNX's order."""
    return [items[axis - 1] for axis in layout(node)[1:]]


def layout(node: Node) -> list[int]:
    """Lists our axes of a value in ONNX's order."""
    return [0, 3, 1, 2] if is_image(node) else list(range(len(node.shape) + 1))
