"""The layers that networks are made of: Linen modules over `cnn_jax.ops`.

`Layers` holds everything about a network that is not its architecture: which
implementation computes a convolution, the compute dtype, the initialiser, the
batch-norm preset, and the mapped axis over which devices must agree. A network
receives one `Layers` and makes each of its layers through it, so that

    LeNet5(num_classes=10, layers=Layers(conv="im2col", dtype="bfloat16"))

is the same architecture with the same parameter tree. Images are NHWC, kernels HWIO.
Joining, padding and reshaping are modules too: tables and pictures then see them, and
a receptive field can be followed through every branch.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import ops

ACTIVATIONS = {
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "selu": jax.nn.selu,
    "sigmoid": jax.nn.sigmoid,
    "tanh": jnp.tanh,
    "lecun_tanh": lambda x: 1.7159 * jnp.tanh(x * (2 / 3)),  # LeCun et al., 1998
}

# Kernel initialisers by the library whose default they are, and by name. Biases start
# at zero under each of them (torch would draw them uniformly).
INITIALIZERS = {
    "flax": nn.initializers.lecun_normal(),
    "lecun": nn.initializers.lecun_normal(),
    "keras": nn.initializers.glorot_uniform(),
    "glorot": nn.initializers.glorot_uniform(),
    # kaiming_uniform(a=sqrt(5)): uniform within +- 1 / sqrt(fan_in).
    "torch": nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform"),
    "he": nn.initializers.he_normal(),
    "gaussian": nn.initializers.normal(0.01),  # AlexNet, VGG
}


class BatchNormPreset(NamedTuple):
    """What libraries do differently in batch norm."""

    epsilon: float
    momentum: float         # the weight of the *old* running value
    unbiased: bool = False  # running variance with n / (n - 1); normalisation never


BATCH_NORM = {
    "paper": BatchNormPreset(1e-5, 0.99),  # unless the network states its own
    "flax": BatchNormPreset(1e-5, 0.99),
    "keras": BatchNormPreset(1e-3, 0.99),
    "keras_resnet": BatchNormPreset(1.001e-5, 0.99),  # and keras' DenseNet
    "keras_mobilenet_v2": BatchNormPreset(1e-3, 0.999),
    "torch": BatchNormPreset(1e-5, 0.9, True),
    "torch_inception": BatchNormPreset(1e-3, 0.9, True),  # and torchvision's GoogLeNet
}

Pair = tuple[int, int]
Padding = str | int | Sequence[Pair]


class WindowError(ValueError):
    """A window is larger than the image it moves over."""


def lookup(table: dict, kind: str, name: str) -> Any:
    """`table[name]`, or a ValueError that lists the names it knows."""
    if name not in table:
        raise ValueError(f"unknown {kind} {name!r}; known: {', '.join(sorted(table))}")
    return table[name]


def pairs(padding: Padding, window: Pair) -> Padding:
    """'symmetric' as (low, high) pairs, (k - 1) // 2 on each side as in torch and Caffe
    networks; any other padding as it is. SAME puts an odd total's extra zero after."""
    if padding == "symmetric":
        return tuple(((k - 1) // 2, (k - 1) // 2) for k in window)
    return padding


def not_empty(y: jax.Array, x: jax.Array, window: Sequence[int]) -> jax.Array:
    """y, or a WindowError if no window of that size fits into x [N, H, W, C]."""
    if 0 in y.shape[1:-1]:
        raise WindowError(f"a window of {window[0]}x{window[1]} does not fit into "
                          f"{x.shape[1]}x{x.shape[2]} pixels")
    return y


@functools.cache
def fitting(convolution: Callable) -> Callable:
    """The implementation of a convolution, made to refuse an empty result."""
    @functools.wraps(convolution)
    def checked(x, kernel, *args, **kwargs):
        return not_empty(convolution(x, kernel, *args, **kwargs), x, kernel.shape[:2])
    return checked


class Activation(nn.Module):
    """An elementwise non-linearity, as a module so that tables and pictures see it."""

    kind: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return lookup(ACTIVATIONS, "activation", self.kind)(x)


class Flatten(nn.Module):
    """[N, H, W, C] -> [N, H*W*C], in that order (torch flattens C, H, W)."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1)


class Add(nn.Module):
    """x + y: where a residual and its shortcut meet."""

    @nn.compact
    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return x + y


class Concat(nn.Module):
    """Joins branches along the channels."""

    @nn.compact
    def __call__(self, *branches: jax.Array) -> jax.Array:
        return jnp.concatenate(branches, axis=-1)


class ZeroPad(nn.Module):
    """Zeros around the image: padding is ((top, bottom), (left, right))."""

    padding: tuple[Pair, Pair]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.pad(x, ((0, 0), *self.padding, (0, 0)))


class Subsample(nn.Module):
    """Every `stride`-th pixel, and zero channels before and after those of x."""

    stride: int
    channels: Pair = (0, 0)

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = x[:, ::self.stride, ::self.stride]
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), self.channels))


class MaxPool(nn.Module):
    """Maximum over windows; padding counts as -inf. See `ops.max_pool`."""

    window: Pair
    strides: Pair
    padding: Padding = "VALID"
    ceil_mode: bool = False
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return not_empty(
            ops.max_pool(x, self.window, self.strides, self.padding,
                         ceil_mode=self.ceil_mode, implementation=self.implementation),
            x, self.window)


class AvgPool(nn.Module):
    """Mean over windows. See `ops.avg_pool`."""

    window: Pair
    strides: Pair
    padding: Padding = "VALID"
    count_include_pad: bool = False
    ceil_mode: bool = False
    implementation: str = "auto"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return not_empty(
            ops.avg_pool(x, self.window, self.strides, self.padding,
                         count_include_pad=self.count_include_pad,
                         ceil_mode=self.ceil_mode, implementation=self.implementation),
            x, self.window)


class GlobalAvgPool(nn.Module):
    """[N, H, W, C] -> [N, C]: the mean over all positions."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.global_avg_pool(x)


class LocalResponseNorm(nn.Module):
    """Divides by the channels around: y = x / (k + a * sum of x^2 over `size`)^beta.

    divide_by_size: a = alpha / size as in Caffe and torch; else alpha as in the paper.
    See `ops.local_response_norm`. Source: Krizhevsky et al., 2012.
    """

    size: int = 5
    k: float = 2.0
    alpha: float = 1e-4
    beta: float = 0.75
    divide_by_size: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return ops.local_response_norm(x, self.size, self.k, self.alpha, self.beta,
                                       self.divide_by_size)


class BatchNorm(nn.BatchNorm):
    """Flax's batch norm, with the choice of torch's unbiased running variance."""

    unbiased: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        learns = self.unbiased and not self.use_running_average
        if not learns or self.is_initializing():
            return super().__call__(x)
        old = self.get_variable("batch_stats", "var")
        y = super().__call__(x)
        devices = lax.psum(1, self.axis_name) if self.axis_name else 1
        count = devices * (x.size // x.shape[-1])
        kept = self.momentum * old
        new = self.get_variable("batch_stats", "var") - kept
        self.put_variable("batch_stats", "var", kept + new * count / max(count - 1, 1))
        return y


class Dropout(nn.Module):
    """y = x * m / (1 - rate), with m ~ Bernoulli(1 - rate) drawn per element.

    Every example draws from its own key, folded from its place in the global batch:
    one device, a sharded batch and `pmap` over `axis_name` drop the same elements.
    Source: Srivastava et al., 2014.
    """

    rate: float
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        place = jnp.arange(x.shape[0])
        if self.axis_name is not None:
            place += x.shape[0] * lax.axis_index(self.axis_name)
        keys = jax.vmap(functools.partial(jax.random.fold_in,
                                          self.make_rng("dropout")))(place)
        keep = jax.vmap(lambda key: jax.random.bernoulli(
            key, 1 - self.rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))


@dataclasses.dataclass(frozen=True)
class Layers:
    """Makes the layers of a network; its fields are what all of them share.

    conv, pool: names in `ops.CONVS` and `ops.POOLS`.
    dtype: of the computation; parameters and running statistics stay float32.
    init: a name in `INITIALIZERS`, for convolution and dense kernels.
    bn: a name in `BATCH_NORM`; under "paper" a network's own epsilon and momentum hold.
    axis_name: the mapped axis of `pmap`, else None.
    """

    conv: str = "auto"
    pool: str = "auto"
    dtype: str = "float32"
    init: str = "flax"
    bn: str = "paper"
    axis_name: str | None = None

    @property
    def kernel_init(self) -> Callable:
        return lookup(INITIALIZERS, "initialiser", self.init)

    @property
    def implementation(self) -> Callable:
        return fitting(lookup(ops.CONVS, "convolution", self.conv))

    def convolution(self, features: int, kernel: Pair, strides: Pair | int = 1,
                    padding: Padding = "SAME", **fields) -> nn.Conv:
        fields.setdefault("kernel_init", self.kernel_init)
        return nn.Conv(
            features, kernel, strides, pairs(padding, kernel), dtype=self.dtype,
            conv_general_dilated=self.implementation, **fields)

    def dense(self, features: int, **fields) -> nn.Dense:
        fields.setdefault("kernel_init", self.kernel_init)
        return nn.Dense(features, dtype=self.dtype, **fields)

    def batch_norm(self, train: bool, epsilon: float | None = None,
                   momentum: float | None = None, **fields) -> BatchNorm:
        """epsilon, momentum: the network's own, used if `bn` is "paper"."""
        preset = lookup(BATCH_NORM, "batch-norm preset", self.bn)
        if self.bn == "paper":
            preset = BatchNormPreset(epsilon or preset.epsilon,
                                     momentum or preset.momentum)
        return BatchNorm(not train, dtype=self.dtype,
                         axis_name=self.axis_name if train else None,
                         **preset._asdict(), **fields)

    def dropout(self, rate: float, **fields) -> Dropout:
        return Dropout(rate, self.axis_name, **fields)

    def max_pool(self, window: Pair, strides: Pair | None = None,
                 padding: Padding = "VALID", **fields) -> MaxPool:
        return MaxPool(window, strides or window, pairs(padding, window),
                       implementation=self.pool, **fields)

    def avg_pool(self, window: Pair, strides: Pair | None = None,
                 padding: Padding = "VALID", **fields) -> AvgPool:
        return AvgPool(window, strides or window, pairs(padding, window),
                       implementation=self.pool, **fields)
