"""Curves of a run over its epochs, drawn by matplotlib without a display."""

from collections.abc import Sequence

import numpy as np

from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject

CURVES = {"loss": "loss", "accuracy": "accuracy", "mean_iou": "mean IoU",
          "learning_rate": "learning rate"}  # column of the history -> words
PARTS = (("", "training", "o-"), ("val_", "validation", "s--"))


def of_run(subject: Subject, settings: Settings) -> list[Picture]:
    return [learning_curves(subject.history)]


def learning_curves(history: Sequence[dict]) -> Picture:
    """Loss and accuracy (and mean IoU) of training and validation, side by side.

    history: a row an epoch, as in history.csv.
    """
    # Imported here, as below: matplotlib takes a second, and few modes draw.
    from matplotlib.figure import Figure

    names = [name for name in ("loss", "accuracy", "mean_iou")
             if series(history, name)]
    figure = Figure(figsize=(4.5 * len(names), 3.6), layout="constrained")
    for axes, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names):
        draw(axes, history, name)
    return Picture(
        "learning_curves", "Learning curves",
        "After every epoch. The training figures are means over the epoch while the "
        "parameters still change, with augmentation and dropout where there are any.",
        " ".join(in_words(history, name) for name in names), figure,
        arrays(history, names))


def curves(history: Sequence[dict], best_epoch: int | None = None) -> list[Picture]:
    """A picture for each quantity, narrow enough for a phone.

    best_epoch: is marked.
    """
    from matplotlib.figure import Figure

    pictures = []
    for name, words in CURVES.items():
        if not series(history, name):
            continue
        figure = Figure(figsize=(4.5, 3.0), layout="constrained")
        axes = figure.subplots()
        draw(axes, history, name)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.4", linestyle=":", linewidth=1.2,
                         label=f"best epoch, {best_epoch}")
        axes.legend(fontsize=9)
        pictures.append(Picture(
            f"curve_{name}", words[0].upper() + words[1:], "",
            in_words(history, name), figure, arrays(history, [name])))
    return pictures


def series(history: Sequence[dict], name: str) -> dict[str, str]:
    """{column of the history: its label} of the parts that have this quantity."""
    return {prefix + name: label for prefix, label, _ in PARTS
            if history and prefix + name in history[0]}


def arrays(history: Sequence[dict], names: Sequence[str]) -> dict[str, np.ndarray]:
    columns = ["epoch", *(column for name in names for column in series(history, name))]
    return {column: np.array([row[column] for row in history]) for column in columns}


def draw(axes, history: Sequence[dict], name: str) -> None:
    """The curves of one quantity, of training and of validation."""
    from matplotlib.ticker import MaxNLocator

    epochs = [row["epoch"] for row in history]
    columns = series(history, name)
    for prefix, label, style in PARTS:
        if prefix + name in columns:
            axes.plot(epochs, [row[prefix + name] for row in history], style,
                      label=label if len(columns) > 1 else None, markersize=3)
    axes.set(xlabel="epoch", ylabel=CURVES[name])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    if len(columns) > 1:
        axes.legend(fontsize=9)


def in_words(history: Sequence[dict], name: str) -> str:
    """'Training loss: from 2.25 to 0.10 in 10 epochs.' and so on, for an alt text."""
    said = []
    for column, label in series(history, name).items():
        first, last = history[0][column], history[-1][column]
        words = CURVES[name] if name == "learning_rate" else f"{label} {CURVES[name]}"
        said.append(f"{words}: from {first:.3g} to {last:.3g} in {len(history)} "
                    f"epoch{'s' * (len(history) != 1)}.")
    return " ".join(words[0].upper() + words[1:] for words in said)
