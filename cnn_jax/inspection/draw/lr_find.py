"""Draws the loss against the learning rate of a sweep."""

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
    words = "; ".join(f"{name}: {rate:.2g}" for name, rate in marked.items())
    return Picture(
        "lr_find", "Loss against the learning rate",
        "Each update has a larger rate than the one before. A good rate lies where the "
        "loss falls fast, well before it rises.", f"{words}.", figure,
        {"rates": rates, "losses": losses, "smoothed": smoothed})
