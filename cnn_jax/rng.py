"""Random keys as a pure function of (seed, purpose, index): nothing to save."""

import jax

PURPOSES = ("parameters", "order", "step")  # no two draw from the same key


def draw_key(seed: int, purpose: str, index: int | jax.Array = 0) -> jax.Array:
    """The key for the `index`-th draw (an epoch, a step) of one purpose."""
    key = jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))
    return jax.random.fold_in(key, index)
