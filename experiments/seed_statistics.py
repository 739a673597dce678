"""Statistics of runs that differ in their seed alone: t intervals, paired seeds."""

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from scipy.stats import t

CONFIDENCE = 0.95


class Interval(NamedTuple):
    low: float
    high: float


def mean_interval(values: Sequence[float]) -> Interval | None:
    """Returns the 95 % interval of the mean, mean ± t s / sqrt(n); None for n < 2."""
    return _interval(values, 0.0)


def prediction_interval(values: Sequence[float]) -> Interval | None:
    """Returns where one more run lies with 95 %, mean ± t s sqrt(1 + 1/n).

    None for n < 2. Assumes that runs are drawn from one normal distribution.
    """
    return _interval(values, 1.0)


def _interval(values: Sequence[float], more: float) -> Interval | None:
    """Returns mean ± t s sqrt(more + 1/n); None for n < 2."""
    n = len(values)
    if n < 2:
        return None
    mean = statistics.fmean(values)
    reach = (t.ppf((1 + CONFIDENCE) / 2, n - 1) * statistics.stdev(values)
             * math.sqrt(more + 1 / n))
    return Interval(float(mean - reach), float(mean + reach))


def paired_differences(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Returns ours - theirs, {seed: value} each, for the seeds that both have."""
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
