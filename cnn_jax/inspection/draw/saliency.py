"""Draws saliency maps side by side: which pixels a prediction depends on."""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw import drawing
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.grad_cam import grad_cam
from cnn_jax.inspection.explain.occlusion import occlusion
from cnn_jax.inspection.explain.saliency import (GUIDED, gradient, guided_gradient,
                                                 integrated_gradients, smooth_grad)
from cnn_jax.inspection.forward import compiled
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.selection import chosen_cam_layer, explained_classes
from cnn_jax.layers import Activation

FILLED_FROM = 1000  # images whose mean pixel value fills the squares of occlusion
COMPLETE = 1e-3     # integrated gradients with a smaller error are called complete
# Steps of integrated gradients, times the pixels of an image: 2,000 steps at 64 x 64,
# 163 at 224 x 224, where each step takes longer in the same proportion.
MOST_WORK = 2000 * 64 * 64
METHODS = {"gradient": "gradient", "smooth_grad": "SmoothGrad",
           "integrated_gradients": "integrated\ngradients",
           "guided_gradient": "guided\nbackprop.", "occlusion": "occlusion",
           "grad_cam": "Grad-CAM"}


def saliency(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws the image and a map of each method, in a row for each image."""
    arrays, remarks = explain(run, settings)
    maps = {name: values for name, values in arrays.items() if name in METHODS}
    height, width = run.pixels.shape[1:3]
    figure, axes = drawing.grid(len(run.pixels), 1 + len(maps), cell=1.15,
                                aspect=width / height, left=1.2, top=0.5)
    for row, pixels in enumerate(run.pixels):
        drawing.image(axes[row, 0], pixels)
        drawing.label_row(axes[row, 0], row_label(run, arrays["class"], row))
        for axis, (name, values) in zip(axes[row, 1:], maps.items()):
            if name == "grad_cam":
                drawing.heat_over(axis, pixels, values[row])
            else:
                drawing.signed(axis, values[row], drawing.robust_limit(values[row]))
    axes[0, 0].set_title("image", fontsize=9)
    for axis, name in zip(axes[0, 1:], maps):
        axis.set_title(METHODS[name], fontsize=9)
    worst = float(arrays["completeness_error"].max())
    yield Picture(
        "saliency", "Which pixels the predictions depend on",
        "Red pixels raise the score of the explained class, blue pixels lower it, each "
        "map on its own scale. Bright regions of Grad-CAM support the class. "
        + " ".join(remarks),
        f"{len(run.pixels)} images with {len(maps)} maps each ("
        f"{', '.join(METHODS[name] for name in maps).replace(chr(10), ' ')}). The "
        f"integrated gradients sum up to the change of the score within {worst:.2g}.",
        figure, arrays)


def explain(run: InspectedRun, settings: ConfigDict
            ) -> tuple[dict[str, np.ndarray], list[str]]:
    """Computes the maps of every method [N, H, W], summed over the channels.

    Returns (arrays, sentences that say how the maps were computed). The arrays also
    hold the pixels, the explained classes and the error of the integrated gradients.
    """
    classes = explained_classes(run, settings)
    inputs = (run.network, run.variables, jnp.asarray(run.images), jnp.asarray(classes))
    low, high = run.input_range
    side = settings.window or max(1, round(min(run.images.shape[1:3]) / 8))
    grey = np.full((1, 1, 1, run.pixels.shape[-1]),
                   run.examples.images[:FILLED_FROM].mean())
    layer = chosen_cam_layer(run, settings)
    integrated = integrated_gradients(
        *inputs, baseline=low, tolerance=COMPLETE,
        most_steps=min(2000, MOST_WORK // (run.images.shape[1] * run.images.shape[2])),
        track=functools.partial(run.track, "integrated gradients"))
    computed = {
        "gradient": compiled(gradient)(*inputs),
        "smooth_grad": smooth_grad(
            *inputs, key=jax.random.key(run.config.seed),
            sigma=settings.noise * (high - low), samples=settings.samples,
            track=functools.partial(run.track, "SmoothGrad")),
        "integrated_gradients": integrated.values,
        "guided_gradient": compiled(guided_gradient)(*inputs),
        "occlusion": occlusion(
            *inputs, window=side, fill=run.inputs(grey)[0, 0, 0],
            track=functools.partial(run.track, "occlusion"))}
    if layer:
        computed["grad_cam"] = compiled(
            functools.partial(grad_cam, layer=layer))(*inputs)
    maps = {name: np.asarray(values).sum(-1) if np.ndim(values) > 3
            else np.asarray(values) for name, values in computed.items()}
    error = np.asarray(integrated.error)
    remarks = [
        f"SmoothGrad: {settings.samples} copies with noise of {settings.noise:g} of "
        "the input's range.",
        completeness(float(error.max()), integrated.steps),
        f"Occlusion: squares of {side} x {side} pixels in the mean grey value.",
        f"Grad-CAM: on {layer}." if layer else "Grad-CAM needs a convolution."]
    kinds = {layer.module.kind for layer in run.layers.values()
             if isinstance(layer.module, Activation)}
    if others := sorted(kinds - set(GUIDED)):
        remarks.append("Guided backpropagation does not change the gradients of "
                       f"{', '.join(others)}.")
    return maps | {"pixels": run.pixels, "class": classes,
                   "completeness_error": error}, remarks


def completeness(error: float, steps: int) -> str:
    """Says how integrated gradients were computed, and whether they are complete."""
    method = f"Integrated gradients: from black in {steps} steps, "
    if error <= COMPLETE:
        return method + f"complete within {error:.1g}."
    return method + (f"incomplete: their sum and the change of the score differ by "
                    f"{error:.2g}, more than {COMPLETE:g}.")


def row_label(run: InspectedRun, classes: np.ndarray, row: int) -> str:
    """Writes the label of a row: title, true label, prediction, explained class."""
    lines = [run.titles[row]]
    if run.task.unit == "image":
        scores = run.image_scores[row]
        named = run.task.named_classes(scores, 1)
        if run.labels is not None:
            lines.append(f"is {run.label_text(run.labels[row])}")
        lines.append("predicted " + (", ".join(
            f"{run.class_name(i)} {100 * scores[i]:.0f}%" for i in named) or "none"))
        if named == [classes[row]]:
            return "\n".join(lines)
    return "\n".join([*lines, f"why {run.class_name(int(classes[row]))}?"])
