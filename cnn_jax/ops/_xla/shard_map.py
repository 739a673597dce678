"""What a hand-written VJP must know about axes mapped by `jax.shard_map`."""

import jax
from jax import lax


def mapped_axes(*arrays) -> frozenset:
    """The shard_map axes over which any of the arrays differs between devices."""
    return frozenset().union(*(
        jax.typeof(a).manual_axis_type.varying for a in arrays))


def vary_alike(*arrays) -> list:
    """Marks each array as differing over all the axes over which one of them does.

    Inside shard_map a weight is the same on all devices and an image is not. A
    custom_vjp must return each gradient as its operand was, but the gradient of such a
    weight differs; marked like this, JAX sums it over the devices. Elsewhere this does
    nothing.
    """
    axes = mapped_axes(*arrays)
    return [lax.pcast(a, tuple(axes - mapped_axes(a)), to="varying")
            if axes - mapped_axes(a) else a for a in arrays]
