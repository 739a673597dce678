"""Reads layer modules as single operations of a graph.

Other modules are read by the primitives that they compute (`primitives.py`). So is a
layer with an option that no operation has, such as circular padding.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import layers
from cnn_jax.networks.graph.operations import (Activation, AvgPool, BatchNorm, Conv,
                                               ConvTranspose, Dense, GlobalAvgPool,
                                               LocalResponseNorm, MaxPool, Operation)
from cnn_jax.networks.receptive_field import window_of
from cnn_jax.networks.trace import Call
from cnn_jax.ops.geometry import Pairs, resolve_padding
from cnn_jax.ops.pool.spec import PoolSpec, pool_spec


class Layer(NamedTuple):
    """An operation and its params by name."""

    operation: Operation
    params: dict[str, jax.Array] = {}


def layer_of(call: Call) -> Layer | None:
    """Describes the call of a layer; None if it is not one operation.

    Subclasses do not count as their base class: they may compute something else.
    """
    describe = LAYERS.get(type(call.module))
    return None if describe is None else describe(call)


def conv(call: Call) -> Layer | None:
    module, x = call.module, call.inputs[0]
    window = window_of(module)
    unusual = (module.input_dilation not in (None, 1, (1, 1)) or module.mask is not None
               or module.padding in ("CIRCULAR", "CAUSAL", "REFLECT"))
    if x.ndim != 4 or window is None or unusual:
        return None
    padding = resolve_padding(window.padding, x.shape[1:3], window.reach,
                              window.strides)
    return Layer(Conv(window.strides, padding, window.dilation,
                      module.feature_group_count), dict(call.params))


def conv_transpose(call: Call) -> Layer | None:
    module, x, y = call.module, call.inputs[0], call.output
    window = window_of(module)
    if x.ndim != 4 or window is None:
        return None
    enlarged = [n * s for n, s in zip(x.shape[1:3], window.strides)]
    pairs = resolve_padding(window.padding, enlarged, window.reach, window.strides)
    padding, extra = transposed_padding(x.shape[1:3], y.shape[1:3], window.reach,
                                        window.strides, [low for low, _ in pairs])
    return Layer(ConvTranspose(window.strides, padding, extra, window.dilation,
                               module.feature_group_count), dict(call.params))


def transposed_padding(size: tuple[int, ...], out: tuple[int, ...],
                       reach: tuple[int, ...], strides: tuple[int, ...],
                       lows: list[int]) -> tuple[Pairs, tuple[int, ...]]:
    """Finds the padding and output padding that give a transposed convolution's size.

    Along each axis, the high padding or the output padding is 0.
    """
    highs = [(n - 1) * s + r - low - o
             for n, o, r, s, low in zip(size, out, reach, strides, lows)]
    return (tuple((low, max(0, high)) for low, high in zip(lows, highs)),
            tuple(max(0, -high) for high in highs))


def dense(call: Call) -> Layer:
    return Layer(Dense(), dict(call.params))


def batch_norm(call: Call) -> Layer | None:
    module, statistics = call.module, call.variables.get("batch_stats", {})
    if getattr(module, "axis", -1) != -1 or not {"mean", "var"} <= statistics.keys():
        return None
    mean = statistics["mean"]
    return Layer(BatchNorm(module.epsilon), {
        "mean": mean, "var": statistics["var"],
        "scale": call.params.get("scale", jnp.ones_like(mean)),
        "bias": call.params.get("bias", jnp.zeros_like(mean))})


def pool_of(call: Call, count_include_pad: bool = False) -> PoolSpec:
    module = call.module
    return pool_spec(call.inputs[0].shape, module.window, module.strides,
                     module.padding, module.ceil_mode, count_include_pad,
                     module.dilation)


def max_pool(call: Call) -> Layer:
    spec = pool_of(call)
    return Layer(MaxPool(spec.window, spec.strides, spec.padding, spec.dilation))


def avg_pool(call: Call) -> Layer:
    spec = pool_of(call, call.module.count_include_pad)
    return Layer(AvgPool(spec.window, spec.strides, spec.padding, spec.counted,
                         spec.dilation))


def global_avg_pool(call: Call) -> Layer | None:
    return Layer(GlobalAvgPool()) if call.inputs[0].ndim == 4 else None


def response_norm(call: Call) -> Layer:
    module = call.module
    alpha = module.alpha / module.size if module.divide_by_size else module.alpha
    return Layer(LocalResponseNorm(module.size, module.k, alpha, module.beta))


def activation(call: Call) -> Layer:
    return Layer(Activation(call.module.kind))


LAYERS: dict[type[nn.Module], Callable[[Call], Layer | None]] = {
    nn.Conv: conv, layers.Conv: conv, layers.ConvTranspose: conv_transpose,
    nn.Dense: dense, layers.Dense: dense,
    nn.BatchNorm: batch_norm, layers.BatchNorm: batch_norm,
    layers.MaxPool: max_pool, layers.AvgPool: avg_pool,
    layers.GlobalAvgPool: global_avg_pool, layers.LocalResponseNorm: response_norm,
    layers.Activation: activation,
}
