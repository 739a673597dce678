"""What a hand-written VJP must know about axes mapped by `jax.shard_map`."""

import jax
from jax import lax


def varying_axes(*arrays: jax.Array) -> frozenset[str]:
    """Names the shard_map axes over which any of the arrays differs between devices."""
    return frozenset().union(*(
        jax.typeof(a).manual_axis_type.varying for a in arrays))


def match_varying_axes(*arrays: jax.Array) -> list[jax.Array]:
    """Marks every array as varying over all axes over which one of them varies.

    Inside shard_map a weight is replicated and an image is not. The gradient of that
    weight varies between devices, but a custom_vjp must return each gradient with the
    axes of its operand. With this mark JAX sums the gradient over the devices. Outside
    shard_map nothing changes.
    """
    axes = varying_axes(*arrays)
    return [lax.pcast(a, tuple(axes - varying_axes(a)), to="varying")
            if axes - varying_axes(a) else a for a in arrays]
