"""Convolution by oneDNN, the library behind PyTorch's and TensorFlow's CPU speed.

`passes` are oneDNN's; `fastest` are too, except for the 3 x 3 convolutions that
Winograd's method in the same library computes in less time (winograd_cost). A JAX
primitive for each pass of `trilinear`, linear in both of its operands, whose
derivatives are the other two: forward mode, reverse mode and any order of them stay in
oneDNN. Under `vmap` the mapped axis joins an axis that the convolution has, so that
one call computes all; under `jit` over a mesh each device convolves its own images
(weight gradients of every example for itself are gathered first). Programs for a GPU or
TPU, and all that are exported, hold XLA's convolution. A bias stays outside: XLA adds
it in the pass over the image that the activation makes, so nothing would be saved.
"""

import functools
import logging
import math

import jax
from jax import lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np

from cnn_jax.native import library
from cnn_jax.ops.conv import lax as conv_lax, winograd_cost
from cnn_jax.ops.geometry import ConvSpec, is_empty, is_symbolic
from cnn_jax.ops._xla.shard_map import vary_alike
from cnn_jax.ops.conv.vjp import Passes

# The passes, as numbered in convolution.cc, and the arrays of each: operands, result.
FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT = range(3)
ROLES = ("xwy", "ywx", "xyw")
BY_LAX = (conv_lax.forward, conv_lax.input_gradient, conv_lax.weight_gradient)


def takes(spec: ConvSpec, dtype) -> bool:
    """True if oneDNN is here and has this convolution in this dtype."""
    if is_symbolic(spec):
        return False
    sizes = [math.prod(s) for s in (spec.x_shape, spec.w_shape, spec.y_shape)]
    numbers = sizes + [*spec.strides, *spec.rhs_dilation]
    if (len(spec.kernel) > 3 or max(spec.lhs_dilation) > 1 or max(numbers) >= 2 ** 31
            or any(p < 0 for pair in spec.padding for p in pair) or is_empty(spec)
            or dtype not in (jnp.float32, jnp.bfloat16)):
        return False
    if dtype == jnp.bfloat16 and max(spec.strides) > 1 and max(spec.rhs_dilation) > 1:
        # oneDNN 3.2 writes beyond some of these images (13 pixels, kernel 5, stride 4,
        # dilation 2, padding 3 and 0).
        return False
    loaded = library.load()
    return loaded is not None and (dtype == jnp.float32 or loaded.bfloat16)


def weight_gradient_by_lax(spec: ConvSpec) -> bool:
    """True where oneDNN 3.2 reads beyond the image on Intel's AVX-512 (5 x 1 x 4
    pixels, kernel 5 x 1 x 5, stride 2, padding 3)."""
    return len(spec.kernel) == 3 and max(spec.strides) > 1


def result_shape(kind: int, spec: ConvSpec) -> tuple[int, ...]:
    return (spec.y_shape, spec.x_shape, spec.w_shape)[kind]


# The primitive.

convolution_p = Primitive("onednn_convolution")
library.lower_with_devices(convolution_p)


def bind(kind: int, a, b, spec: ConvSpec, winograd: bool):
    a, b = vary_alike(a, b)
    return convolution_p.bind(a, b, kind=kind, spec=spec, winograd=winograd)


_run = jax.jit(convolution_p.bind, static_argnames=("kind", "spec", "winograd"))


def _evaluate(a, b, **static):
    with jax.disable_jit(False):  # a call is made in a compiled program alone
        return _run(a, b, **static)


def _result(a, b, *, kind, spec, winograd):
    # Split over devices only along the batch, which a weight gradient has summed.
    split = None if kind == WEIGHT_GRADIENT else a.sharding.spec[0]
    sharding = a.sharding.update(spec=PartitionSpec(split, *[None] * (a.ndim - 1)))
    return a.update(shape=result_shape(kind, spec), weak_type=False, sharding=sharding)


def _transpose(kinds, order):
    """The transpose of a pass in one operand: another pass, of the cotangent t and the
    other operand."""
    def rule(t, a, b, *, kind, spec, winograd):
        operands = {"t": t, "a": a, "b": b}
        return bind(kinds[kind], *(operands[o] for o in order[kind]), spec, winograd)
    return rule


convolution_p.def_impl(_evaluate)
convolution_p.def_abstract_eval(_result)
ad.defbilinear(
    convolution_p,
    _transpose((INPUT_GRADIENT, FORWARD, INPUT_GRADIENT), ("tb", "tb", "bt")),
    _transpose((WEIGHT_GRADIENT, WEIGHT_GRADIENT, FORWARD), ("at", "ta", "at")))


# vmap: the mapped axis becomes part of an axis of the convolution.

def _axis(role: str, factor: str, spec: ConvSpec) -> tuple[int, int]:
    """Where the mapped axis joins an array: (axis, how many entries are inside it).

    factor: 'n' images, 'c' channels of a group, 'o' outputs of a group, 'g' groups.
    """
    shape = {"x": spec.x_shape, "w": spec.w_shape, "y": spec.y_shape}[role]
    if factor == "n":
        return 0, shape[0]
    if factor == "g":
        return len(shape) - 1, shape[-1]
    if factor == "c" and role == "w":
        return len(shape) - 2, shape[-2]
    return len(shape) - 1, shape[-1] // spec.groups


def _join(array, axis, inside):
    """array [B, *shape] -> *shape with B times as many entries along `axis`"""
    size, *shape = array.shape
    parts = array.reshape(size, *shape[:axis], -1, inside, *shape[axis + 1:])
    shape[axis] *= size
    return jnp.moveaxis(parts, 0, axis + 1).reshape(shape)


def _part(array, axis, inside, size):
    """The inverse of `_join`."""
    shape = list(array.shape)
    shape[axis] //= size
    parts = array.reshape(*shape[:axis], -1, size, inside, *shape[axis + 1:])
    return jnp.moveaxis(parts, axis + 1, 0).reshape(size, *shape)


def _enlarged(spec: ConvSpec, factor: str, size: int) -> ConvSpec:
    n, *image, c = spec.x_shape
    *kernel, i, o = spec.w_shape
    times = {f: size if f == factor else 1 for f in "ncog"}
    return spec._replace(
        x_shape=(n * times["n"], *image, c * times["c"] * times["g"]),
        w_shape=(*kernel, i * times["c"], o * times["o"] * times["g"]),
        groups=spec.groups * times["g"])


def _batch(operands, axes, *, kind, spec, winograd):
    *roles, result = ROLES[kind]
    mapped = [role for role, axis in zip(roles, axes) if axis is not None]
    # The factor that the mapped operands and the result share.
    factor = {"xy": "n", "wx": "c", "wy": "o", "wxy": "g"}[
        "".join(sorted({*mapped, result}))]
    size = next(a.shape[i] for a, i in zip(operands, axes) if i is not None)
    enlarged = _enlarged(spec, factor, size)
    if not takes(enlarged, operands[0].dtype):  # too large by now, or nothing in it
        return jax.vmap(lambda a, b: BY_LAX[kind](a, b, spec), axes)(*operands), 0
    joined = [array if axis is None else _join(
        jnp.moveaxis(array, axis, 0), *_axis(role, factor, spec))
        for role, array, axis in zip(roles, operands, axes)]
    y = bind(kind, *joined, enlarged, winograd)
    return _part(y, *_axis(result, factor, spec), size), 0


batching.primitive_batchers[convolution_p] = _batch


# Lowering: a call of the library on a CPU, XLA's convolution elsewhere.

def _call(a, b, kind, spec, winograd):
    if kind == WEIGHT_GRADIENT and weight_gradient_by_lax(spec):
        return BY_LAX[kind](a, b, spec)
    tile = winograd_cost.tile_of(spec, a.dtype) if winograd else 0
    if kind == WEIGHT_GRADIENT and a.dtype == jnp.bfloat16 and not tile:
        # oneDNN 3.2 computes some of these wrongly (5 x 2 pixels, stride 3, 8 channels
        # a group), and slowly.
        return _call(a.astype(jnp.float32), b.astype(jnp.float32), kind, spec,
                     winograd=False).astype(a.dtype)
    low, high = zip(*spec.padding)
    numbers = {"strides": spec.strides, "low": low, "high": high,
               "dilation": spec.rhs_dilation}
    return jax.ffi.ffi_call(
        library.TARGET, jax.ShapeDtypeStruct(result_shape(kind, spec), a.dtype))(
            a, b, kind=np.int64(kind), groups=np.int64(spec.groups),
            tile=np.int64(tile),
            **{name: np.asarray(value, np.int64) for name, value in numbers.items()})


_sharded = custom_partitioning(_call, static_argnums=(2, 3, 4))


def _shardings(kind, mesh, operands):
    """Of the operands and the result: split along the batch, as the operands are."""
    images, split = next((o.shape[0], o.sharding.spec[0]) for o, role in zip(
        operands, ROLES[kind]) if role != "w")
    names = split if isinstance(split, tuple) else (split,) if split else ()
    if images % math.prod(mesh.shape[name] for name in names):
        split = None  # XLA would fill up the last part with what is no image
    *arguments, result = (
        NamedSharding(mesh, PartitionSpec(None if role == "w" else split))
        for role in ROLES[kind])
    return split, tuple(arguments), result


def _partition(kind, spec, winograd, mesh, operands, result):
    split, arguments, result = _shardings(kind, mesh, operands)

    def on_one_device(a, b):
        y = _call(a, b, kind, spec._replace(
            x_shape=(a.shape[0], *spec.x_shape[1:])), winograd)
        return lax.psum(y, split) if kind == WEIGHT_GRADIENT and split else y
    return mesh, on_one_device, result, arguments


def _rule(kind, spec, winograd, mesh, operand_types, result_types):
    """Einsum-like: the batch may be split, all other axes must be whole."""
    rank = range(len(spec.kernel))
    names = {"x": ["n", *(f"i{r}" for r in rank), "c"],
             "w": [*(f"k{r}" for r in rank), "d", "o"],
             "y": ["n", *(f"j{r}" for r in rank), "p"]}
    a, b, y = (names[role] for role in ROLES[kind])
    in_order = dict.fromkeys(a + b + y)
    del in_order["n"]
    return f"{' '.join(a)}, {' '.join(b)} -> {' '.join(y)}", {
        "need_replication_factors": tuple(in_order),
        "reduction_factors": ("n",) if kind == WEIGHT_GRADIENT else ()}


_sharded.def_partition(
    partition=_partition, sharding_rule=_rule,
    infer_sharding_from_operands=lambda kind, spec, winograd, mesh, operands, result:
        _shardings(kind, mesh, operands)[2])


def _by_lax(a, b, kind, spec, winograd):
    return BY_LAX[kind](a, b, spec)


def _form(module):
    """What computes the convolution in a program for a CPU."""
    if library.is_of_one_device(module):
        return _call
    context = module.axis_context
    known = (isinstance(context, mlir.ShardingContext) and context.device_assignment
             and context.abstract_mesh and not module.lowering_parameters.for_export)
    return _sharded if known else _by_lax


def _on_cpu(context, a, b, **static):
    form = functools.partial(_form(context.module_context), **static)
    return mlir.lower_fun(form, multiple_results=False)(context, a, b)


mlir.register_lowering(convolution_p, mlir.lower_fun(_by_lax, multiple_results=False))
mlir.register_lowering(convolution_p, _on_cpu, platform="cpu")


# The passes, as every implementation has them.

def splits_images_alone(kind: int, a, b) -> bool:
    """False over a mesh with explicit axes that split channels, pixels or weights."""
    specs = zip(ROLES[kind], (jax.typeof(one).sharding.spec for one in (a, b)))
    return all(split is None for role, spec in specs
               for split in spec[role != "w":])


def _passes(winograd: bool) -> Passes:
    def of_kind(kind):
        def one_pass(a, b, spec: ConvSpec):
            if takes(spec, a.dtype) and splits_images_alone(kind, a, b):
                # Asked now: the precision that JAX is set to is not known later.
                return bind(kind, a, b, spec,
                            winograd and winograd_cost.of_default_precision(spec))
            if conv_lax.read_right(spec) and not is_empty(spec):
                return BY_LAX[kind](a, b, spec)  # with forward mode
            return conv_lax.passes[kind](a, b, spec)
        return one_pass
    return Passes(*map(of_kind, (FORWARD, INPUT_GRADIENT, WEIGHT_GRADIENT)))


passes, fastest = _passes(winograd=False), _passes(winograd=True)
forward, input_gradient, weight_gradient = passes


@functools.cache
def _warn():
    logging.getLogger(__name__).warning(
        "conv 'onednn' is 'auto' on this machine: %s", library.describe())


def here() -> bool:
    """True if 'onednn' can be had; else the log says once that 'auto' replaces it."""
    if jax.default_backend() == "cpu" and library.load() is None:
        _warn()
        return False
    return jax.default_backend() == "cpu"
