"""Training images grow as in FFCV."""

import numpy as np
import pytest

from cnn_jax.data.progressive import Ramp, ramp_of, training_size, training_sizes
from configs import default


def ffcv_side(epoch: int, sides, epochs) -> int:
    """Computes the side as `get_resolution` of FFCV's ImageNet script does, in NumPy.
    """
    if epoch <= epochs[0]:
        return sides[0]
    if epoch >= epochs[1]:
        return sides[1]
    return int(np.round(np.interp([epoch], epochs, sides)[0] / 32)) * 32


@pytest.mark.parametrize("epochs,run", [((11, 13), 16), ((29, 34), 40), ((5, 5), 9),
                                        ((0, 30), 32)])
@pytest.mark.parametrize("sides", [(160, 192), (96, 224), (128, 128)])
def test_sides_are_those_of_ffcv(sides, epochs, run):
    ramp = Ramp(sides, epochs, 32)
    assert [ramp.side(epoch) for epoch in range(run)] == [
        ffcv_side(epoch, sides, epochs) for epoch in range(run)]


def test_the_16_epochs_have_160_pixels_for_three_quarters():
    """FFCV's README says so too."""
    ramp = Ramp((160, 192), (11, 13), 32)
    assert [ramp.side(epoch) for epoch in range(16)] == 12 * [160] + 4 * [192]


def test_sides_that_are_not_multiples_stay_between_the_ends():
    ramp = Ramp((20, 50), (0, 10), 16)
    sides = [ramp.side(epoch) for epoch in range(12)]
    assert sides[0] == 20 and sides[-2:] == [50, 50] and sorted(sides) == sides
    assert {*sides[1:10]} == {20, 32, 48}
    assert {Ramp((150, 155), (0, 9), 32).side(epoch) for epoch in range(10)} == {
        150, 155}


def test_later_sizes_come_with_an_epoch_of_each():
    config = default.get_config().progressive
    assert ramp_of(config) is None and training_size(config, 3) is None
    assert training_sizes(config, 3) == {None: 3}
    config.sides, config.epochs = (32, 96), (2, 6)
    for epoch, sides in ((0, {32, 64, 96}), (5, {64, 96}), (6, {96}), (9, {96})):
        sizes = training_sizes(config, epoch)
        assert {*sizes} == {(side, side) for side in sides}
        for size, number in sizes.items():
            assert number >= epoch and training_size(config, number) == size
