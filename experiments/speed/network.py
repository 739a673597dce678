"""The network of the speed runs, as pure functions of arrays.

The first layer whitens 2 x 2 patches; its kernel is computed from training images. Then
three blocks halve the image: convolution, max pooling, batch norm, GELU, convolution,
batch norm, GELU. The head is a global maximum and a matrix without a bias. The design
follows K. Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", 2024. Ours pads
all convolutions, so that images of 32 pixels keep even sizes, which suit Winograd's
method.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cnn_jax import ops

Tree = dict[str, Any]

PATCH = 2
WHITENING_EPS = 5e-4
BN_EPS = 1e-5


def init(key: jax.Array, channels: int, classes: int,
         widths: Sequence[int]) -> tuple[Tree, Tree]:
    """Draws the parameters and makes the running statistics.

    Kernels are uniform in +-1 / sqrt(fan-in). The first C_in filters of a block's
    convolution then become the identity. Biases are 0; batch norm has no scale.
    """
    keys = iter(jax.random.split(key, 2 * len(widths) + 1))
    params: Tree = {"whiten": {
        "kernel": jnp.zeros((PATCH, PATCH, channels, 2 * channels * PATCH**2)),
        "bias": jnp.zeros(2 * channels * PATCH**2)}}
    stats: Tree = {}
    depth = 2 * channels * PATCH**2
    for block, width in enumerate(widths):
        for layer in range(2):
            name = f"block{block}_{layer}"
            params[name] = {"kernel": _identity_first(next(keys), depth, width),
                            "bias": jnp.zeros(width)}
            stats[name] = {"mean": jnp.zeros(width), "var": jnp.ones(width)}
            depth = width
    reach = depth ** -0.5
    params["head"] = jax.random.uniform(next(keys), (depth, classes), minval=-reach,
                                        maxval=reach)
    return params, stats


def _identity_first(key: jax.Array, depth: int, width: int) -> jax.Array:
    """Draws a 3 x 3 kernel whose first filters copy their input: [3, 3, C, O]."""
    reach = (9 * depth) ** -0.5
    kernel = jax.random.uniform(key, (3, 3, depth, width), minval=-reach, maxval=reach)
    copies = min(depth, width)
    return kernel.at[..., :copies].set(0).at[1, 1].set(
        kernel[1, 1].at[:, :copies].set(jnp.eye(depth, copies)))


def whitening_kernel(images: jax.Array) -> jax.Array:
    """Computes the filters that whiten the patches of images [N, H, W, C].

    The filters are v / sqrt(l + eps) and their negatives, for the eigenvectors v and
    eigenvalues l of the mean of p p^T over all 2 x 2 patches p: [2, 2, C, 8 C].
    """
    channels = images.shape[-1]
    height, width = (side - PATCH + 1 for side in images.shape[1:3])
    patches = jnp.stack([images[:, i:i + height, j:j + width]
                         for i in range(PATCH) for j in range(PATCH)], -2)
    patches = patches.reshape(-1, PATCH**2 * channels)
    values, vectors = jnp.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / jnp.sqrt(values + WHITENING_EPS)[None])[:, ::-1]
    return jnp.concatenate([filters, -filters], 1).reshape(
        PATCH, PATCH, channels, -1)


def apply(params: Tree, stats: Tree, images: jax.Array, train: bool,
          bn_momentum: float = 0.0, scale: float = 1 / 9) -> tuple[jax.Array, Tree]:
    """Computes the logits [N, classes] of normalized images [N, H, W, C].

    Returns them with the running statistics: in training
    bn_momentum * old + (1 - bn_momentum) * batch, with the unbiased variance.
    """
    updated: Tree = {}

    def norm(x: jax.Array, name: str) -> jax.Array:
        bias, old = params[name]["bias"], stats[name]
        if not train:
            return ops.batch_norm_inference(
                x, old["mean"], old["var"], jnp.ones_like(bias), bias, eps=BN_EPS)
        y, mean, var = ops.batch_norm(x, jnp.ones_like(bias), bias, eps=BN_EPS)
        count = x.size // x.shape[-1]
        new = {"mean": mean, "var": var * (count / max(1, count - 1))}
        updated[name] = jax.tree.map(
            lambda a, b: bn_momentum * a + (1 - bn_momentum) * b, old, new)
        return y

    x = ops.correlate(images, params["whiten"]["kernel"], params["whiten"]["bias"],
                      padding=((0, 1), (0, 1)))
    x = jax.nn.gelu(x)
    for block in range(len(stats) // 2):
        first, second = f"block{block}_0", f"block{block}_1"
        x = ops.correlate(x, params[first]["kernel"], padding=1)
        x = jax.nn.gelu(norm(ops.max_pool(x, 2), first))
        x = ops.correlate(x, params[second]["kernel"], padding=1)
        x = jax.nn.gelu(norm(x, second))
    logits = ops.dense(ops.global_max_pool(x), params["head"]) * scale
    return logits, updated if train else stats


def predict(params: Tree, stats: Tree, images: jax.Array, flips: bool,
            shifts: bool) -> jax.Array:
    """Averages the logits of views of normalized images [N, H, W, C].

    flips: also of the mirrored images. shifts: also of images moved by one pixel to the
    upper left and to the lower right. Together these two have half of the weight.
    """
    def mirrored(images: jax.Array) -> jax.Array:
        logits = apply(params, stats, images, train=False)[0]
        if not flips:
            return logits
        return (logits + apply(params, stats, images[:, :, ::-1], train=False)[0]) / 2

    logits = mirrored(images)
    if not shifts:
        return logits
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    moved = [mirrored(padded[:, top:top + height, top:top + width]) for top in (0, 2)]
    return (logits + (moved[0] + moved[1]) / 2) / 2
