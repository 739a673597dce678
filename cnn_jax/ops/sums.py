"""The two sums that batch norm needs of an image, where it can in one pass over it.

XLA reads the image once for each. In the library that is built for oneDNN a loop of
ours makes both, whatever computes the convolutions: on one CPU device, or on each by
itself inside pmap and shard_map. Under vmap, in jit over several devices, for a GPU or
TPU, in what is exported and in derivatives of `sums` itself, the sums are XLA's.
"""

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp

from cnn_jax.native import library
from cnn_jax.ops._xla.shard_map import vary_alike


def sums(a: jax.Array, b: jax.Array, center: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(sum a, sum a (b - center)), each [C], over all axes but the last.

    a, b: [..., C]; center: [C], in whose dtype the sums are made.
    """
    a, b, center = vary_alike(a, b, center)
    if takes(a, b, center):
        return tuple(sums_p.bind(a, b, center))
    return by_xla(a, b, center)


def by_xla(a, b, center):
    axes = tuple(range(a.ndim - 1))
    return a.sum(axes, center.dtype), (a * (b - center)).sum(axes)


def takes(*arrays) -> bool:
    """Float32 arrays that no mesh with explicit axes splits, and the library."""
    return (all(one.dtype == jnp.float32 and 0 not in one.shape
                and not any(jax.typeof(one).sharding.spec) for one in arrays)
            and jax.default_backend() == "cpu" and library.load() is not None)


sums_p = Primitive("batch_norm_sums")
sums_p.multiple_results = True
_run = jax.jit(lambda *arrays: sums_p.bind(*arrays))


def _evaluate(*arrays):
    with jax.disable_jit(False):  # the library is called in a compiled program alone
        return _run(*arrays)


sums_p.def_impl(_evaluate)
sums_p.def_abstract_eval(lambda a, b, center: [center.update(weak_type=False)] * 2)
ad.primitive_jvps[sums_p] = lambda arrays, tangents: jax.jvp(
    by_xla, tuple(arrays), tuple(map(ad.instantiate_zeros, tangents)))


def _transpose(cotangents, a, b, center):
    """In a, in which alone the sums are linear: dsum + dproduct (b - center)"""
    assert ad.is_undefined_primal(a), "batch norm's sums are transposed in a alone"
    plain, product = map(ad.instantiate_zeros, cotangents)
    return jnp.broadcast_to(plain + product * (b - center), a.aval.shape), None, None


ad.primitive_transposes[sums_p] = _transpose
batching.primitive_batchers[sums_p] = lambda arrays, axes: (
    jax.vmap(by_xla, axes)(*arrays), (0, 0))


def _call(*arrays):
    of_channels = jax.ShapeDtypeStruct(arrays[2].shape, arrays[2].dtype)
    return jax.ffi.ffi_call(library.SUMS, (of_channels, of_channels))(*arrays)


def _on_cpu(context, *arrays):
    form = _call if library.is_of_one_device(context.module_context) else by_xla
    return mlir.lower_fun(form, multiple_results=True)(context, *arrays)


mlir.register_lowering(sums_p, mlir.lower_fun(by_xla, multiple_results=True))
mlir.register_lowering(sums_p, _on_cpu, platform="cpu")
