"""LeNet-5 (LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document
recognition, 1998)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.layers import Activation, Flatten, Layers, Pair, ZeroPad
from cnn_jax.networks.inputs import takes_images

PAPER_SIZE = 32  # pixels: the paper centres the 28 x 28 digits in 32 x 32

# Table I of the paper: which of S2's maps 0 .. 5 each of C3's 16 maps reads.
C3_TABLE = ("012", "123", "234", "345", "045", "015",
            "0123", "1234", "2345", "0345", "0145", "0125", "0134", "1245", "0235",
            "012345")
CONNECTIONS = tuple((int(source), target) for target, sources in enumerate(C3_TABLE)
                    for source in sources)


class LeNet5(nn.Module):
    """The usual form: C3 reads all maps, linear output; 61,706 parameters in grey.

    [N, H, W, C] -> logits [N, num_classes]; published on 32 x 32 x 1. Smaller images
    are centred in 32 x 32 pixels of zeros, as in the paper. The form of the TensorFlow
    2 course (32 x 32 x 3, 62,006 parameters) has activation='sigmoid', pool='max'.
    Deviations: no sparse C3 table, no trainable subsampling, no RBF output.

    activation: a name in `layers.ACTIVATIONS`; the paper's is tanh.
    pool: 'mean' as in the paper, or 'max'.
    """

    num_classes: int = 10
    activation: str = "tanh"
    pool: str = "mean"
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        if self.pool not in ("mean", "max"):
            raise ValueError(f"pool must be 'mean' or 'max', not {self.pool!r}")
        pool = make.avg_pool if self.pool == "mean" else make.max_pool

        x = ZeroPad(to_size(x, PAPER_SIZE), name="centre")(x)
        x = make.convolution(6, (5, 5), padding="VALID", name="conv1")(x)
        x = Activation(self.activation, name="act1")(x)
        x = pool((2, 2), name="pool1")(x)
        x = make.convolution(16, (5, 5), padding="VALID", name="conv2")(x)
        x = Activation(self.activation, name="act2")(x)
        x = pool((2, 2), name="pool2")(x)
        x = Flatten(name="flatten")(x)
        x = make.dense(120, name="fc1")(x)
        x = Activation(self.activation, name="act3")(x)
        x = make.dense(84, name="fc2")(x)
        x = Activation(self.activation, name="act4")(x)
        return make.dense(self.num_classes, name="head")(x)


class LeNet5Published(nn.Module):
    """The form of 1998: 60,000 parameters for grey digits, outputs -|x - code|^2.

    Each map of C3 reads some of S2's maps (Table I). Subsampling learns a coefficient
    and a bias for each map. Each class has a fixed code of 84 = 7 x 12 pixels; the
    squared distance to it is the penalty of the class, and its negative is the logit.
    The activation is 1.7159 tanh(2 x / 3).
    Deviations: the codes are seven-segment digits, not the paper's drawn characters, so
    there are at most 10 classes.
    """

    num_classes: int = 10
    layers: Layers = Layers()

    @takes_images
    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        make = self.layers
        if self.num_classes > 10:
            raise ValueError("the 1998 form of LeNet-5 has codes for 10 classes, not "
                             f"{self.num_classes}: use lenet5")
        squash = "lecun_tanh"
        x = ZeroPad(to_size(x, PAPER_SIZE), name="centre")(x)
        x = make.convolution(6, (5, 5), padding="VALID", name="c1")(x)
        x = Activation(squash, name="act1")(x)
        x = Subsampling(make, name="s2")(x)
        x = Activation(squash, name="act2")(x)
        x = SparseConv(16, CONNECTIONS, (5, 5), make, name="c3")(x)
        x = Activation(squash, name="act3")(x)
        x = Subsampling(make, name="s4")(x)
        x = Activation(squash, name="act4")(x)
        x = make.convolution(120, (5, 5), padding="VALID", name="c5")(x)
        x = Activation(squash, name="act5")(x)
        x = Flatten(name="flatten")(x)
        x = make.dense(84, name="f6")(x)
        x = Activation(squash, name="act6")(x)
        return Codes(self.num_classes, name="head")(x)


def to_size(x: jax.Array, size: int) -> tuple[Pair, Pair]:
    """Computes the padding that centres x [N, H, W, C] in size x size pixels.

    An odd zero goes below and to the right.
    """
    rows, columns = (max(size - extent, 0) for extent in x.shape[1:3])
    return (rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)


class Subsampling(nn.Module):
    """Computes y[c] = a[c] * (sum of x[c] over 2 x 2 windows) + b[c] for each map c."""

    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        maps = x.shape[-1]
        scale = self.param("scale", nn.initializers.constant(0.25), (maps,))
        bias = self.param("bias", nn.initializers.zeros, (maps,))
        total = 4 * self.layers.avg_pool((2, 2), name="sum")(x)
        return total * channelwise(scale, total) + channelwise(bias, total)


class SparseConv(nn.Module):
    """Convolves with VALID padding; each map reads only some of the channels.

    connections: pairs (channel, map); the kernel [h, w, len(connections)] has a slice
        for each.
    """

    features: int
    connections: tuple[Pair, ...]
    kernel_size: Pair
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        sources, targets = np.array(self.connections).T
        kernel = self.param("kernel", self.layers.initializers.kernel,
                            (*self.kernel_size, len(self.connections)))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        full = jnp.zeros((*self.kernel_size, x.shape[-1], self.features), kernel.dtype)
        full = full.at[:, :, sources, targets].set(kernel)
        x = x.astype(self.layers.dtype)
        y = self.layers.implementation(x, full.astype(x.dtype), (1, 1), "VALID",
                                       dimension_numbers=("NHWC", "HWIO", "NHWC"))
        return y + channelwise(bias, y)


def channelwise(values: jax.Array, x: jax.Array) -> jax.Array:
    """Reshapes values [C] to [1, 1, 1, C], to broadcast against x [N, H, W, C]."""
    return values.astype(x.dtype).reshape((1,) * (x.ndim - 1) + values.shape)


class Codes(nn.Module):
    """Computes y[k] = -sum over j of (x[j] - code[k, j])^2 for fixed codes of +-1."""

    classes: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        codes = jnp.asarray(digit_codes()[:self.classes], x.dtype)
        return -jnp.square(x[:, None] - codes[None]).sum(-1)


def digit_codes() -> np.ndarray:
    """Draws seven-segment digits on 12 x 7 pixels, [10, 84]: +1 ink and -1 paper."""
    segments = {"a": np.s_[0:2, :], "b": np.s_[0:6, 5:], "c": np.s_[6:, 5:],
                "d": np.s_[10:, :], "e": np.s_[6:, :2], "f": np.s_[0:6, :2],
                "g": np.s_[5:7, :]}
    digits = ("abcdef", "bc", "abged", "abgcd", "fgbc", "afgcd", "afgedc", "abc",
              "abcdefg", "abfgcd")
    codes = -np.ones((10, 12, 7))
    for code, lit in zip(codes, digits):
        for segment in lit:
            code[segments[segment]] = 1
    return codes.reshape(10, 84)
