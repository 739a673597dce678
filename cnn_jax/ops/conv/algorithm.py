"""`Algorithm`: what selecting an implementation of convolution gives."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from cnn_jax.ops.conv.spec import ConvSpec

# One pass: (x, w, spec) -> y, (g, w, spec) -> dx or (x, g, spec) -> dw.
Pass = Callable[[jax.Array, jax.Array, ConvSpec], jax.Array]


class Algorithm(NamedTuple):
    """Computes a convolution and its two gradients.

    `select` gives one for a problem. Each pass has derivatives of any order.
    """

    # As the layer table shows it: 'onednn', or if the passes differ, 'banded / im2col /
    # lax' (forward, input gradient, weight gradient).
    name: str
    forward: Pass
    input_gradient: Pass
    weight_gradient: Pass
