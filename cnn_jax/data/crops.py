"""Draws random-resized crops of pictures on the host, as pure functions.

A crop depends on (seed, epoch, index) and the picture's size alone, so a run that
resumes, on any number of processes, cuts the same boxes.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

TRIES = 10
_UNIT = 2.0 ** -53


class CropBox(NamedTuple):
    """A part of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int


def random_resized_crop(seed: int, epoch: int, index: int, height: int, width: int,
                        scale: tuple[float, float],
                        ratio: tuple[float, float]) -> CropBox:
    """Draws the box that torchvision's RandomResizedCrop would cut out and resize.

    Its fraction of the picture's area is uniform in `scale`, and the logarithm of
    width / height is uniform in that of `ratio`. The first of 10 such draws that fits
    is put at a random position. If none fits, the box is `fallback_crop`.

    Args:
        seed, epoch, index: of the run, and the index of the image in its split. They
            are the key and the counter of a Philox generator.
        height, width: of the picture, pixels.
        scale: (low, high) fractions of the area, 0 < low <= high <= 1.
        ratio: (low, high) of width / height, 0 < low <= high.
    """
    # The raw words are the same in every version of NumPy, unlike drawn numbers.
    words = np.random.Philox(key=(seed, epoch), counter=(0, 0, 0, index)).random_raw(
        2 * TRIES + 2)
    uniform = (words >> np.uint64(11)) * _UNIT  # float64 in [0, 1)
    logs = math.log(ratio[0]), math.log(ratio[1])
    for i in range(TRIES):
        area = height * width * (scale[0] + (scale[1] - scale[0]) * uniform[2 * i])
        aspect = math.exp(logs[0] + (logs[1] - logs[0]) * uniform[2 * i + 1])
        box_width = round(math.sqrt(area * aspect))
        box_height = round(math.sqrt(area / aspect))
        if 0 < box_width <= width and 0 < box_height <= height:
            return CropBox(int(uniform[-2] * (height - box_height + 1)),
                           int(uniform[-1] * (width - box_width + 1)),
                           box_height, box_width)
    return fallback_crop(height, width, ratio)


def training_crop(seed: int, epoch: int, index: int,
                  scale: tuple[float, float] | None,
                  ratio: tuple[float, float]) -> Callable[[int, int], CropBox] | None:
    """Returns the function from a picture's size to its box; None without a scale."""
    return scale and functools.partial(random_resized_crop, seed, epoch, index,
                                       scale=scale, ratio=ratio)


def fallback_crop(height: int, width: int, ratio: tuple[float, float]) -> CropBox:
    """Returns the largest central box whose width / height is within `ratio`."""
    box_height, box_width = height, width
    if width / height < ratio[0]:
        box_height = max(1, round(width / ratio[0]))
    elif width / height > ratio[1]:
        box_width = max(1, round(height * ratio[1]))
    return CropBox((height - box_height) // 2, (width - box_width) // 2, box_height,
                   box_width)
