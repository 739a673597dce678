"""Draws a comparison as groups of horizontal bars with quartiles."""

from pathlib import Path

import numpy as np


def quartiles(values) -> tuple[float, float, float]:
    """Returns the 25th, 50th and 75th percentile."""
    return tuple(float(q) for q in np.percentile(values, [25, 50, 75]))


def draw_bars(panels: dict[str, dict[str, dict[str, tuple[float, float, float]]]],
              label: str, path: Path, log: bool = False) -> None:
    """Draws {title: {group: {arm: quartiles}}}; an arm has one colour everywhere."""
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    groups = list(dict.fromkeys(g for panel in panels.values() for g in panel))
    arms = list(dict.fromkeys(arm for panel in panels.values()
                              for bars in panel.values() for arm in bars))
    figure, axes = plt.subplots(
        1, len(panels), sharey=True, squeeze=False,
        figsize=(3 + 5 * len(panels), 1.2 + len(groups) * (.25 + .1 * len(arms))))
    for axis, (title, panel) in zip(axes[0], panels.items()):
        for i, arm in enumerate(arms):
            for group, bars in panel.items():
                if arm not in bars:
                    continue
                low, middle, high = bars[arm]
                y = groups.index(group) + (
                    list(bars).index(arm) - (len(bars) - 1) / 2) * .8 / len(arms)
                axis.barh(y, middle, .8 / len(arms), color=plt.cm.tab20(i),
                          xerr=[[middle - low], [high - middle]],
                          error_kw={"linewidth": .8})
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
    axes[0][-1].legend(handles=[Patch(color=plt.cm.tab20(i), label=arm)
                                for i, arm in enumerate(arms)])
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
