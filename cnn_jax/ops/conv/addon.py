"""The hook through which `cnn_jax.native` computes in place of XLA.

`ops` is complete without it. Importing `cnn_jax.native` calls `register` once. Its C++
library is built and loaded when an operation first asks for it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jax.typing import DTypeLike

from cnn_jax.ops.conv.algorithm import Algorithm
from cnn_jax.ops.conv.spec import ConvSpec

Sums = tuple[jax.Array, jax.Array]


class AddOn(NamedTuple):
    """What an add-on offers; a result None: it does not support the problem."""

    onednn: Callable[[], bool]   # whether its library has oneDNN
    describe: Callable[[], str]  # oneDNN and its version, or why it is missing
    bfloat16: Callable[[], bool]  # whether it has instructions for it on this CPU
    # ('onednn' or 'native', spec, dtype) -> algorithm
    convolution: Callable[[str, ConvSpec, DTypeLike], Algorithm | None]
    # the arguments of `moments.channel_sums` -> its results
    channel_sums: Callable[[jax.Array, jax.Array, jax.Array], Sums | None]


installed = AddOn(
    onednn=lambda: False, describe=lambda: "cnn_jax.native.register is not imported",
    bfloat16=lambda: False, convolution=lambda name, spec, dtype: None,
    channel_sums=lambda a, b, center: None)


def register(add_on: AddOn) -> None:
    """Installs the add-on for this process."""
    global installed
    installed = add_on
