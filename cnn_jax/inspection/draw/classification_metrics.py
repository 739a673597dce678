"""How right a trained network is on one part of the data: the pictures."""

from collections.abc import Iterator

import numpy as np

from cnn_jax.inspection.draw.contact_sheet import legend, show
from cnn_jax.inspection.draw.drawing import fit
from cnn_jax.inspection.draw.overlays import draw_panels, name_panels, panels
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.classification_metrics import (Quality,
                                                               calibration_error,
                                                               confident_mistakes,
                                                               image_ious, measure)
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject

MISTAKES, COLUMNS = 12, 3
WORST = 6       # of the images with masks
NUMBERED = 20   # classes whose counts are written into the matrix
CELL = 0.32     # inches of the matrix


def quality(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """Confusion matrix, calibration curve and the worst mistakes of the whole part."""
    figures = measure(subject)
    yield draw_confusion(figures)
    yield draw_calibration(figures)
    yield (draw_worst_masks if figures.unit == "pixel" else draw_mistakes)(subject)


def draw_confusion(quality: Quality) -> Picture:
    """Rows are true classes, columns predicted ones; the colour is the row's share."""
    # Imported here, as below: matplotlib takes a second, and few modes draw.
    from matplotlib.figure import Figure

    table, names = quality.confusion, quality.class_names
    classes = len(names)
    cell = CELL if classes <= NUMBERED else max(0.09, 9 / classes)
    shares = table / np.maximum(table.sum(1, keepdims=True), 1)
    ticks = np.arange(0, classes, max(1, -(-classes // 40)))
    words = [fit(names[i]) for i in ticks]
    upright = max(map(len, words)) > 3
    margin = 0.06 * max(map(len, words))  # inches that the names take
    figure = Figure(figsize=(max(3.6, cell * classes + 1.5 + margin),
                             max(3.2, cell * classes + 0.8 + margin * upright)),
                    layout="constrained")
    axes = figure.subplots()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.7, aspect=30,
                    label="share of the true class")
    axes.set_xticks(ticks, words, rotation=90 if upright else 0, fontsize=8)
    axes.set_yticks(ticks, words, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    if classes <= NUMBERED:
        for i, j in np.argwhere(table):
            axes.text(j, i, short(table[i, j]), ha="center", va="center", fontsize=7,
                      color="white" if shares[i, j] > 0.5 else "black")
    return Picture(
        "confusion", "Confusion matrix",
        f"Every {quality.unit} of the {quality.part} part by its true class (row) and "
        "the class the network names (column); what is off the diagonal is wrong.",
        confusion_in_words(quality), figure, {"confusion": table})


def short(count: int) -> str:
    """A count that fits a cell: 9400, 12k, 3.4M."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 10**6 else f"{count / 1e6:.3g}M"


def confusion_in_words(quality: Quality, most: int = 3) -> str:
    """'351 of 359 images are right. Most often wrong: 8 taken for 1 3 times, ...'"""
    table, names = quality.confusion, quality.class_names
    words = (f"{np.trace(table):,} of {table.sum():,} {quality.unit}s of the "
             f"{quality.part} part are right.")
    wrong = table - np.diag(np.diag(table))
    order = np.argsort(-wrong, axis=None, kind="stable")[:most]
    pairs = zip(*np.unravel_index(order, wrong.shape))
    said = [f"{names[i]} taken for {names[j]} "
            + ("once" if wrong[i, j] == 1 else f"{wrong[i, j]:,} times")
            for i, j in pairs if wrong[i, j]]
    return words + (f" Most often wrong: {', '.join(said)}." if said else "")


def draw_calibration(quality: Quality) -> Picture:
    """The share of right answers over the probability that the network gives them."""
    from matplotlib.figure import Figure

    count, probability, right = quality.bins.T
    size = len(count)
    edges = np.arange(size + 1) / size
    filled = count > 0
    shares = np.divide(right, count, out=np.zeros(size), where=filled)
    error = calibration_error(quality.bins)
    figure = Figure(figsize=(4.5, 4.4), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(edges[:-1][filled], shares[filled], 1 / size, align="edge",
              color="#8fb8de", edgecolor="#1f4e79")
    upper.plot(probability[filled] / count[filled], shares[filled], "o",
               color="#1f4e79", markersize=3)
    upper.plot([0, 1], [0, 1], "k--", linewidth=1)
    upper.set(ylabel="share that is right", ylim=(0, 1.02), xlim=(0, 1),
              title=f"ECE {error:.4f}")
    lower.bar(edges[:-1], count, 1 / size, align="edge", color="0.6", edgecolor="0.3")
    lower.set_yscale("symlog", linthresh=1)
    powers = 10 ** np.arange(int(np.log10(count.max())) + 1)
    lower.set_yticks([0, *powers[::-1][::2 if len(powers) > 3 else 1]])
    lower.set(xlabel="probability of the predicted class", ylabel=f"{quality.unit}s")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    certain = probability.sum() / count.sum()
    accuracy = right.sum() / count.sum()
    return Picture(
        "calibration", "Calibration",
        "Where the bars lie under the dashed line the network is surer than it is "
        "right. The expected calibration error (ECE) is their mean distance from it, "
        f"weighted by the number of {quality.unit}s below (a logarithmic scale).",
        f"The expected calibration error is {error:.4f}: the network is sure of its "
        f"answers to {certain:.1%} on average, and {accuracy:.1%} are right.",
        figure, {"bins": quality.bins})


def draw_mistakes(subject: Subject) -> Picture:
    """The wrong answers that the network was surest of."""
    from matplotlib.figure import Figure

    examples, (predicted, confidence) = subject.examples, subject.answers
    places = confident_mistakes(examples.labels, predicted, confidence, MISTAKES)
    wrong = int((examples.labels != predicted).sum())
    rows = max(1, -(-len(places) // COLUMNS))
    figure = Figure(figsize=(4.5, 1.85 * rows + 0.1), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    said = []
    for axes, place in zip(grid, places):
        truth, answer = (subject.class_name(int(labels[place]))
                         for labels in (examples.labels, predicted))
        show(axes, examples.images[place], 0)
        axes.set_title(f"says {fit(answer)} ({confidence[place]:.0%})\n"
                       f"is {fit(truth)}", fontsize=8)
        said.append(f"{truth} taken for {answer} ({confidence[place]:.1%})")
    for axes in grid[len(places):]:
        axes.set_axis_off()
    if not len(places):
        grid[0].text(0, 0.5, f"no mistakes in {len(predicted):,} images", va="center")
    return Picture(
        "mistakes", "Most confident mistakes",
        f"Of {wrong:,} mistakes in the {len(predicted):,} images of the {subject.part} "
        "part, those that the network was surest of: above each image what it says and "
        "how sure it is, below that what it is.",
        f"{wrong:,} of {len(predicted):,} images are wrong. "
        + (f"The surest: {'; '.join(said)}." if said else ""), figure,
        {"index": places, "labels": examples.labels[places],
         "predicted": predicted[places], "confidence": confidence[places]})


def draw_worst_masks(subject: Subject) -> Picture:
    """The images whose masks the network gets most wrong."""
    from matplotlib.figure import Figure

    images, labels = subject.examples
    predicted, _ = subject.answers
    ious = image_ious(labels, predicted)
    places = np.argsort(ious, kind="stable")[:WORST]
    rows = [panels(images[i], predicted[i], labels[i]) for i in places]
    figure = Figure(figsize=(6.0, 1.45 * len(rows) + 0.7), layout="constrained")
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    name_panels(grid[0], rows[0])
    for axes, row, place in zip(grid, rows, places):
        draw_panels(axes, row)
        axes[0].set_ylabel(f"IoU {ious[place]:.2f}", fontsize=8)
    legend(figure, subject.class_names)
    return Picture(
        "mistakes", "Worst images",
        f"Of the {len(images):,} images of the {subject.part} part, those with the "
        "lowest mean IoU over the classes in the image or its prediction.",
        f"The {len(places)} images with the lowest mean IoU, from "
        f"{ious[places[0]]:.2f} to {ious[places[-1]]:.2f}; the median of all images is "
        f"{np.median(ious):.2f}.", figure,
        {"index": places, "iou": ious[places], "predicted": predicted[places]})
