"""Horizontal bars with quartiles, in groups: the picture of a comparison."""

from pathlib import Path

import numpy as np


def quartiles(values) -> tuple[float, float, float]:
    """The 25th, 50th and 75th percentile."""
    return tuple(float(q) for q in np.percentile(values, [25, 50, 75]))


def draw_bars(panels: dict[str, dict[str, dict[str, tuple[float, float, float]]]],
              label: str, path: Path, log: bool = False) -> None:
    """panels: {title: {group: {arm: quartiles}}}; an arm has one colour everywhere."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    groups = list(dict.fromkeys(g for panel in panels.values() for g in panel))
    arms = list(dict.fromkeys(arm for panel in panels.values()
                              for bars in panel.values() for arm in bars))
    figure, axes = plt.subplots(
        1, len(panels), sharey=True, squeeze=False,
        figsize=(3 + 5 * len(panels), 1.2 + len(groups) * (.25 + .1 * len(arms))))
    for axis, (title, panel) in zip(axes[0], panels.items()):
        for i, arm in enumerate(arms):
            own = [(groups.index(g), *bars[arm]) for g, bars in panel.items()
                   if arm in bars]
            place, low, middle, high = np.array(own).reshape(-1, 4).T
            axis.barh(place + (i - (len(arms) - 1) / 2) * .8 / len(arms), middle,
                      .8 / len(arms), xerr=[middle - low, high - middle], label=arm,
                      color=plt.cm.tab20(i), error_kw={"linewidth": .8})
        axis.set_title(title)
        axis.set_xlabel(label)
        axis.grid(axis="x", alpha=.3)
        axis.margins(y=.01)
        if log:
            axis.set_xscale("log")
        else:
            axis.axvline(1, color="black", linewidth=.8)
    axes[0][0].set_yticks(range(len(groups)), groups)
    axes[0][0].invert_yaxis()
    axes[0][-1].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
