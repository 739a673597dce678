"""Pixels 0..255 to network input: x = (pixel - offset) * factor, two numbers a set."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Scaling(NamedTuple):
    """x = (pixel - offset) * factor."""

    offset: float
    factor: float


def unit(images: np.ndarray) -> Scaling:
    """0..255 to 0..1, whatever the images."""
    return Scaling(0.0, 1 / 255)


def signed(images: np.ndarray) -> Scaling:
    """0..255 to -1..1, whatever the images."""
    return Scaling(127.5, 1 / 127.5)


def standard(images: np.ndarray) -> Scaling:
    """Mean 0 and standard deviation 1 over all pixels and channels of `images`."""
    counts = np.bincount(images.ravel(), minlength=256).astype(np.float64)
    values = np.arange(256)
    mean = counts @ values / counts.sum()
    deviation = np.sqrt(counts @ (values - mean) ** 2 / counts.sum())
    return Scaling(float(mean), 1 / float(deviation) if deviation else 1.0)


def minmax(images: np.ndarray) -> Scaling:
    """The darkest pixel of `images` to 0, the brightest to 1."""
    low, high = float(images.min()), float(images.max())
    return Scaling(low, 1 / (high - low) if high > low else 1.0)


SCALINGS: dict[str, Callable[[np.ndarray], Scaling]] = {
    "unit": unit, "signed": signed, "standard": standard, "minmax": minmax,
}


def scale(images: jax.Array, scaling: Scaling) -> jax.Array:
    """uint8 or float pixels to float32 input."""
    return (images.astype(jnp.float32) - scaling.offset) * scaling.factor
