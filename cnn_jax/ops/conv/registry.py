"""Every implementation of convolution by name, and the one place that selects one."""

import functools
import logging
from collections.abc import Callable

import jax
from jax.typing import DTypeLike

from cnn_jax.ops.conv import (addon, auto, banded, fft, im2col, lax, loops, numba,
                              taps, winograd)
from cnn_jax.ops.conv.algorithm import Algorithm
from cnn_jax.ops.conv.spec import ConvSpec
from cnn_jax.ops.conv.vjp import Passes

Rule = Callable[[ConvSpec, DTypeLike], Algorithm]


def fixed(name: str, passes: Passes) -> Rule:
    """Makes the rule that selects the same algorithm for every convolution."""
    algorithm = Algorithm(name, *passes)
    return lambda spec, dtype: algorithm


def select_onednn(spec: ConvSpec, dtype: DTypeLike) -> Algorithm:
    """Resolves 'onednn': to 'auto' without oneDNN, to 'lax' for what it lacks."""
    if jax.default_backend() != "cpu":
        return auto.select(spec, dtype)
    if not addon.installed.onednn():
        _warn(addon.installed.describe())
        return auto.select(spec, dtype)
    return (addon.installed.convolution("onednn", spec, dtype)
            or lax.select(spec, dtype))


@functools.cache
def _warn(reason: str) -> None:
    logging.getLogger(__name__).warning(
        "conv 'onednn' is 'auto' on this machine: %s", reason)


# name -> the rule that selects an algorithm for a problem on this machine
ALGORITHMS: dict[str, Rule] = {
    "loops": fixed("loops", loops.passes),
    "numba": fixed("numba", numba.passes),
    "im2col": fixed("im2col", im2col.passes),
    "taps": fixed("taps", taps.passes),
    "banded": fixed("banded", banded.passes),
    "fft": fixed("fft", fft.passes),
    "winograd": fixed("winograd", winograd.passes),
    "lax": lax.select,
    "onednn": select_onednn,
    "auto": auto.select,
}


def check_name(name: str) -> None:
    """Raises a ValueError that lists the implementations if `name` is none of them."""
    if not isinstance(name, str) or name not in ALGORITHMS:
        raise ValueError(f"conv {name!r} is not known: {', '.join(ALGORITHMS)}")


def select(name: str, spec: ConvSpec, dtype: DTypeLike) -> Algorithm:
    """Resolves an implementation name for this machine and this convolution."""
    check_name(name)
    return ALGORITHMS[name](spec, dtype)
