"""The head of a classifier: dense layer and softmax cross-entropy.

Each gradient has the dtype of its operand; the dtypes may differ.
"""

import math

import jax
import jax.numpy as jnp

from cnn_jax.ops._xla.shard_map import match_varying_axes
from cnn_jax.ops.bias import add_bias
from cnn_jax.ops.conv import addon
from cnn_jax.ops.conv.algorithm import Algorithm
from cnn_jax.ops.conv.spec import ConvSpec, conv_spec, is_symbolic

Arrays = tuple[jax.Array, jax.Array]

# Rows and weights with which the native library is faster than XLA.
ROWS, MANY_WEIGHTS = range(8, 64), 2 ** 20


def dense(x: jax.Array, w: jax.Array, b: jax.Array | None = None) -> jax.Array:
    """Computes y = x w + b:  x [..., C], w [C, O], b [O] or None, y [..., O]."""
    if x.ndim < 2 or w.ndim != 2 or x.shape[-1] != w.shape[0]:
        raise ValueError(
            f"dense: x {x.shape} [..., C] and w {w.shape} [C, O] do not fit")
    if b is not None and b.shape != w.shape[1:]:
        raise ValueError(f"dense: w {w.shape} [C, O] needs b [O], received {b.shape}")
    y = _matmul(*match_varying_axes(x, w))
    return y if b is None else add_bias(y, b)


@jax.custom_vjp
def _matmul(x: jax.Array, w: jax.Array) -> jax.Array:
    native = native_convolution(x, w)
    if native is None:
        return x @ w
    algorithm, spec = native
    y = algorithm.forward(x.reshape(spec.x_shape), w.reshape(spec.w_shape), spec)
    return y.reshape(*x.shape[:-1], w.shape[-1])


def _matmul_backward(residuals: Arrays, g: jax.Array) -> Arrays:
    """dx = g w^T,  dw = x^T g"""
    x, w = residuals
    rows = x.reshape(-1, x.shape[-1])
    dx, dw = g @ w.T, rows.T @ g.reshape(-1, g.shape[-1])
    return dx.astype(x.dtype), dw.astype(w.dtype)


_matmul.defvjp(lambda x, w: (_matmul(x, w), (x, w)), _matmul_backward)


def native_convolution(x: jax.Array, w: jax.Array) -> tuple[Algorithm, ConvSpec] | None:
    """Returns x w as a convolution of the native library, if that is faster.

    Each row is an image of one pixel. On a CPU, XLA takes 1.4 to 2.2 times as long for
    8 to 48 rows and 4,096 outputs, and 0.7 to 2.5 times with fewer weights (2 cores of
    an Intel Xeon, AVX-512, model 106). XLA's dx and dw are faster.
    """
    spec = conv_spec((math.prod(x.shape[:-1]), 1, x.shape[-1]), (1, *w.shape), 1, 0)
    if (jax.default_backend() != "cpu" or not x.dtype == w.dtype == jnp.float32
            or is_symbolic(spec) or spec.x_shape[0] not in ROWS
            or math.prod(spec.w_shape) < MANY_WEIGHTS):
        return None
    algorithm = addon.installed.convolution("native", spec, jnp.float32)
    return None if algorithm is None else (algorithm, spec)


def softmax_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Computes loss[n] = logsumexp(z[n]) - sum over c of t[n, c] z[n, c].

    Args:
      logits: z [..., C].
      labels: classes [...] (integers 0 to C - 1), or probabilities t [..., C] (soft or
        smoothed labels, each row summing to 1).

    Returns:
      The loss of each example [...], in nats; not averaged. A label outside 0..C-1
      picks no logit (mask such an example).
    """
    if labels.ndim == logits.ndim - 1 and jnp.issubdtype(labels.dtype, jnp.integer):
        labels = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if logits.ndim < 1 or labels.shape != logits.shape:
        raise ValueError(
            f"softmax_cross_entropy: logits {logits.shape} [..., C] need integer "
            f"labels [...] or probabilities [..., C], received {labels.dtype} "
            f"{labels.shape}")
    return _cross_entropy(*match_varying_axes(logits, labels))


@jax.custom_vjp
def _cross_entropy(z: jax.Array, t: jax.Array) -> jax.Array:
    return jax.nn.logsumexp(z, axis=-1) * t.sum(-1) - (t * z).sum(-1)


def _cross_entropy_backward(residuals: Arrays, g: jax.Array) -> Arrays:
    """dz = g (softmax(z) sum t - t),  dt = -g log softmax(z)"""
    z, t = residuals
    g = g[..., None]
    dz = g * (jax.nn.softmax(z) * t.sum(-1, keepdims=True) - t)
    dt = -g * jax.nn.log_softmax(z)
    return dz.astype(z.dtype), dt.astype(t.dtype)


_cross_entropy.defvjp(lambda z, t: (_cross_entropy(z, t), (z, t)),
                      _cross_entropy_backward)
