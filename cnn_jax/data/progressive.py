"""Decides the size of training images, which may grow from epoch to epoch.

The size is a function of the epoch alone, so a run that resumes has the same sizes.
"""

from typing import NamedTuple

from ml_collections import ConfigDict


class Ramp(NamedTuple):
    """Square training images whose side grows, as with FFCV."""

    sides: tuple[int, int]   # the first and the last side, pixels
    epochs: tuple[int, int]  # the last epoch with the first side, and the first epoch
    #                          with the last side; epochs count from 0
    multiple: int            # pixels; the sides between are multiples of it

    def side(self, epoch: int) -> int:
        """Returns the side in pixels of the training images of an epoch.

        Between the two epochs it is the nearest multiple of `multiple` to

            first + (last - first) * (epoch - start) / (end - start),

        but not outside first ... last.
        """
        (first, last), (start, end) = self.sides, self.epochs
        if epoch <= start:
            return first
        if epoch >= end:
            return last
        side = first + (last - first) * (epoch - start) / (end - start)
        return min(max(first, round(side / self.multiple) * self.multiple), last)

    def size(self, epoch: int) -> tuple[int, int]:
        """Returns (height, width) of the training images of an epoch."""
        return (self.side(epoch),) * 2


def ramp_of(config: ConfigDict) -> Ramp | None:
    """Returns the ramp that the `progressive` section of a config asks for, or None."""
    if config.sides is None:
        return None
    return Ramp(tuple(config.sides), tuple(config.epochs), config.multiple)


def training_size(config: ConfigDict, epoch: int) -> tuple[int, int] | None:
    """Returns (height, width) of the training images of an epoch.

    None: the size of the set's images.

    config: its `progressive` section.
    """
    ramp = ramp_of(config)
    return ramp and ramp.size(epoch)


def training_sizes(config: ConfigDict, epoch: int
                   ) -> dict[tuple[int, int] | None, int]:
    """Returns the sizes of an epoch and those after it: {size: an epoch that has it}.

    config: its `progressive` section.
    """
    ramp = ramp_of(config)
    if ramp is None:
        return {None: epoch}
    start, end = ramp.epochs
    return {ramp.size(number): number
            for number in (epoch, *range(max(epoch, start), end + 1))}
