"""The nine 3 x 3 kernels with which courses usually introduce convolution.

`kernel(name)` gives one as [3, 3, C, 1], ready for `ops.correlate`. Source: the
first example of chapter 17 of microsoft/ai-edu.
"""

import jax
import jax.numpy as jnp

from cnn_jax.ops.integers import is_integer

FILTERS: dict[str, tuple[tuple[float, ...], ...]] = {
    "sharpness": ((0, -1, 0), (-1, 5, -1), (0, -1, 0)),
    "vertical edge": ((0, 0, 0), (-1, 2, -1), (0, 0, 0)),
    "surround": ((1, 1, 1), (1, -9, 1), (1, 1, 1)),
    "sobel y": ((-1, -2, -1), (0, 0, 0), (1, 2, 1)),
    "nothing": ((0, 0, 0), (0, 1, 0), (0, 0, 0)),
    "horizontal edge": ((0, -1, 0), (0, 2, 0), (0, -1, 0)),
    "blur": ((.11, .11, .11), (.11, .11, .11), (.11, .11, .11)),
    "sobel x": ((-1, 0, 1), (-2, 0, 2), (-1, 0, 1)),
    "embossing": ((2, 0, 0), (0, -1, 0), (0, 0, -1)),
}


def kernel(name: str, channels: int = 1) -> jax.Array:
    """Returns the named kernel as [3, 3, channels, 1], equal for all input channels."""
    if name not in FILTERS:
        raise ValueError(f"filter {name!r} is not known: {', '.join(FILTERS)}")
    if not is_integer(channels) or channels < 1:
        raise ValueError(f"filter {name!r}: channels {channels!r} must be an integer "
                         ">= 1")
    k = jnp.asarray(FILTERS[name], jnp.float32)
    return jnp.tile(k[:, :, None, None], (1, 1, channels, 1))
