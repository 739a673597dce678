"""Metrics from sums over examples."""

import numpy as np


def mean(sums: dict[str, float]) -> dict[str, float]:
    """Loss and accuracy from sums over examples: divide once, at the end.

    Of masks, accuracy is the share of right pixels, and evaluation adds the mean IoU.
    """
    count = float(sums["count"])
    found = {name: float(sums[key]) / count for name, key in (
        ("loss", "loss"), ("accuracy", "correct"))}
    if "confusion" in sums:
        found["mean_iou"] = mean_iou(sums["confusion"])
    return found


def mean_iou(confusion: np.ndarray) -> float:
    """Mean over the classes of |truth and prediction| / |truth or prediction|.

    confusion: pixels [true class, predicted class] of the whole part. A class that is
    neither there nor predicted does not count.
    """
    both = np.diag(confusion)
    either = confusion.sum(0) + confusion.sum(1) - both
    return float(np.mean(both[either > 0] / either[either > 0]))
