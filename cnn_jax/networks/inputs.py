"""Clear errors for images that a network cannot take."""

import dataclasses
import functools
from collections.abc import Callable

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax.layers import WindowError, eval_shape

LARGEST = 1024  # pixels: the search for the smallest size stops here


def takes_images(call: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """Wraps a network's `__call__(x, train)` so that wrong images raise a clear error.

    Valid images cost nothing: the wrapper searches for the smallest size (by shape
    inference) only after a window did not fit.
    """
    @functools.wraps(call)
    def checked(self: nn.Module, x: jax.Array, train: bool = False,
                searching: bool = False) -> jax.Array:
        network = type(self).__name__
        if x.ndim != 4 or x.shape[-1] < 1:
            raise ValueError(f"{network} takes images [N, H, W, C] of one channel or "
                             f"more, not an array of shape {x.shape}")
        try:
            return call(self, x, train)
        except WindowError as error:
            if searching:
                raise
            size = smallest_size(self, x.shape[-1])
            raise ValueError(
                f"{network}: images of {x.shape[1]}x{x.shape[2]} pixels are too small "
                f"({error}); the smallest are {size}x{size}") from error
        except flax.errors.ScopeParamShapeError as error:
            raise ValueError(
                f"{network}: images of {x.shape[1]}x{x.shape[2]} pixels with "
                f"{x.shape[3]} channels do not fit the parameters, which were made for "
                f"another size or number of channels ({error})") from error
        except flax.errors.ScopeParamNotFoundError as error:
            raise ValueError(f"{network}: the parameters are those of another network "
                             f"({error})") from error

    return checked


def smallest_size(model: nn.Module, channels: int) -> int:
    """Searches for the smallest n for which images of n x n pixels pass the network."""
    # The implementation changes no shape; these trace fastest.
    layers = dataclasses.replace(model.layers, conv="lax", pool="lax")
    model = model.clone(parent=None, name=None, layers=layers)

    def fits(n: int) -> bool:
        try:
            eval_shape(lambda: model.init(
                jax.random.key(0), jnp.zeros((1, n, n, channels)), train=False,
                searching=True))
        except WindowError:
            return False
        return True

    low, high = 0, 1  # low does not fit, high may
    while not fits(high):
        low, high = high, 2 * high
        if high > LARGEST:
            raise WindowError(f"no images up to {LARGEST}x{LARGEST} fit")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high
