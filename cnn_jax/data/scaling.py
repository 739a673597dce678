"""Scales pixels 0..255 to network input, with two numbers for a whole data set."""

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
    """Maps 0..255 to 0..1, whatever the images."""
    return Scaling(0.0, 1 / 255)


def signed(images: np.ndarray) -> Scaling:
    """Maps 0..255 to -1..1, whatever the images."""
    return Scaling(127.5, 1 / 127.5)


def standard(images: np.ndarray) -> Scaling:
    """Gives all pixels and channels of `images` mean 0 and standard deviation 1."""
    counts = np.bincount(images.ravel(), minlength=256).astype(np.float64)
    values = np.arange(256)
    mean = counts @ values / counts.sum()
    deviation = np.sqrt(counts @ (values - mean) ** 2 / counts.sum())
    return Scaling(float(mean), 1 / float(deviation) if deviation else 1.0)


def minmax(images: np.ndarray) -> Scaling:
    """Maps the darkest pixel of `images` to 0 and the brightest to 1."""
    low, high = float(images.min()), float(images.max())
    return Scaling(low, 1 / (high - low) if high > low else 1.0)


SCALINGS: dict[str, Callable[[np.ndarray], Scaling]] = {
    "unit": unit, "signed": signed, "standard": standard, "minmax": minmax,
}


def scale(images: jax.Array, scaling: Scaling) -> jax.Array:
    """Applies a scaling to uint8 or float pixels; the result is float32."""
    return (images.astype(jnp.float32) - scaling.offset) * scaling.factor
