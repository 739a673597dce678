"""Draws the loss against the learning rate: of a range test, and of constant rates.
"""

from collections.abc import Mapping

import numpy as np

from cnn_jax.inspection.draw.drawing import new_figure
from cnn_jax.inspection.draw.picture import Picture


def loss_of_rates(rates: np.ndarray, losses: np.ndarray, smoothed: np.ndarray,
                  marked: Mapping[str, float]) -> Picture:
    """Draws the losses and their smoothed curve, with some rates marked by name."""
    figure = new_figure(5.6, 3.8)
    axes = figure.subplots()
    axes.plot(rates, losses, ".", markersize=3, color="0.7", label="loss of a batch")
    axes.plot(rates, smoothed, label="smoothed")
    for number, (name, rate) in enumerate(marked.items(), 1):
        axes.axvline(rate, linestyle="--", color=f"C{number}", linewidth=1.2,
                     label=f"{name}, {rate:.2g}")
    top = smoothed[0] + 0.5 * (smoothed[0] - smoothed.min())
    axes.set(xscale="log", xlabel="learning rate", ylabel="loss",
             ylim=(0.9 * smoothed.min(), max(top, 1.05 * smoothed[0])))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    alt = "; ".join(f"{name}: {rate:.2g}" for name, rate in marked.items())
    return Picture(
        "lr_find", "Loss against the learning rate",
        "Each update has a larger rate than the one before. A good rate lies where the "
        "loss falls fast, well before it rises.", f"{alt}.", figure,
        {"rates": rates, "losses": losses, "smoothed": smoothed})


def losses_by_rate(rates: np.ndarray, smoothed: np.ndarray, diverged: np.ndarray,
                   best: int) -> Picture:
    """Draws the smoothed losses [updates, N] of N rates, and the last against the rate.
    """
    # Imported here: matplotlib takes a second, and not every command draws.
    from matplotlib import colormaps

    figure = new_figure(8.4, 3.8)
    curves, last = figure.subplots(1, 2, sharey=True)
    colors = colormaps["viridis"](np.linspace(0, 1, len(rates)))
    for rate, losses, color, failed in zip(rates, smoothed.T, colors, diverged):
        curves.plot(np.arange(1, len(losses) + 1), losses, color=color, linewidth=1.2,
                    linestyle=":" if failed else "-")
        if not failed:
            last.plot(rate, losses[-1], "o", color=color)
    for number, rate in enumerate(rates[diverged]):
        last.axvline(rate, linestyle=":", color="0.6",
                     label="" if number else "diverged")
    last.plot(rates[best], smoothed[-1, best], "o", markersize=12, fillstyle="none",
              color="C3", label=f"best, {rates[best]:g}")
    curves.set(xlabel="update", ylabel="smoothed loss",
               ylim=(0.8 * smoothed[-1, best], 1.2 * smoothed[0, best]))
    last.set(xscale="log", xlabel="learning rate", xlim=(rates[0] / 1.2,
                                                         rates[-1] * 1.2))
    for axes in (curves, last):
        axes.grid(alpha=0.3)
    last.legend(fontsize=8)
    return Picture(
        "lr_find", "Losses of constant learning rates",
        "Every curve starts from the same state and sees the same batches. Right: each "
        "curve's last value, in its colour.",
        f"Best: {rates[best]:g}.", figure,
        {"rates": rates, "smoothed": smoothed, "diverged": diverged})
