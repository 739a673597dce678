"""Random keys as pure functions of (seed, purpose, index): no key needs saving."""

import jax

PURPOSES = ("parameters", "order", "step")  # no two draw from the same key


def draw_key(seed: int | jax.Array, purpose: str,
             index: int | jax.Array = 0) -> jax.Array:
    """Makes the key for the `index`-th draw (an epoch, a step) of one purpose."""
    key = jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))
    return jax.random.fold_in(key, index)
