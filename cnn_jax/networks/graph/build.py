"""Makes the layer graph of a network from its jaxpr.

The network is traced once, as in evaluation. Every layer of `layers.LAYERS` adds one
equation of the primitive `layer` to the jaxpr, and later equations use its output. So
the equations inside the layer are unused and are dropped. The layers and the primitives
between them remain.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal, Primitive

from cnn_jax.errors import InputError
from cnn_jax.layers import Layers
from cnn_jax.networks.graph.layers import layer_of
from cnn_jax.networks.graph.nodes import Graph, Node
from cnn_jax.networks.graph.operations import (Elementwise, Input, Operation, Params,
                                               Reduce, Shape)
from cnn_jax.networks.graph.primitives import (READERS, Equation, Unsupported, Value,
                                               constant)
from cnn_jax.networks.trace import Call, ImageShape, trace

# Primitives that compute a jaxpr, which is one of their parameters, once.
CALLS = {"jit", "pjit", "closed_call", "core_call", "checkpoint", "remat2",
         "custom_jvp_call", "custom_vjp_call"}

# A prime that tells the batch from every other axis. (A symbolic size would too, but
# with it indexing becomes gather, and code that reads x.shape[0] may fail.)
BATCH = 10_007

layer_p = Primitive("layer")


@layer_p.def_abstract_eval
def _layer_shape(*operands: Any, output: Any, **_: Any) -> Any:
    return output


def layer_graph(network: nn.Module, variables: Mapping[str, Any],
                image_shape: ImageShape) -> Graph:
    """Makes the graph of a network in evaluation, for images of (H, W, C).

    variables: {"params": ..., "batch_stats": ...}. Shapes alone (`jax.eval_shape`) give
        the same graph without arrays.

    The compute dtype of the network does not matter: a graph has no dtypes, and
    computes in the dtype of its parameters and images.
    Raises InputError for an operation that a graph cannot hold.
    """
    layers = getattr(network, "layers", None)
    if isinstance(layers, Layers):  # plain XLA operations are the easiest to read
        network = network.clone(parent=None, layers=dataclasses.replace(
            layers, conv="lax", pool="lax", dtype=str(jnp.result_type(float))))
    names: set[str] = set()

    def apply(variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        logits, calls = trace(network, variables, images, mark_layer)
        names.update(call.name for call in calls)
        return logits

    images = jax.ShapeDtypeStruct((BATCH, *image_shape), jnp.result_type(float))
    jaxpr = jax.make_jaxpr(apply)(variables, images)
    reader = Reader(type(network).__name__, names)
    arguments = [*jax.tree.leaves(variables), reader.emit(Input(), [], image_shape)]
    outputs = reader.read(jaxpr.jaxpr, [*jaxpr.consts, *arguments],
                          [True] * len(jaxpr.out_avals), [])
    if len(outputs) != 1 or not isinstance(outputs[0], Value):
        raise InputError(f"{reader.network} returns {len(outputs)} arrays that depend "
                         "on the images: a layer graph holds networks with one output")
    return Graph(reader.network, reader.nodes(outputs[0].node))


def mark_layer(call: Call) -> jax.Array:
    """Replaces the output of a layer by the output of one `layer` equation."""
    layer = layer_of(call)
    if layer is None:
        return call.output
    return layer_p.bind(
        *call.inputs, *layer.params.values(), operation=layer.operation,
        names=tuple(layer.params), layer=call.name,
        output=jax.typeof(call.output))


@dataclasses.dataclass(frozen=True)
class Draft:
    """A node that has no name yet."""

    operation: Operation
    inputs: tuple[int, ...]  # indices of drafts
    shape: Shape
    params: Params
    path: str                # of the module that computes it
    is_layer: bool


class Reader:
    """Reads a jaxpr into drafts of nodes."""

    def __init__(self, network: str, names: set[str]) -> None:
        self.network, self.names = network, names
        self.drafts: list[Draft] = []
        self.path, self.is_layer = "", False  # of the equation that is read

    def emit(self, operation: Operation, inputs: Sequence[Value], shape: Shape,
             params: Params = {}) -> Value:
        """Adds a draft."""
        self.drafts.append(Draft(operation, tuple(value.node for value in inputs),
                                 shape, params, self.path, self.is_layer))
        return Value(len(self.drafts) - 1, shape)

    def read(self, jaxpr: Jaxpr, inputs: Sequence[Any], used: Sequence[bool],
             scopes: list[str]) -> list[Any]:
        """Reads the equations that the used outputs depend on; returns the outputs.

        inputs: values or arrays for the jaxpr's constants and arguments.
        scopes: the nested modules in which the jaxpr is called.
        """
        needed = {var for var, use in zip(jaxpr.outvars, used)
                  if use and not isinstance(var, Literal)}
        equations = []
        for eqn in reversed(jaxpr.eqns):
            if any(var in needed for var in eqn.outvars):
                equations.append((eqn, [var in needed for var in eqn.outvars]))
                needed.update(x for x in eqn.invars if not isinstance(x, Literal))
        known = dict(zip([*jaxpr.constvars, *jaxpr.invars], inputs, strict=True))

        def look_up(atom: Any) -> Any:
            return atom.val if isinstance(atom, Literal) else known.get(atom)

        for eqn, outputs_used in reversed(equations):
            operands = [look_up(atom) for atom in eqn.invars]
            inside = [*scopes, *str(eqn.source_info.name_stack).split("/")]
            if eqn.primitive.name in CALLS:
                called = next(value for value in eqn.params.values()
                              if isinstance(value, (Jaxpr, ClosedJaxpr)))
                if isinstance(called, ClosedJaxpr):
                    called, operands = called.jaxpr, [*called.consts, *operands]
                outputs = self.read(called, operands, outputs_used, inside)
            else:
                self.path = self.module_of(inside)
                outputs = self.read_equation(eqn, operands)
            known.update(zip(eqn.outvars, outputs, strict=True))
        return [look_up(atom) for atom in jaxpr.outvars]

    def read_equation(self, eqn: Any, operands: list[Any]) -> list[Any]:
        """Computes an equation of constants, and makes drafts of any other."""
        name = eqn.primitive.name
        if not any(isinstance(x, Value) for x in operands):
            return constant(eqn.primitive, operands, eqn.params, BATCH)
        try:
            shapes = [shape_of(var.aval) for var in eqn.outvars]
            if eqn.primitive is layer_p:
                return [self.read_layer(eqn.params, operands, shapes[0])]
            if name not in READERS:
                raise Unsupported()
            return READERS[name](
                Equation(name, operands, eqn.invars[0].aval.dtype, eqn.params, shapes),
                self.emit)
        except Unsupported as reason:
            where = f"layer {self.path} of " if self.path else ""
            raise InputError(
                f"{where}{self.network} computes {' '.join([name, *reason.args])}, "
                "which a layer graph cannot hold: build the network of the layers of "
                "cnn_jax.layers or flax.linen and of plain arithmetic") from None

    def read_layer(self, params: dict[str, Any], operands: list[Any],
                   shape: Shape) -> Value:
        names = params["names"]
        inputs = operands[:len(operands) - len(names)]
        arrays = dict(zip(names, operands[len(inputs):], strict=True))
        if any(isinstance(array, Value) for array in arrays.values()):
            raise Unsupported("with parameters that depend on the images")
        self.path, self.is_layer = params["layer"], True
        value = self.emit(params["operation"], inputs, shape, arrays)
        self.is_layer = False
        return value

    def module_of(self, scopes: list[str]) -> str:
        """Finds the innermost module of nested scopes; '' for the network itself."""
        path = ""
        for scope in scopes:
            inner = f"{path}/{scope}" if path else scope
            if inner in self.names:
                path = inner
        return path

    def nodes(self, output: int) -> tuple[Node, ...]:
        """Names the drafts that contribute to the output."""
        used = {0, output}
        for index in range(output, -1, -1):
            if index in used:
                used.update(self.drafts[index].inputs)
        names = self.name(sorted(used))
        drafts = ((name, self.drafts[index]) for index, name in names.items())
        return tuple(Node(name, draft.operation,
                          tuple(names[index] for index in draft.inputs), draft.shape,
                          draft.params) for name, draft in drafts)

    def name(self, used: list[int]) -> dict[int, str]:
        """Names drafts by their layer; see `Node.name`."""
        last = {self.drafts[index].path: index for index in used}
        names: dict[int, str] = {}
        taken: set[str] = set()
        for index in used:
            draft = self.drafts[index]
            name = draft.path
            if not draft.is_layer and (last[draft.path] != index or not name):
                name = "/".join(filter(None, (name, kind_of(draft.operation))))
            numbered = (f"{name}_{i}" for i in itertools.count(2))
            names[index] = name if name not in taken else next(
                other for other in numbered if other not in taken | last.keys())
            taken.add(names[index])
        return names


def shape_of(aval: Any) -> Shape:
    """Returns the shape for one image; the batch must be axis 0."""
    shape = tuple(map(int, aval.shape[1:]))
    if aval.shape[:1] != (BATCH,) or any(n and n % BATCH == 0 for n in shape):
        raise Unsupported("along the axis of the images")
    return shape


def kind_of(operation: Operation) -> str:
    """Names what an operation computes: 'slice', 'mul', 'reduce_sum'."""
    if isinstance(operation, Elementwise):
        return operation.kind
    if isinstance(operation, Reduce):
        return f"reduce_{operation.kind}"
    return type(operation).__name__.lower()
