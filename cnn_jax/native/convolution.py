"""Convolution by oneDNN, the library behind PyTorch's and TensorFlow's CPU speed.

One JAX primitive stands for the three passes. Each pass is linear in both operands, and
its derivatives are the other two passes: forward mode, reverse mode and any order of
them stay in the library. Under `vmap` the mapped axis is merged into an axis of the
convolution, so that one call computes everything. `lowering.py` says what a compiled
program holds.

`passes` run in oneDNN. `fastest` do too, except for the convolutions that Winograd's
method or im2col computes in less time (`cost.py`). A library without oneDNN computes
these alone. The bias is not part of them: XLA adds it in the pass over the image that
computes the activation.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jax.typing import DTypeLike

from cnn_jax.native import cost, library, lowering
from cnn_jax.native.cost import FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT
from cnn_jax.native.lowering import ROLES, result_shape
from cnn_jax.ops._xla.shard_map import match_varying_axes
from cnn_jax.ops.conv import auto, lax as conv_lax
from cnn_jax.ops.conv.algorithm import Algorithm, Pass
from cnn_jax.ops.conv.spec import ConvSpec, is_empty, is_symbolic
from cnn_jax.ops.conv.vjp import Passes


def supports(spec: ConvSpec, dtype: DTypeLike) -> bool:
    """Tells whether the library is available and supports this convolution and dtype.

    It is loaded, and built, only for a convolution that it may support.
    """
    if is_symbolic(spec):
        return False
    sizes = [math.prod(s) for s in (spec.x_shape, spec.w_shape, spec.y_shape)]
    numbers = sizes + [*spec.strides, *spec.rhs_dilation]
    if (len(spec.kernel) > 3 or max(spec.lhs_dilation) > 1 or max(numbers) >= 2 ** 31
            or any(p < 0 for pair in spec.padding for p in pair) or is_empty(spec)
            or dtype not in (jnp.float32, jnp.bfloat16)):
        return False
    if dtype == jnp.bfloat16 and max(spec.rhs_dilation) > 1:
        # oneDNN 3.2 writes beyond some of these images (13 pixels, kernel 5, stride 4,
        # dilation 2, padding 3 and 0; with AMX also stride 1: 1 pixel, kernel 3,
        # dilation 2, padding 3 and 1).
        return False
    if not library.wants_onednn() and (
            dtype != jnp.float32 or set(methods(spec, dtype)) == {cost.OPS}):
        return False
    loaded = library.load()
    return loaded is not None and (dtype == jnp.float32 or loaded.bfloat16)


def methods(spec: ConvSpec, dtype: DTypeLike) -> list[int]:
    """Chooses the fastest method for each pass."""
    return [cost.method_of(kind, spec, dtype)
            for kind in (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)]


# The primitive and its derivatives.

convolution_p = Primitive("onednn_convolution")
lowering.register(convolution_p)


def bind(kind: int, a: jax.Array, b: jax.Array, spec: ConvSpec,
         fastest: bool) -> jax.Array:
    a, b = match_varying_axes(a, b)
    return convolution_p.bind(a, b, kind=kind, spec=spec, fastest=fastest)


_run = jax.jit(convolution_p.bind, static_argnames=("kind", "spec", "fastest"))


def _evaluate(a: jax.Array, b: jax.Array, **static: Any) -> jax.Array:
    with jax.disable_jit(False):  # only a compiled program calls the library
        return _run(a, b, **static)


def _result(a: Any, b: Any, *, kind: int, spec: ConvSpec, fastest: bool) -> Any:
    # It is sharded along the batch alone; a weight gradient is summed over the batch.
    axes = None if kind == WEIGHT_GRADIENT else a.sharding.spec[0]
    sharding = a.sharding.update(spec=PartitionSpec(axes, *[None] * (a.ndim - 1)))
    return a.update(shape=result_shape(kind, spec), weak_type=False, sharding=sharding)


def _transpose(kinds: tuple[int, ...], order: tuple[tuple[str, str], ...]) -> Callable:
    """Makes the transpose rule in one operand.

    The transpose of each pass is another pass, applied to the cotangent t and the other
    operand in the given order.
    """
    def rule(t: Any, a: Any, b: Any, *, kind: int, spec: ConvSpec,
             fastest: bool) -> jax.Array:
        operands = {"t": t, "a": a, "b": b}
        first, second = order[kind]
        return bind(kinds[kind], operands[first], operands[second], spec, fastest)
    return rule


convolution_p.def_impl(_evaluate)
convolution_p.def_abstract_eval(_result)
ad.defbilinear(
    convolution_p,
    _transpose((INPUT_GRADIENT, FORWARD, INPUT_GRADIENT),
               (("t", "b"), ("t", "b"), ("b", "t"))),
    _transpose((WEIGHT_GRADIENT, WEIGHT_GRADIENT, FORWARD),
               (("a", "t"), ("t", "a"), ("a", "t"))))


# vmap: an axis of the convolution absorbs the mapped axis.

IMAGES, CHANNELS, OUTPUTS, GROUPS = "images", "channels", "outputs", "groups"

# (pass, whether each operand is mapped) -> the axis that absorbs the mapped axis. It is
# the axis that the mapped operands and the result share and the other operand lacks.
ABSORBING = {
    # y of x and w
    (FORWARD, True, False): IMAGES,           # more images, one kernel
    (FORWARD, False, True): OUTPUTS,          # the same images, more kernels
    (FORWARD, True, True): GROUPS,            # each image with its own kernel
    # dx of g and w
    (INPUT_GRADIENT, True, False): IMAGES,    # more cotangents, one kernel
    (INPUT_GRADIENT, False, True): CHANNELS,  # the same cotangent, more kernels
    (INPUT_GRADIENT, True, True): GROUPS,     # each cotangent with its own kernel
    # dw of x and g
    (WEIGHT_GRADIENT, True, False): CHANNELS,  # more images, one cotangent
    (WEIGHT_GRADIENT, False, True): OUTPUTS,  # the same images, more cotangents
    (WEIGHT_GRADIENT, True, True): GROUPS,    # each image with its own cotangent
}
# array -> absorbing axis -> (axis of the array, whether each group has a part of it)
AXES = {
    "x": {IMAGES: (0, False), CHANNELS: (-1, True), GROUPS: (-1, False)},
    "w": {CHANNELS: (-2, False), OUTPUTS: (-1, True), GROUPS: (-1, False)},
    "y": {IMAGES: (0, False), OUTPUTS: (-1, True), GROUPS: (-1, False)},
}


def _merge(array: jax.Array, role: str, absorbing: str, groups: int) -> jax.Array:
    """Merges the leading mapped axis into the absorbing one: [B, *shape] -> *shape'."""
    axis, grouped = AXES[role][absorbing]
    size, *shape = array.shape
    axis %= len(shape)
    per_group = shape[axis] // (groups if grouped else 1)
    split = array.reshape(size, *shape[:axis], -1, per_group, *shape[axis + 1:])
    shape[axis] *= size
    return jnp.moveaxis(split, 0, axis + 1).reshape(shape)


def _unmerge(array: jax.Array, role: str, absorbing: str, groups: int,
             size: int) -> jax.Array:
    """Inverts `_merge`."""
    axis, grouped = AXES[role][absorbing]
    shape = list(array.shape)
    axis %= len(shape)
    shape[axis] //= size
    per_group = shape[axis] // (groups if grouped else 1)
    split = array.reshape(*shape[:axis], -1, size, per_group, *shape[axis + 1:])
    return jnp.moveaxis(split, axis + 1, 0).reshape(size, *shape)


def _enlarge(spec: ConvSpec, absorbing: str, size: int) -> ConvSpec:
    """Describes the convolution of the merged arrays."""
    shapes = {"x": list(spec.x_shape), "w": list(spec.w_shape)}
    for role, shape in shapes.items():
        if absorbing in AXES[role]:
            shape[AXES[role][absorbing][0]] *= size
    return spec._replace(x_shape=tuple(shapes["x"]), w_shape=tuple(shapes["w"]),
                         groups=spec.groups * (size if absorbing == GROUPS else 1))


def _batch(operands: Any, axes: Any, *, kind: int, spec: ConvSpec,
           fastest: bool) -> tuple[jax.Array, int]:
    *roles, result = ROLES[kind]
    absorbing = ABSORBING[kind, axes[0] is not None, axes[1] is not None]
    size = next(a.shape[i] for a, i in zip(operands, axes) if i is not None)
    enlarged = _enlarge(spec, absorbing, size)
    if not supports(enlarged, operands[0].dtype):  # merging made it too large or empty
        return jax.vmap(lambda a, b: conv_lax.plain[kind](a, b, spec), axes)(
            *operands), 0
    a, b = (array if axis is None else _merge(
        jnp.moveaxis(array, axis, 0), role, absorbing, spec.groups)
        for role, array, axis in zip(roles, operands, axes))
    y = bind(kind, a, b, enlarged, fastest)
    return _unmerge(y, result, absorbing, spec.groups, size), 0


batching.primitive_batchers[convolution_p] = _batch


# The passes, as every algorithm has them.

def shards_images_alone(kind: int, a: jax.Array, b: jax.Array) -> bool:
    """Tells whether no axis but the batch is sharded over a mesh with explicit axes.

    The library does not support sharded channels, pixels or weights.
    """
    specs = zip(ROLES[kind], (jax.typeof(array).sharding.spec for array in (a, b)))
    return all(axes is None for role, spec in specs
               for axes in spec[role != "w":])


def _passes(fastest: bool) -> Passes:
    def of_kind(kind: int) -> Pass:
        def one_pass(a: jax.Array, b: jax.Array, spec: ConvSpec) -> jax.Array:
            if shards_images_alone(kind, a, b):
                # JAX's default precision must be read now: lowering does not know it.
                return bind(kind, a, b, spec,
                            fastest and cost.has_default_precision(spec))
            if conv_lax.xla_is_correct(spec):
                return conv_lax.plain[kind](a, b, spec)  # with forward mode
            return conv_lax.passes[kind](a, b, spec)
        return one_pass
    return Passes(*map(of_kind, (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)))


passes, fastest = _passes(fastest=False), _passes(fastest=True)


def select(name: str, spec: ConvSpec, dtype: DTypeLike) -> Algorithm | None:
    """Selects the passes for 'onednn', or the fastest for 'native'; None: unsupported.
    """
    if not supports(spec, dtype):
        return None
    chosen = methods(spec, dtype) if name == "native" else [cost.ONEDNN] * 3
    names = [auto.name_of(auto.choose(rules, spec)) if method == cost.OPS
             else cost.NAMES[method] for method, rules in zip(chosen, auto.RULES)]
    if lowering.weight_gradient_by_xla(spec) and chosen[2] == cost.ONEDNN:
        names[2] = "lax"
    label = " / ".join(names if len(set(names)) > 1 else names[:1])
    return Algorithm(label, *(fastest if name == "native" else passes))
