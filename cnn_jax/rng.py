"""Makes random keys as pure functions of (seed, purpose, index); no key is saved.

Compiled programs make them with JAX. On the host NumPy computes the same numbers, since
JAX would first compile a program for each function. Keys there are uint32 [2].
"""

import jax
import numpy as np

PURPOSES = ("parameters", "order", "step")  # each has its own keys
BLOCK = 2**15  # random numbers that are drawn at a time
ROTATIONS = (13, 15, 26, 6), (17, 29, 16, 24)  # bits, of Threefry 2x32


def draw_key(seed: int | jax.Array, purpose: str,
             index: int | jax.Array = 0) -> jax.Array:
    """Makes the key of one purpose for draw number `index` (an epoch or a step)."""
    key = jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))
    return jax.random.fold_in(key, index)


def host_key(seed: int, purpose: str, index: int = 0) -> np.ndarray:
    """Computes the key of `draw_key` on the host, for 0 <= seed < 2**32."""
    key = np.array([0, seed], np.uint32)
    return fold_in(fold_in(key, PURPOSES.index(purpose)), index)


def fold_in(key: np.ndarray, number: int) -> np.ndarray:
    """Computes `jax.random.fold_in(key, number)` on the host.

    This is also key `number` of `jax.random.split(key)`.
    """
    return np.concatenate(threefry(key, np.array([number], np.uint32)))


def random_bits(key: np.ndarray, count: int) -> np.ndarray:
    """Computes `jax.random.bits(key, count)` on the host: uint32 [count].

    In blocks, NumPy takes half of XLA's time, no memory, and no time to compile.
    """
    bits = np.arange(count, dtype=np.uint32)
    for start in range(0, count, BLOCK):
        block = bits[start:start + BLOCK]
        np.bitwise_xor(*threefry(key, block), out=block)
    return bits


def threefry(key: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Encrypts the pairs (0, count) to two words, uint32 like `counts`.

    It is Threefry 2x32 with 20 rounds (Salmon et al., 2011).
    """
    keys = key[:1], key[1:], key[:1] ^ key[1:] ^ np.uint32(0x1BD11BDA)
    high, low = np.full_like(counts, keys[0]), counts + keys[1]
    for i in range(5):
        for bits in ROTATIONS[i % 2]:
            high += low
            low = low << bits | low >> 32 - bits
            low ^= high
        high += keys[(i + 1) % 3]
        low += keys[(i + 2) % 3] + np.uint32(i + 1)
    return high, low
