"""Draws the learning curves of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.console import COUNTERS
from cnn_jax.inspection.draw.drawing import new_figure
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import NotForThisNetwork
from cnn_jax.workdir.progress import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Column of the history -> name in pictures; other metrics are named by their column
CURVES = {"loss": "loss", "accuracy": "accuracy", "mean_iou": "mean IoU",
          "macro_f1": "macro F1", "top5_accuracy": "top-5 accuracy", "r2": "R²",
          "mean_absolute_error": "mean absolute error"}
SPLITS = (("", "training", "o-"), ("val_", "validation", "s--"))


def caption(name: str) -> str:
    """Returns the name of a metric in pictures."""
    return CURVES.get(name, name.replace("_", " "))


def metrics_of(history: Sequence[Row]) -> list[str]:
    """Lists the metrics that a history has, those of `CURVES` first."""
    columns = [name for name in (history[0] if history else ()) if name not in COUNTERS]
    names = dict.fromkeys(name.removeprefix("val_") for name in columns)
    return [*(name for name in CURVES if name in names),
            *(name for name in names if name not in CURVES)]


def of_run(run: InspectedRun, settings: ConfigDict) -> list[Picture]:
    """Draws the learning curves of a run."""
    if not run.history:
        raise NotForThisNetwork("the network was not trained here")
    return [learning_curves(run.history)]


def learning_curves(history: Sequence[Row]) -> Picture:
    """Draws loss, accuracy and the task's metrics side by side.

    history: one row for each epoch, as in history.csv.
    """
    names = metrics_of(history)
    figure = new_figure(4.5 * len(names), 3.6)
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        draw(axes, history, name)
    return Picture(
        "learning_curves", "Learning curves",
        "The values after every epoch. The training values are means over the epoch, "
        "taken while the parameters change, with augmentation and dropout if the "
        "config has them.",
        " ".join(in_words(history, name) for name in names), figure,
        arrays(history, names))


def curves(history: Sequence[Row], best_epoch: int | None = None) -> list[Picture]:
    """Draws a picture for each metric, narrow enough for a phone; marks the best epoch.
    """
    pictures = []
    for name in (*metrics_of(history), "learning_rate"):
        if not series(history, name):
            continue
        figure = new_figure(4.5, 3.0)
        axes = figure.subplots()
        draw(axes, history, name)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.4", linestyle=":", linewidth=1.2,
                         label=f"best epoch, {best_epoch}")
        axes.legend(fontsize=9)
        pictures.append(Picture(
            f"curve_{name}", capitalized(caption(name)), "",
            in_words(history, name), figure, arrays(history, [name])))
    return pictures


def capitalized(text: str) -> str:
    """Makes the first letter upper case and keeps the others: 'Mean IoU'."""
    return text[0].upper() + text[1:]


def series(history: Sequence[Row], name: str) -> dict[str, str]:
    """Returns {column of the history: its split} for the splits that have a metric."""
    return {prefix + name: label for prefix, label, _ in SPLITS
            if history and prefix + name in history[0]}


def arrays(history: Sequence[Row], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Returns the columns that the curves of some metrics draw."""
    columns = ["epoch", *(column for name in names for column in series(history, name))]
    return {column: np.array([row[column] for row in history]) for column in columns}


def draw(axes: Axes, history: Sequence[Row], name: str) -> None:
    """Draws the curves of one metric, for training and validation."""
    epochs = [row["epoch"] for row in history]
    columns = series(history, name)
    for prefix, label, style in SPLITS:
        if prefix + name in columns:
            axes.plot(epochs, [row[prefix + name] for row in history], style,
                      label=label if len(columns) > 1 else None,
                      markersize=3 if len(epochs) > 1 else 6)
    axes.set(xlabel="epoch", ylabel=caption(name))
    set_epoch_ticks(axes, len(epochs))
    axes.grid(alpha=0.3)
    if len(columns) > 1:
        axes.legend(fontsize=9)


def set_epoch_ticks(axes: Axes, epochs: int) -> None:
    """Sets ticks at whole epochs, and centres a single epoch."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if epochs == 1:
        axes.set_xlim(axes.dataLim.x0 - 0.5, axes.dataLim.x1 + 0.5)


def in_words(history: Sequence[Row], name: str) -> str:
    """Describes a curve for an alt text: 'Training loss: from 2.25 to 0.10 in 10
    epochs.'"""
    sentences = []
    for column, label in series(history, name).items():
        first, last = history[0][column], history[-1][column]
        metric = caption(name)
        title = metric if name == "learning_rate" else f"{label} {metric}"
        sentences.append(
            f"{capitalized(title)}: from {first:.3g} to {last:.3g} in "
            f"{len(history)} epoch{'s' * (len(history) != 1)}.")
    return " ".join(sentences)
