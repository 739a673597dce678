"""Draws Grad-CAM for the most confident mistakes."""

import dataclasses
import functools
from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw import drawing
from cnn_jax.inspection.draw.classification_metrics import mistakes_of
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.classification_metrics import confident_mistakes
from cnn_jax.inspection.explain.grad_cam import grad_cam
from cnn_jax.inspection.forward import compiled
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import (NotForThisNetwork, check_labels,
                                          chosen_cam_layer)

MISTAKES = 6  # rows


def mistake_maps(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws a mistake in each row: the image, and the regions that support each class.
    """
    check_labels(run)
    if not run.task.one_class_per_image:
        raise NotForThisNetwork("it is for networks with one class for each image")
    index = confident_mistakes(*mistakes_of(run), MISTAKES)
    if not len(index):
        raise NotForThisNetwork(f"no image of the {run.split} split is predicted "
                                "wrongly")
    layer = chosen_cam_layer(run, settings)
    if layer is None:
        raise NotForThisNetwork("Grad-CAM needs a convolution")
    pixels, truth = run.examples.take(index)
    wrong = dataclasses.replace(run, pixels=pixels, labels=truth)
    predicted = run.predictions[0][index]
    cam = compiled(functools.partial(grad_cam, layer=layer))
    maps = {name: np.asarray(cam(run.network, run.variables, jnp.asarray(wrong.images),
                                 jnp.asarray(classes)))
            for name, classes in (("predicted", predicted), ("true", truth))}
    height, width = pixels.shape[1:3]
    figure, axes = drawing.grid(len(index), 3, aspect=width / height, left=1.2, top=0.5)
    for row, axis in enumerate(axes):
        drawing.image(axis[0], pixels[row])
        drawing.label_row(axis[0], f"{run.label_text(truth[row])}\nas "
                                f"{run.label_text(predicted[row])}")
        for column, values in zip(axis[1:], maps.values()):
            drawing.heat_over(column, pixels[row], values[row])
    for axis, title in zip(axes[0], ("image", "predicted class", "true class")):
        axis.set_title(title, fontsize=9)
    yield Picture(
        "mistake_maps", "Grad-CAM of the most confident mistakes",
        f"Grad-CAM on {layer} for the most confident mistakes of the {run.split} "
        "split: bright regions support the class of the column.",
        f"{len(index)} mistakes, each with the regions that support the predicted and "
        "the true class.", figure, maps | {"index": index})
