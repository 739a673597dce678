"""Draws how well a trained network classifies one split of the data."""

from collections.abc import Iterator

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw.drawing import (fit, legend, new_figure, sheet,
                                             text_width)
from cnn_jax.inspection.draw.overlays import draw_panels, name_panels, panels
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.classification_metrics import (
    ClassificationMetrics, MetricsFile, calibration_error, class_scores,
    confident_mistakes, image_ious, measure, measure_multilabel)
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import NotForThisNetwork, check_labels

MISTAKES = 12
WORST = 6       # images with masks
NUMBERED = 20   # classes; with more of them, the matrix shows no counts
CELL, SIDE = 0.32, 9  # inches: a cell of the matrix; the largest matrix


def metrics(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws confusion matrix (or scores of the classes), calibration and mistakes."""
    check_labels(run)
    if run.task.figures == "values":
        raise NotForThisNetwork("it is for classes, and the network predicts numbers")
    measured = measure_run(run)
    if measured.confusion is None:
        yield draw_class_scores(measured)
    else:
        yield draw_confusion(measured)
    yield draw_calibration(measured)
    yield draw_worst_masks(run) if measured.unit == "pixel" else draw_mistakes(run)


def measure_run(run: InspectedRun) -> ClassificationMetrics:
    """Measures the split of the data that the explained images come from."""
    labels = run.examples.labels
    predicted, probability = run.predictions
    if not run.task.exclusive:
        labels = pad_classes(labels, predicted.shape[1])
        names = tuple(map(run.class_name, range(predicted.shape[1])))
        return measure_multilabel(labels, predicted, probability, names, run.split,
                                  run.step)
    classes = max(len(run.class_names), int(predicted.max()) + 1)
    return measure(labels, predicted, probability,
                   tuple(map(run.class_name, range(classes))), run.split, run.step,
                   run.task.unit)


def pad_classes(labels: np.ndarray, classes: int) -> np.ndarray:
    """Adds classes that never occur, if the head has more outputs than classes."""
    return np.pad(labels, ((0, 0), (0, classes - labels.shape[1])))


def draw_confusion(metrics: ClassificationMetrics) -> Picture:
    """Draws true classes as rows and predicted classes as columns.

    The colour of a cell is its fraction of the row.
    """
    table, names = metrics.confusion, metrics.class_names
    assert table is not None
    classes = len(names)
    cell = min(CELL, SIDE / classes)
    fractions = table / np.maximum(table.sum(1, keepdims=True), 1)
    ticks = np.arange(0, classes, max(1, -(-classes // 40)))
    labels = [fit(names[i]) for i in ticks]
    margin = max(text_width(label, 8) for label in labels)  # inches
    upright = margin > CELL
    figure = new_figure(max(3.6, cell * classes + 1.5 + margin),
                        max(3.2, cell * classes + 0.8 + margin * upright))
    axes = figure.subplots()
    picture = axes.imshow(fractions, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(picture, ax=axes, shrink=0.7, aspect=30,
                    label="fraction of the true class")
    axes.set_xticks(ticks, labels, rotation=90 if upright else 0, fontsize=8)
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.set(xlabel="predicted class", ylabel="true class")
    if classes <= NUMBERED:
        for i, j in np.argwhere(table):
            axes.text(j, i, short(table[i, j]), ha="center", va="center", fontsize=7,
                      color="white" if fractions[i, j] > 0.5 else "black")
    return Picture(
        "confusion", "Confusion matrix",
        f"Every {metrics.unit} of the {metrics.split} split by its true class (row) "
        "and its predicted class (column). Predictions off the diagonal are wrong.",
        describe_confusion(metrics), figure, {"confusion": table})


def short(count: int) -> str:
    """Shortens a count to fit a cell: 9400, 12k, 3.4M."""
    if count < 10_000:
        return str(count)
    return f"{count / 1e3:.0f}k" if count < 10**6 else f"{count / 1e6:.3g}M"


def describe_correct(metrics: ClassificationMetrics | MetricsFile) -> str:
    """Returns '351 of 359 images of the test split are predicted correctly'."""
    return (f"{metrics.correct:,} of {metrics.examples:,} {metrics.unit}s of the "
            f"{metrics.split} split are predicted correctly"
            + (" in every class" if metrics.confusion is None else ""))


def describe_confusion(metrics: ClassificationMetrics) -> str:
    """Writes the number of correct predictions and the most frequent mistakes."""
    table, names = metrics.confusion, metrics.class_names
    assert table is not None
    wrong = table - np.diag(np.diag(table))
    order = np.argsort(-wrong, axis=None, kind="stable")[:3]
    pairs = zip(*np.unravel_index(order, wrong.shape))
    mistakes = [f"{names[i]} as {names[j]} ({wrong[i, j]:,})" for i, j in pairs
                if wrong[i, j]]
    return f"{describe_correct(metrics)}." + (
        f" Most frequent mistakes: {', '.join(mistakes)}." if mistakes else "")


def draw_class_scores(metrics: ClassificationMetrics) -> Picture:
    """Draws precision, recall and average precision of each class as bars."""
    assert metrics.average_precision is not None
    scores = class_scores(metrics.counts)
    bars = {"precision": scores["precision"], "recall": scores["recall"],
            "average precision": metrics.average_precision}
    classes = len(metrics.class_names)
    figure = new_figure(4.5, 0.4 * classes + 1.2)
    axes = figure.subplots()
    for i, (name, values) in enumerate(bars.items()):
        axes.barh(np.arange(classes) + 0.27 * (i - 1), np.nan_to_num(values), 0.25,
                  label=name, color=("#8fb8de", "#1f4e79", "#d55e00")[i])
    axes.set_yticks(range(classes), map(fit, metrics.class_names), fontsize=8)
    axes.set(xlim=(0, 1), ylim=(classes - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    return Picture(
        "class_scores", "Scores of the classes",
        f"On the {metrics.split} split. Precision: the fraction of correct "
        "predictions among the images that are predicted to have the class. Recall: "
        "the fraction of the images of the class that are found. Average precision "
        "(AP): the area under the precision-recall curve. A missing bar is 0 or "
        "0 / 0.",
        f"{describe_correct(metrics)}. Average precision: " + ", ".join(
            f"{name} {value:.3f}" for name, value in zip(
                metrics.class_names, metrics.average_precision)) + ".", figure, bars)


def draw_calibration(metrics: ClassificationMetrics) -> Picture:
    """Draws the fraction of correct predictions for each range of probability."""
    count, probability, correct = metrics.bins.T
    size = len(count)
    edges = np.arange(size + 1) / size
    filled = count > 0
    fractions = np.divide(correct, count, out=np.zeros(size), where=filled)
    error = calibration_error(metrics.bins)
    exclusive = metrics.confusion is not None
    counted = f"{metrics.unit}s" if exclusive else "classes of images"
    figure = new_figure(4.5, 4.4)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.bar(edges[:-1][filled], fractions[filled], 1 / size, align="edge",
              color="#8fb8de", edgecolor="#1f4e79")
    upper.plot(probability[filled] / count[filled], fractions[filled], "o",
               color="#1f4e79", markersize=3)
    upper.plot([0, 1], [0, 1], "k--", linewidth=1)
    upper.set(ylabel="fraction correct" if exclusive else "fraction present",
              ylim=(0, 1.02), xlim=(0, 1), title=f"ECE {error:.4f}")
    lower.bar(edges[:-1], count, 1 / size, align="edge", color="0.6", edgecolor="0.3")
    lower.set_yscale("symlog", linthresh=1)
    powers = 10 ** np.arange(int(np.log10(count.max())) + 1)
    lower.set_yticks([0, *powers[::-1][::2 if len(powers) > 3 else 1]])
    lower.set(xlabel=f"probability of {'the predicted' if exclusive else 'a'} class",
              ylabel=counted)
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
    mean = probability.sum() / count.sum()
    fraction = correct.sum() / count.sum()
    return Picture(
        "calibration", "Calibration",
        "Where the bars end below the dashed line, the network is overconfident. The "
        "expected calibration error (ECE) is their mean distance from the line, "
        f"weighted by the number of {counted}, which the lower plot shows on a "
        "logarithmic scale.",
        f"The expected calibration error is {error:.4f}: the mean probability is "
        f"{mean:.1%}, and {fraction:.1%} are {'correct' if exclusive else 'present'}.",
        figure, {"bins": metrics.bins})


def mistakes_of(run: InspectedRun) -> tuple[np.ndarray, np.ndarray]:
    """Returns (whether each image is predicted correctly, confidence of its mistake).

    If an image has mistakes in several classes, the most confident one counts.
    """
    labels = run.examples.labels
    predicted, probability = run.predictions
    if run.task.exclusive:
        return labels == predicted, probability
    labels = pad_classes(labels, predicted.shape[1])
    wrong = labels != predicted
    confidence = np.where(predicted > 0, probability, 1 - probability)
    return ~wrong.any(1), np.where(wrong, confidence, 0).max(1)


def draw_mistakes(run: InspectedRun) -> Picture:
    """Draws the images with the most confident wrong predictions."""
    examples, (predicted, _) = run.examples, run.predictions
    correct, confidence = mistakes_of(run)
    index = confident_mistakes(correct, confidence, MISTAKES)
    wrong, total = int((~correct).sum()), len(correct)
    lines = [f"{run.label_text(examples.labels[i])} as "
             f"{run.label_text(predicted[i])} ({confidence[i]:.1%})" for i in index]
    figure = sheet(examples.images[index], [
        (f"{confidence[i]:.0%} {run.label_text(predicted[i])}",
         f"is {run.label_text(examples.labels[i])}") for i in index])
    if not len(index):
        figure.axes[0].text(0, 0.5, f"no mistakes in {total:,} images", va="center")
    return Picture(
        "mistakes", "Most confident mistakes",
        f"{wrong:,} of the {total:,} images of the {run.split} split are predicted "
        "wrongly. These are the ones that the network was most confident about. Above "
        "each image: the confidence and the prediction, then the truth.",
        f"{wrong:,} of {total:,} images are predicted wrongly. "
        + (f"The most confident: {'; '.join(lines)}." if lines else ""), figure,
        {"index": index, "labels": examples.labels[index],
         "predicted": predicted[index], "confidence": confidence[index]})


def draw_worst_masks(run: InspectedRun) -> Picture:
    """Draws the images with the lowest mean IoU."""
    images, labels = run.examples
    predicted, _ = run.predictions
    ious = image_ious(labels, predicted)
    index = np.argsort(ious, kind="stable")[:WORST]
    rows = [panels(images[i], predicted[i], labels[i]) for i in index]
    figure = new_figure(6.0, 1.45 * len(rows) + 0.7)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False)
    name_panels(grid[0], rows[0])
    for axes, row, i in zip(grid, rows, index):
        draw_panels(axes, row)
        axes[0].set_ylabel(f"IoU {ious[i]:.2f}", fontsize=8)
    legend(figure, run.class_names)
    return Picture(
        "mistakes", "Worst images",
        f"The images with the lowest mean IoU among the {len(images):,} of the "
        f"{run.split} split. The mean is over the classes in the image or in its "
        "prediction.",
        f"The {len(index)} images with the lowest mean IoU, from {ious[index[0]]:.2f} "
        f"to {ious[index[-1]]:.2f}; the median of all images is {np.median(ious):.2f}.",
        figure, {"index": index, "iou": ious[index], "predicted": predicted[index]})
