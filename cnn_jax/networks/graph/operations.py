"""The operations of a layer graph: what each computes, and its attributes.

Every value has the batch as axis 0, which no operation touches: images are
[N, H, W, C], vectors [N, C]. Axes are counted with the batch; shapes, slices and
paddings leave it out. Attributes are static. The arrays of an operation are the
`params` of its node, by the names that the docstrings give in `code`. All padding is
explicit: 'SAME' and rounding up have been resolved for the size of the image.

Calling an operation with (params, inputs) computes it in JAX. This defines what other
formats and faster programs must compute.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from cnn_jax import ops
from cnn_jax.layers import ACTIVATIONS
from cnn_jax.ops.geometry import Pairs

Params = Mapping[str, Any]  # arrays by name; of an abstract graph, their shapes
Shape = tuple[int, ...]

# What `Elementwise` can compute: JAX's primitives by their names.
ELEMENTWISE: dict[str, Callable[..., jax.Array]] = {
    "add": lax.add, "sub": lax.sub, "mul": lax.mul, "div": lax.div, "pow": lax.pow,
    "max": lax.max, "min": lax.min, "neg": lax.neg, "abs": lax.abs, "sign": lax.sign,
    "exp": lax.exp, "log": lax.log, "tanh": lax.tanh, "logistic": lax.logistic,
    "erf": lax.erf, "sqrt": lax.sqrt, "rsqrt": lax.rsqrt, "square": lax.square,
    "floor": lax.floor, "ceil": lax.ceil, "gt": lax.gt, "ge": lax.ge, "lt": lax.lt,
    "le": lax.le, "eq": lax.eq, "ne": lax.ne, "not": lax.bitwise_not,
    "and": lax.bitwise_and, "or": lax.bitwise_or, "select_n": lax.select_n,
}
REDUCTIONS: dict[str, Callable[..., jax.Array]] = {
    "sum": jnp.sum, "max": jnp.max, "min": jnp.min, "prod": jnp.prod,
}


@dataclasses.dataclass(frozen=True)
class Input:
    """The images [N, H, W, C], scaled as in training: the first node of a graph."""

    def __call__(self, params: Params, images: jax.Array) -> jax.Array:
        return images


@dataclasses.dataclass(frozen=True)
class Conv:
    """Convolution of images: `kernel` [h, w, C / groups, O], and `bias` [O] if any."""

    strides: Shape
    padding: Pairs
    dilation: Shape
    groups: int

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return ops.correlate(x, *kernel_and_bias(params), self.strides, self.padding,
                             self.dilation, self.groups, implementation="lax")


@dataclasses.dataclass(frozen=True)
class ConvTranspose:
    """Transposed convolution: `kernel` [h, w, O / groups, C], and `bias` [O] if any.

    See `ops.conv_transpose`.
    """

    strides: Shape
    padding: Pairs
    output_padding: Shape
    dilation: Shape
    groups: int

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return ops.conv_transpose(
            x, *kernel_and_bias(params), self.strides, self.padding,
            self.output_padding, self.dilation, self.groups, implementation="lax")


@dataclasses.dataclass(frozen=True)
class Dense:
    """y = x W + b over the last axis: `kernel` [C, O], and `bias` [O] if any."""

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return ops.dense(x, *kernel_and_bias(params))


@dataclasses.dataclass(frozen=True)
class BatchNorm:
    """Batch norm over the last axis by running statistics; all params are [C].

    y = (x - `mean`) / sqrt(`var` + epsilon) * `scale` + `bias`
    """

    epsilon: float

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return ops.batch_norm_inference(x, params["mean"], params["var"],
                                        params["scale"], params["bias"], self.epsilon)


@dataclasses.dataclass(frozen=True)
class LocalResponseNorm:
    """x / (k + alpha * sum of x^2 over `size` channels)^beta.

    For a layer that divides its alpha by the size, `alpha` is the quotient. See
    `ops.local_response_norm`.
    """

    size: int
    k: float
    alpha: float
    beta: float

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return ops.local_response_norm(x, self.size, self.k, self.alpha, self.beta)


@dataclasses.dataclass(frozen=True)
class MaxPool:
    """Maximum over windows of images; padding counts as -inf."""

    window: Shape
    strides: Shape
    padding: Pairs
    dilation: Shape = (1, 1)

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return ops.max_pool(x, self.window, self.strides, self.padding,
                            implementation="lax", dilation=self.dilation)


@dataclasses.dataclass(frozen=True)
class AvgPool:
    """Mean over windows of images.

    counted: the part of the padding whose zeros the mean counts.
    """

    window: Shape
    strides: Shape
    padding: Pairs
    counted: Pairs
    dilation: Shape = (1, 1)

    @property
    def uncounted(self) -> Pairs:
        """The part of the padding that the mean leaves out."""
        return tuple((low - zeros_low, high - zeros_high) for
                     (low, high), (zeros_low, zeros_high)
                     in zip(self.padding, self.counted))

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), *self.counted, (0, 0)))
        return ops.avg_pool(x, self.window, self.strides, self.uncounted,
                            count_include_pad=False, implementation="lax",
                            dilation=self.dilation)


@dataclasses.dataclass(frozen=True)
class GlobalAvgPool:
    """[N, H, W, C] -> [N, C]: the mean over all positions."""

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return ops.global_avg_pool(x)


@dataclasses.dataclass(frozen=True)
class Activation:
    """A non-linearity by its name in `layers.ACTIVATIONS`."""

    kind: str

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return ACTIVATIONS[self.kind](x)


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """A function of `ELEMENTWISE`; axes of size 1 are broadcast.

    Constant operands are params, named by their position: '0', '1', ...
    """

    kind: str

    def operands(self, params: Params, inputs: Sequence[Any]) -> list[Any]:
        """Puts constants and inputs in order."""
        remaining = iter(inputs)
        return [params[str(i)] if str(i) in params else next(remaining)
                for i in range(len(params) + len(inputs))]

    def __call__(self, params: Params, *inputs: jax.Array) -> jax.Array:
        operands = self.operands(params, inputs)
        rank = max(x.ndim for x in inputs)
        arrays = jnp.broadcast_arrays(*(
            lax.broadcast_to_rank(jnp.asarray(x), rank) for x in operands))
        return ELEMENTWISE[self.kind](*arrays)


@dataclasses.dataclass(frozen=True)
class Concat:
    """Concatenates its inputs along an axis."""

    axis: int

    def __call__(self, params: Params, *inputs: jax.Array) -> jax.Array:
        return lax.concatenate(inputs, self.axis)


@dataclasses.dataclass(frozen=True)
class Reshape:
    """The same entries in the same order, as arrays of `shape`; flattening too."""

    shape: Shape

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], *self.shape)


@dataclasses.dataclass(frozen=True)
class Broadcast:
    """Repeats along the axes of size 1, up to `shape`."""

    shape: Shape

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x, (x.shape[0], *self.shape))


@dataclasses.dataclass(frozen=True)
class Transpose:
    """Moves axis axes[i] to i; the batch stays first."""

    axes: tuple[int, ...]

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return x.transpose(self.axes)


@dataclasses.dataclass(frozen=True)
class Slice:
    """x[start:stop:step] along each axis but the batch."""

    starts: Shape
    stops: Shape
    steps: Shape

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return lax.slice(x, (0, *self.starts), (x.shape[0], *self.stops),
                         (1, *self.steps))


@dataclasses.dataclass(frozen=True)
class Pad:
    """Pads each axis but the batch with `value`; negative padding crops."""

    padding: Pairs
    value: float = 0.0

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return lax.pad(x, jnp.asarray(self.value, x.dtype),
                       ((0, 0, 0), *((low, high, 0) for low, high in self.padding)))


@dataclasses.dataclass(frozen=True)
class Reduce:
    """A function of `REDUCTIONS` over some axes, which it removes."""

    kind: str
    axes: tuple[int, ...]

    def __call__(self, params: Params, x: jax.Array) -> jax.Array:
        return REDUCTIONS[self.kind](x, self.axes)


def kernel_and_bias(params: Params) -> tuple[jax.Array, jax.Array | None]:
    """Looks up the two parameters of a layer with weights."""
    return params["kernel"], params.get("bias")


Operation = (Input | Conv | ConvTranspose | Dense | BatchNorm | LocalResponseNorm
             | MaxPool | AvgPool | GlobalAvgPool | Activation | Elementwise | Concat
             | Reshape | Broadcast | Transpose | Slice | Pad | Reduce)
