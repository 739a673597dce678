"""The two sums that batch norm needs of an image, in one pass over it.

A loop in C++ computes both where `library.runs_unsharded`: on one CPU device, or on
each device inside pmap and shard_map. XLA computes them under vmap, in jit over several
devices, for a GPU or TPU, in exported programs and in derivatives of the sums.
"""

from typing import Any

import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
import jax.numpy as jnp
from jax import lax

from cnn_jax.native import library
from cnn_jax.ops.conv.addon import Sums
from cnn_jax.ops.moments import by_xla


def channel_sums(a: jax.Array, b: jax.Array, center: jax.Array) -> Sums | None:
    """Computes `ops.moments.channel_sums`; None for arrays that it does not support."""
    return tuple(sums_p.bind(a, b, center)) if supports(a, b, center) else None


def supports(a: jax.Array, b: jax.Array, center: jax.Array) -> bool:
    """Tells whether the library is available and supports the sums of these arrays.

    a and b may be bfloat16, center is float32. None is empty, and no mesh with explicit
    axes shards them.
    """
    return (all(array.dtype in (jnp.float32, jnp.bfloat16) for array in (a, b))
            and center.dtype == jnp.float32
            and all(0 not in array.shape and not any(jax.typeof(array).sharding.spec)
                    for array in (a, b, center))
            and jax.default_backend() == "cpu" and library.load() is not None)


sums_p = Primitive("batch_norm_sums")
sums_p.multiple_results = True
_run = jax.jit(lambda *arrays: sums_p.bind(*arrays))


def _evaluate(*arrays: jax.Array) -> list[jax.Array]:
    with jax.disable_jit(False):  # only a compiled program calls the library
        return _run(*arrays)


def _transpose(cotangents: Any, a: Any, b: jax.Array, center: jax.Array) -> tuple:
    """Transposes the sums with respect to a; they are linear in a alone.

        da = dsum + dproduct (b - center)
    """
    assert ad.is_undefined_primal(a), "batch norm's sums are transposed in a alone"
    plain, product = (lax.broadcast_to_rank(ad.instantiate_zeros(t), b.ndim)
                      for t in cotangents)
    center = lax.broadcast_to_rank(center, b.ndim)
    da = jnp.broadcast_to(plain + product * (b - center), a.aval.shape)
    return da.astype(a.aval.dtype), None, None


sums_p.def_impl(_evaluate)
sums_p.def_abstract_eval(lambda a, b, center: [center.update(weak_type=False)] * 2)
ad.primitive_jvps[sums_p] = lambda arrays, tangents: jax.jvp(
    by_xla, tuple(arrays), tuple(map(ad.instantiate_zeros, tangents)))
ad.primitive_transposes[sums_p] = _transpose
batching.primitive_batchers[sums_p] = lambda arrays, axes: (
    jax.vmap(by_xla, axes)(*arrays), (0, 0))


# Lowering: a call of the library on a CPU, XLA's sums elsewhere.

def _call(*arrays: jax.Array) -> Any:
    of_channels = jax.ShapeDtypeStruct(arrays[2].shape, arrays[2].dtype)
    return jax.ffi.ffi_call(library.SUMS, (of_channels, of_channels))(*arrays)


def _on_cpu(context: Any, *arrays: Any) -> Any:
    function = _call if library.runs_unsharded(context.module_context) else by_xla
    return mlir.lower_fun(function, multiple_results=True)(context, *arrays)


mlir.register_lowering(sums_p, mlir.lower_fun(by_xla, multiple_results=True))
mlir.register_lowering(sums_p, _on_cpu, platform="cpu")
