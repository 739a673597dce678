"""Draws mistakes of a network: by loss, by class, and probable label errors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.console import counted
from cnn_jax.inspection.draw import drawing
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.classification_metrics import confusion
from cnn_jax.inspection.explain.neighbours import nearest
from cnn_jax.inspection.forward import batch_program
from cnn_jax.inspection.inspected_run import BATCH, InspectedRun
from cnn_jax.inspection.predictions_csv import Suspect, examples_of, suspects
from cnn_jax.inspection.selection import check_labels
from cnn_jax.networks.trace import before_head

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IMAGES = 12       # of a sheet
CELLS, ROW = 6, 6  # rows of a picture; images in a row
# Limits of the search for neighbours: training images, and pixels of them in all, which
# is 2,675 images of 224 x 224.
SEARCHED, SEARCHED_PIXELS = 20_000, 2 ** 27


def error_analysis(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws highest losses, cells of the confusion matrix, neighbours, label errors."""
    check_labels(run)
    if run.task.unit != "image":
        return  # 'mistakes' shows the worst masks
    yield draw_highest_loss(run)
    if not run.task.one_class_per_image:
        return
    order = by_loss(run)
    wrong = order[run.outcome.predicted[order] != run.examples.labels[order]]
    if len(wrong):
        yield draw_cells(run, wrong)
        if "train" in run.splits and run.split != "train" and run.last_layer:
            yield draw_neighbours(run, wrong[:CELLS])
    if errors := suspects(run):
        yield draw_label_errors(run, errors)


def by_loss(run: InspectedRun) -> np.ndarray:
    """Sorts the examples of the split by their loss, the highest first."""
    return np.argsort(-run.outcome.losses, kind="stable")


def draw_highest_loss(run: InspectedRun) -> Picture:
    """Draws the images whose loss is highest."""
    index, (predicted, losses) = by_loss(run)[:IMAGES], (
        run.outcome.predicted, run.outcome.losses)
    labels = run.examples.labels
    known = " The network was trained on them." * (run.split == "train")
    fraction = losses[index].sum() / max(losses.sum(), np.finfo(np.float32).tiny)
    return Picture(
        "highest_loss", "Highest loss",
        f"The images of the {run.split} split with the highest loss, {fraction:.0%} of "
        f"the loss of all {len(losses):,}.{known} Above each image: its index and "
        "loss, then the truth and the prediction.",
        f"Losses from {losses[index[0]]:.3g} to {losses[index[-1]]:.3g}; the median of "
        f"the split is {np.median(losses):.3g}.",
        drawing.sheet(run.examples.images[index], [
            (f"{i}: loss {losses[i]:.3g}",
             f"{run.label_text(labels[i])} as {run.label_text(predicted[i])}")
            for i in index]), {"index": index, "loss": losses[index]})


def draw_cells(run: InspectedRun, wrong: np.ndarray) -> Picture:
    """Draws the largest cells off the diagonal of the confusion matrix, a row for each.

    wrong: indices of the mistakes, in the order in which the images are shown.
    """
    labels, predicted = run.examples.labels, run.outcome.predicted
    classes = 1 + int(max(labels.max(), predicted.max()))
    table = confusion(labels[wrong], predicted[wrong], classes)
    largest = np.argsort(-table, axis=None, kind="stable")[:CELLS]
    cells = [(i, j) for i, j in zip(*np.unravel_index(largest, table.shape))
             if table[i, j]]
    counts = np.bincount(labels, minlength=classes)
    shown = [wrong[(labels[wrong] == i) & (predicted[wrong] == j)][:ROW]
             for i, j in cells]
    figure = rows_of_images(
        run, [run.examples.images[index] for index in shown],
        [f"{run.class_name(i)}\nas {run.class_name(j)}\n{table[i, j]} of {counts[i]}"
         for i, j in cells], [[str(k) for k in index] for index in shown])
    return Picture(
        "confusion_cells", "Most frequent confusions",
        "The largest cells off the diagonal of the confusion matrix of the "
        f"{run.split} split, with the number of images of the class that are in them. "
        "Above each image is its index; the highest loss comes first.",
        "; ".join(f"{run.class_name(i)} as {run.class_name(j)} {table[i, j]} of "
                  f"{counts[i]}" for i, j in cells) + ".", figure,
        {"cells": np.array(cells), "counts": table[tuple(np.transpose(cells))],
         "index": np.concatenate(shown)})


def draw_neighbours(run: InspectedRun, queries: np.ndarray) -> Picture:
    """Draws the training images with the features nearest to those of some mistakes."""
    train, labels = run.splits["train"], run.examples.labels
    height, width = train.images.shape[1:3]
    limit = min(SEARCHED, max(ROW, SEARCHED_PIXELS // (height * width)))
    searched = np.unique(np.linspace(
        0, len(train.labels) - 1, min(limit, len(train.labels))).astype(int))
    images = run.examples.images[queries]
    compute = batch_program(mean_features, run.network, run.variables, run.scaling,
                            min(BATCH, max(len(searched), len(queries))))
    blocks = np.split(searched, range(BATCH, len(searched), BATCH))
    features = np.concatenate([
        compute(train.images[block]) for block in run.track("training images", blocks)])
    rows, similarity = nearest(compute(images), features, ROW - 1)
    rows = searched[rows]
    total = len(train.labels)
    number = "all" if len(searched) == total else f"{len(searched):,} of the"
    figure = rows_of_images(
        run, [np.concatenate([image[None], train.images[neighbours]])
              for image, neighbours in zip(images, rows)],
        [f"{run.split} {i}\n{run.label_text(labels[i])}\nas "
         f"{run.label_text(run.outcome.predicted[i])}" for i in queries],
        [["", *(f"{drawing.fit(run.label_text(train.labels[k]), 12)}\n{value:.2f}"
                for k, value in zip(neighbours, values))]
         for neighbours, values in zip(rows, similarity)])
    return Picture(
        "neighbours", "Nearest training images",
        f"The mistakes of the {run.split} split with the highest loss, and beside each "
        f"the training images whose features before the last layer are nearest, out of "
        f"{number} {total:,}. Above them: their label and the cosine "
        "similarity.",
        "; ".join(f"{run.label_text(labels[i])} beside " + ", ".join(
            run.label_text(train.labels[k]) for k in neighbours)
            for i, neighbours in zip(queries, rows)) + ".", figure,
        {"index": queries, "neighbours": rows, "similarity": similarity})


def mean_features(network: nn.Module, variables: dict, images: jax.Array) -> jax.Array:
    """Computes the input of the last layer, averaged over positions, [N, F]."""
    features = before_head(network, variables, images)
    return features.mean(tuple(range(1, features.ndim - 1)))


def draw_label_errors(run: InspectedRun, errors: list[Suspect]) -> Picture:
    """Draws the images whose labels are most probably wrong."""
    shown = errors[:IMAGES]
    images = np.stack([examples_of(run, split).images[i] for split, i, _ in shown])
    names = [run.label_text(examples_of(run, split).labels[i]) for split, i, _ in shown]
    total = sum(len(outcome.losses) for outcome in run.outcomes.values())
    accuracy = sum((outcome.predicted == examples_of(run, split).labels).sum()
                   for split, outcome in run.outcomes.items()) / total
    doubt = ("" if accuracy > 0.5 else " That is too few: most of what follows is a "
             "mistake of the network, not of a label. Train a better one first.")
    return Picture(
        "label_errors", "Probable label errors",
        f"The network predicts {accuracy:.0%} of these images correctly.{doubt} "
        f"{counted(len(errors), 'label')} of {total:,} of the "
        f"{' and '.join(run.outcomes)} split{'s' * (len(run.outcomes) > 1)} "
        "may be wrong, by confident learning: another class is predicted, with at "
        "least its mean probability among the images with that label. The network was "
        "not trained on these images. Above each: its label and the class that it may "
        "be.",
        "; ".join(f"{split} {i} is labelled {label} and may be {run.class_name(j)}"
                  for label, (split, i, j) in zip(names, shown)) + ".",
        drawing.sheet(images, [
            (f"{split} {i}: {label}", f"may be {run.class_name(j)}")
            for label, (split, i, j) in zip(names, shown)]),
        {"index": np.array([i for _, i, _ in shown]),
         "suggested": np.array([j for _, _, j in shown])})


def rows_of_images(run: InspectedRun, images: list[np.ndarray], labels: list[str],
                   titles: list[list[str]]) -> Figure:
    """Draws rows of at most `ROW` images, a label beside each, a title above each."""
    height, width = run.examples.images.shape[1:3]
    lines = 1 + max(title.count("\n") for row in titles for title in row)
    cell = 1.1 + 0.13 * lines  # inches, with the title
    figure, axes = drawing.grid(len(images), ROW, cell, 1.1 / cell * width / height,
                                left=1.2, top=0.2)
    for row, pixels, label, above in zip(axes, images, labels, titles):
        for axis in row[len(pixels):]:
            axis.set_axis_off()
        for axis, image, title in zip(row, pixels, above):
            drawing.image(axis, image)
            axis.set_title(title, fontsize=7, pad=2)
        drawing.label_row(row[0], label)
    return figure
