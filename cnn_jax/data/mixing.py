"""Mixes the images of a batch in pairs, inside jit: mixup and cutmix."""

import jax
import jax.numpy as jnp
from jax import lax
from ml_collections import ConfigDict

from cnn_jax.data import boxes

# Pairs (labels, weight of each example); an example's weights add up to 1. The loss is
# the weighted sum of the losses against the labels of each pair.
Targets = tuple[tuple[jax.Array, jax.Array | float], ...]


def mix(images: jax.Array, labels: jax.Array, keys: dict[str, jax.Array],
        settings: ConfigDict,
        axis_name: str | None = None) -> tuple[jax.Array, Targets]:
    """Mixes image i with image B - 1 - i of the global batch of B images.

    With the weight l ~ Beta(alpha, alpha) of the image x and 1 - l of its partner x':

    mixup: l x + (1 - l) x' (Zhang, Cisse, Dauphin, Lopez-Paz, 2018).
    cutmix: a box of x' with the area 1 - l covers x. Then l becomes the fraction of
    pixels that are not covered (Yun, Han, Oh, Chun, Choe, Yoo, 2019).

    If both are enabled, each image gets one of the two with probability 1/2.
    """
    partners = reverse_batch(images, axis_name)
    partner_labels = reverse_batch(labels, axis_name)
    if not settings.cutmix > 0:
        mixed, weights = mixup(images, partners, keys, settings.mixup)
    elif not settings.mixup > 0:
        mixed, weights = cutmix(images, partners, keys, settings.cutmix)
    else:
        blended, blend_weights = mixup(images, partners, keys, settings.mixup)
        cut, cut_weights = cutmix(images, partners, keys, settings.cutmix)
        is_blended = jax.vmap(jax.random.bernoulli)(keys["choice"])
        mixed = jnp.where(is_blended[:, None, None, None], blended, cut)
        weights = jnp.where(is_blended, blend_weights, cut_weights)
    return mixed, ((labels, weights), (partner_labels, 1 - weights))


def mixup(images: jax.Array, partners: jax.Array, keys: dict[str, jax.Array],
          alpha: float) -> tuple[jax.Array, jax.Array]:
    """Blends images with their partners; returns them and the weights [N] of `images`.
    """
    weights = mix_weights(keys["weight"], alpha)
    pixel_weights = weights[:, None, None, None]
    return pixel_weights * images + (1 - pixel_weights) * partners, weights


def cutmix(images: jax.Array, partners: jax.Array, keys: dict[str, jax.Array],
           alpha: float) -> tuple[jax.Array, jax.Array]:
    """Covers a box of images with their partners; returns them and the weights [N].

    A weight is the fraction of an image's pixels that is not covered.
    """
    side_fractions = jnp.sqrt(1 - mix_weights(keys["weight"], alpha))[:, None]
    sides = (side_fractions * jnp.array(images.shape[1:3])[None]).astype(jnp.int32)
    centres = jax.vmap(lambda key: boxes.random_pixel(key, images))(keys["box"])
    covered = boxes.box_mask(boxes.about(centres, sides), *images.shape[1:3])
    return (jnp.where(covered[..., None], partners, images),
            1 - covered.mean((1, 2), dtype=jnp.float32))


def mix_weights(keys: jax.Array, alpha: float) -> jax.Array:
    """Draws float32 [N] from Beta(alpha, alpha)."""
    return jax.vmap(lambda key: jax.random.beta(key, alpha, alpha))(keys)


def reverse_batch(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """Reverses the global batch: row i of its B rows becomes row B - 1 - i."""
    if axis_name is not None:
        count = lax.axis_size(axis_name)
        rows = lax.ppermute(rows, axis_name,
                            [(i, count - 1 - i) for i in range(count)])
    return rows[::-1]
