"""Scales pixels 0..255 to network input: two numbers for all channels, or for each."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.errors import InputError

__all__ = ["scale"]


class Scaling(NamedTuple):
    """x = (pixel - offset) * factor, with one number for all channels or one for each.
    """

    offset: float | tuple[float, ...]
    factor: float | tuple[float, ...]


def from_mean_std(mean: Sequence[float], std: Sequence[float]) -> Scaling:
    """Makes the scaling from means and deviations of pixels in 0..1."""
    return Scaling(tuple(255 * m for m in mean), tuple(1 / (255 * s) for s in std))


# Scalings that do not depend on the images.
FIXED = {
    "unit": Scaling(0.0, 1 / 255),
    "signed": Scaling(127.5, 1 / 127.5),
    # ImageNet's mean and deviation, red, green, blue, as in torchvision.
    "imagenet": from_mean_std((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    # ImageNet's mean alone, as in Caffe and in Keras' VGG and ResNet.
    "caffe": Scaling((123.68, 116.779, 103.939), (1.0, 1.0, 1.0)),
}


def unit(images: np.ndarray) -> Scaling:
    """Maps 0..255 to 0..1, whatever the images."""
    return FIXED["unit"]


def signed(images: np.ndarray) -> Scaling:
    """Maps 0..255 to -1..1, whatever the images."""
    return FIXED["signed"]


def standard(images: np.ndarray) -> Scaling:
    """Gives all pixels and channels of `images` mean 0 and standard deviation 1."""
    counts = np.zeros(256)
    for start in range(0, len(images), 256):  # bincount makes an int64 of each pixel
        counts += np.bincount(images[start:start + 256].ravel(), minlength=256)
    values = np.arange(256)
    mean = counts @ values / counts.sum()
    deviation = np.sqrt(counts @ (values - mean) ** 2 / counts.sum())
    return Scaling(float(mean), 1 / float(deviation) if deviation else 1.0)


def minmax(images: np.ndarray) -> Scaling:
    """Maps the darkest pixel of `images` to 0 and the brightest to 1."""
    low, high = float(images.min()), float(images.max())
    return Scaling(low, 1 / (high - low) if high > low else 1.0)


def imagenet(images: np.ndarray) -> Scaling:
    """Gives each channel of ImageNet mean 0 and standard deviation 1."""
    return for_colour("imagenet", images)


def caffe(images: np.ndarray) -> Scaling:
    """Gives each channel of ImageNet mean 0, and keeps its range of 255."""
    return for_colour("caffe", images)


def for_colour(name: str, images: np.ndarray) -> Scaling:
    """Returns a scaling of RGB. Raises InputError for images of other channels."""
    if images.shape[-1] != 3:
        raise InputError(f"data.scaling is {name!r} but the images have "
                         f"{images.shape[-1]} channel: set data.channels to 3")
    return FIXED[name]


SCALINGS: dict[str, Callable[[np.ndarray], Scaling]] = {
    "unit": unit, "signed": signed, "standard": standard, "minmax": minmax,
    "imagenet": imagenet, "caffe": caffe,
}
MEASURED = ("standard", "minmax")  # those that depend on the pixels


def scale(images: jax.Array, scaling: Scaling) -> jax.Array:
    """Applies a scaling to uint8 or float pixels; the result is float32."""
    return ((images.astype(jnp.float32) - per_channel(scaling.offset, images.ndim))
            * per_channel(scaling.factor, images.ndim))


def per_channel(value: float | tuple[float, ...], rank: int) -> jax.Array | float:
    """Shapes one number for each channel for images [..., C] of this rank.

    One number for all channels stays a number.
    """
    if isinstance(value, tuple):
        return jnp.array(value, jnp.float32).reshape((1,) * (rank - 1) + (-1,))
    return value
