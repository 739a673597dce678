"""The two sums over an image that batch norm needs.

XLA reads the image once for each. `cnn_jax.native` makes both in one pass where it can.
"""

import jax
from jax import lax

from cnn_jax.ops._xla.shard_map import match_varying_axes
from cnn_jax.ops.conv import addon


def channel_sums(a: jax.Array, b: jax.Array,
                 center: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns (sum a, sum a (b - center)), each [C], over all axes but the last.

    a, b: [..., C]; center: [C], in whose dtype the sums are made.
    """
    a, b, center = match_varying_axes(a, b, center)
    sums = addon.installed.channel_sums(a, b, center)
    return by_xla(a, b, center) if sums is None else sums


def by_xla(a: jax.Array, b: jax.Array,
           center: jax.Array) -> tuple[jax.Array, jax.Array]:
    axes = tuple(range(a.ndim - 1))
    return (a.sum(axes, center.dtype),
            (a * (b - lax.broadcast_to_rank(center, b.ndim))).sum(axes))
