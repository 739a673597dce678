"""Makes random keys as pure functions of (seed, purpose, index); no key is saved."""

import jax

PURPOSES = ("parameters", "order", "step")  # each has its own keys


def draw_key(seed: int | jax.Array, purpose: str,
             index: int | jax.Array = 0) -> jax.Array:
    """Makes the key of one purpose for draw number `index` (an epoch or a step)."""
    key = jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))
    return jax.random.fold_in(key, index)
