"""What a compiled program holds for a convolution that the library supports.

    the program runs                              it holds
    on one CPU device                             a call of the library
    inside pmap, or shard_map over all axes       a call on each device
    under jit over a mesh of CPU devices          a call on each device's own images
    inside shard_map over some axes of a mesh     XLA's convolution
    exported for any device                       XLA's convolution
    on a GPU or TPU                               XLA's convolution

A dense layer (`ops.dense`) is XLA's product of matrices where a convolution is XLA's.
An exported program calls no library, because the machine that loads it may lack it.
Under jit over a mesh, weight gradients per example (vmap) gather the images first.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.experimental.xla_metadata import set_xla_metadata
from jax.interpreters import mlir
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from cnn_jax.native import cost, library
from cnn_jax.native.cost import INPUT_GRADIENT, WEIGHT_GRADIENT
from cnn_jax.ops.conv import auto, lax as conv_lax, pointwise
from cnn_jax.ops.conv.spec import ConvSpec
from cnn_jax.program_cache import PARTS

# The roles of operands and result in the passes.
ROLES = (("x", "w", "y"), ("y", "w", "x"), ("x", "y", "w"))


def result_shape(kind: int, spec: ConvSpec) -> tuple[int, ...]:
    return (spec.y_shape, spec.x_shape, spec.w_shape)[kind]


def weight_gradient_by_xla(spec: ConvSpec) -> bool:
    """Tells whether oneDNN 3.2 could read beyond the image for the weight gradient.

    It does with Intel's AVX-512, for example with 5 x 1 x 4 pixels, kernel 5 x 1 x 5,
    stride 2 and padding 3.
    """
    return len(spec.kernel) == 3 and max(spec.strides) > 1


def needs_float32(kind: int, spec: ConvSpec) -> bool:
    """Tells whether oneDNN 3.2 computes a pass better in float32 than in bfloat16.

    Some weight gradients are wrong (5 x 2 pixels, stride 3, 8 channels per group), and
    all are slow; im2col has no groups. Input gradients of strided depthwise kernels
    take 5 to 25 times as long as in float32.
    """
    depthwise = spec.w_shape[-2] == 1 and spec.groups > 1
    return kind == WEIGHT_GRADIENT or (
        kind == INPUT_GRADIENT and depthwise and max(spec.strides) > 1)


def by_library(a: jax.Array, b: jax.Array, kind: int, spec: ConvSpec,
               fastest: bool) -> jax.Array:
    """Calls the library; the method is chosen for the images of this call.

    fastest: whether to choose the fastest method; if not, it is oneDNN, or without it
        what `ops` computes.
    """
    method = (cost.method_of(kind, spec, a.dtype) if fastest
              else cost.without_choice())
    if method == cost.OPS:
        return auto.choose(auto.RULES[kind], spec)(a, b, spec)
    if method == cost.ONEDNN:
        if kind == WEIGHT_GRADIENT and weight_gradient_by_xla(spec):
            return by_xla(a, b, kind, spec, fastest)
        if a.dtype == jnp.bfloat16 and needs_float32(kind, spec):
            return call(a.astype(jnp.float32), b.astype(jnp.float32), kind, spec,
                        method).astype(a.dtype)
    return call(a, b, kind, spec, method)


def call(a: jax.Array, b: jax.Array, kind: int, spec: ConvSpec, method: int
         ) -> jax.Array:
    """Calls the library; cost.py names the methods."""
    low, high = zip(*spec.padding)
    numbers = {"strides": spec.strides, "low": low, "high": high,
               "dilation": spec.rhs_dilation}
    return jax.ffi.ffi_call(
        library.TARGET, jax.ShapeDtypeStruct(result_shape(kind, spec), a.dtype))(
            a, b, kind=np.int64(kind), groups=np.int64(spec.groups),
            method=np.int64(method),
            **{name: np.asarray(value, np.int64) for name, value in numbers.items()})


def by_xla(a: jax.Array, b: jax.Array, kind: int, spec: ConvSpec,
           fastest: bool) -> jax.Array:
    passes = pointwise.passes if is_pixelwise(spec) else conv_lax.plain
    return passes[kind](a, b, spec)


def is_pixelwise(spec: ConvSpec) -> bool:
    """Tells whether the convolution is a dense layer, one row a pixel (`ops.dense`)."""
    return spec.x_shape[1:-1] == spec.kernel == (1,)


# jit over a mesh: the partitioner runs `by_library` on each device's own images.

by_library_per_device = custom_partitioning(by_library, static_argnums=(2, 3, 4))


def _shardings(kind: int, mesh: Mesh, operands: Sequence[Any]
               ) -> tuple[Any, tuple[NamedSharding, ...], NamedSharding]:
    """Shards operands and result along the batch, over the axes of the operands."""
    images, axes = next((o.shape[0], o.sharding.spec[0]) for o, role in zip(
        operands, ROLES[kind]) if role != "w")
    names = axes if isinstance(axes, tuple) else (axes,) if axes else ()
    if images % math.prod(mesh.shape[name] for name in names):
        axes = None  # XLA would pad the last shard with rows that are not images
    *arguments, result = (
        NamedSharding(mesh, PartitionSpec(None if role == "w" else axes))
        for role in ROLES[kind])
    return axes, tuple(arguments), result


def _partition(kind: int, spec: ConvSpec, fastest: bool, mesh: Mesh,
               operands: Sequence[Any], result: Any) -> tuple[Any, ...]:
    axes, arguments, result = _shardings(kind, mesh, operands)

    def on_one_device(a: jax.Array, b: jax.Array) -> jax.Array:
        y = by_library(a, b, kind, spec._replace(
            x_shape=(a.shape[0], *spec.x_shape[1:])), fastest)
        return lax.psum(y, axes) if kind == WEIGHT_GRADIENT and axes else y
    return mesh, on_one_device, result, arguments


def _sharding_rule(kind: int, spec: ConvSpec, fastest: bool, mesh: Mesh,
                   operand_types: Any, result_types: Any) -> tuple[str, dict]:
    """Says, in einsum's notation, that the batch alone may be sharded."""
    rank = range(len(spec.kernel))
    names = {"x": ["n", *(f"i{r}" for r in rank), "c"],
             "w": [*(f"k{r}" for r in rank), "d", "o"],
             "y": ["n", *(f"j{r}" for r in rank), "p"]}
    a, b, y = (names[role] for role in ROLES[kind])
    replicated = dict.fromkeys(a + b + y)  # in the order of the rule
    del replicated["n"]
    return f"{' '.join(a)}, {' '.join(b)} -> {' '.join(y)}", {
        "need_replication_factors": tuple(replicated),
        "reduction_factors": ("n",) if kind == WEIGHT_GRADIENT else ()}


by_library_per_device.def_partition(
    partition=_partition, sharding_rule=_sharding_rule,
    infer_sharding_from_operands=lambda kind, spec, fastest, mesh, operands, result:
        _shardings(kind, mesh, operands)[2])


def by_library_on_each(a: jax.Array, b: jax.Array, kind: int, spec: ConvSpec,
                       fastest: bool) -> jax.Array:
    """Writes all that decides the parts into the program, as metadata.

    JAX writes only an address into it. So two convolutions of the same shapes could
    have one key in JAX's cache of compiled programs, and one would run the other's
    program. So could those of two versions of this code, or with and without oneDNN.
    """
    parts = repr((kind, spec, fastest, code(), library.wants_onednn()))
    with set_xla_metadata(**{PARTS: parts}):
        return by_library_per_device(a, b, kind, spec, fastest)


@functools.cache
def code() -> str:
    """Returns a hash of the Python code that chooses and lowers convolutions."""
    key = hashlib.sha256()
    for folder in ("native", "ops"):
        for path in sorted((Path(__file__).parents[1] / folder).rglob("*.py")):
            key.update(path.read_bytes())
    return key.hexdigest()[:32]


# The table at the top, as code.

def _choose(module: Any) -> Callable[..., jax.Array]:
    """Chooses what computes the convolution in a program for a CPU."""
    if library.runs_unsharded(module):
        return by_library
    context = module.axis_context
    mesh_is_known = (
        isinstance(context, mlir.ShardingContext) and context.device_assignment
        and context.abstract_mesh and not module.lowering_parameters.for_export)
    return by_library_on_each if mesh_is_known else by_xla


def _on_cpu(context: Any, a: Any, b: Any, **static: Any) -> Any:
    function = functools.partial(_choose(context.module_context), **static)
    return mlir.lower_fun(function, multiple_results=False)(context, a, b)


def register(primitive: Any) -> None:
    """Registers the lowerings of the convolution primitive."""
    library.lower_with_devices(primitive)
    mlir.register_lowering(primitive, mlir.lower_fun(by_xla, multiple_results=False))
    mlir.register_lowering(primitive, _on_cpu, platform="cpu")
