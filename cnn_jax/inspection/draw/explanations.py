"""Every way to ask which pixels an answer rests on, side by side."""

import functools
from collections.abc import Iterator

import jax
import numpy as np

from cnn_jax.inspection.draw import drawing
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.saliency import (GUIDED, compiled, grad_cam, gradient,
                                                 guided_gradient, integrated_gradients,
                                                 occlusion, smooth_grad)
from cnn_jax.inspection.explain.selection import chosen_cam_layer, explained_classes
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject
from cnn_jax.layers import Activation

FILLED_FROM = 1000  # images whose mean pixel hides the others
COMPLETE = 1e-3     # the largest error of integrated gradients that are called so


def saliency(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """A row for each image: the image, and a map for each method."""
    arrays, remarks = explain(subject, settings)
    maps = {name: values for name, values in arrays.items() if name in METHODS}
    height, width = subject.pixels.shape[1:3]
    figure, axes = drawing.grid(len(subject.pixels), 1 + len(maps), cell=1.15,
                                aspect=width / height, left=1.2, top=0.5)
    for row, pixels in enumerate(subject.pixels):
        drawing.image(axes[row, 0], pixels)
        drawing.beside(axes[row, 0], words(subject, arrays["class"], row))
        for one, (name, values) in zip(axes[row, 1:], maps.items()):
            if name == "grad_cam":
                drawing.heat_over(one, pixels, values[row])
            else:
                drawing.signed(one, values[row], drawing.outliers_cut(values[row]))
    axes[0, 0].set_title("image", fontsize=9)
    for one, name in zip(axes[0, 1:], maps):
        one.set_title(METHODS[name], fontsize=9)
    worst = float(arrays["completeness_error"].max())
    yield Picture(
        "saliency", "Which pixels the answers rest on",
        "Red pixels raise the score of the explained class, blue ones lower it, each "
        "map on its own scale; bright parts of Grad-CAM spoke for the class. "
        + " ".join(remarks),
        f"{len(subject.pixels)} images with {len(maps)} maps each ("
        f"{', '.join(METHODS[name] for name in maps).replace(chr(10), ' ')}). The "
        f"integrated gradients sum up to the change of the score within {worst:.2g}.",
        figure, arrays)


METHODS = {"gradient": "gradient", "smooth_grad": "SmoothGrad",
           "integrated_gradients": "integrated\ngradients",
           "guided_gradient": "guided\nbackprop.", "occlusion": "occlusion",
           "grad_cam": "Grad-CAM"}


def explain(subject: Subject, settings: Settings
            ) -> tuple[dict[str, np.ndarray], list[str]]:
    """(the maps of every method, [N, H, W] summed over the channels, the explained
    classes, the error of the integrated gradients; sentences about how)."""
    network, variables, images = subject.network, subject.variables, subject.images
    classes = explained_classes(subject, settings)
    asked = (network, variables, images, classes)
    low, high = subject.range
    side = settings.window or max(1, round(min(images.shape[1:3]) / 8))
    grey = float(subject.examples.images[:FILLED_FROM].mean())
    layer = chosen_cam_layer(subject, settings)
    integrated = integrated_gradients(
        *asked, baseline=low, tolerance=COMPLETE,
        track=lambda xs: subject.track("integrated gradients", xs))
    found = {
        "gradient": compiled(gradient)(*asked),
        "smooth_grad": smooth_grad(
            *asked, key=jax.random.key(subject.config.seed),
            sigma=settings.noise * (high - low), samples=settings.samples,
            track=lambda xs: subject.track("SmoothGrad", xs)),
        "integrated_gradients": integrated.values,
        "guided_gradient": compiled(guided_gradient)(*asked),
        "occlusion": occlusion(
            *asked, window=side, fill=float(subject.inputs(np.array(grey))),
            track=lambda xs: subject.track("occlusion", xs))}
    if layer:
        on_layer = functools.partial(grad_cam, layer=layer)
        found["grad_cam"] = compiled(on_layer)(*asked)
    maps = {name: np.asarray(values).sum(-1) if np.ndim(values) > 3
            else np.asarray(values) for name, values in found.items()}
    error = np.asarray(integrated.error)
    kinds = {one.module.kind for one in subject.layers.values()
             if isinstance(one.module, Activation)}
    remarks = [
        f"SmoothGrad: {settings.samples} copies with noise of {settings.noise:g} of "
        "the input's range.",
        completeness(float(error.max()), integrated.steps),
        f"Occlusion: squares of {side} x {side} pixels in the mean grey.",
        f"Grad-CAM: on {layer}." if layer else "Without convolution no Grad-CAM."]
    others = sorted(kinds - set(GUIDED))
    if others:
        remarks.append("Guided backpropagation passes gradients through "
                       f"{', '.join(others)} as they are.")
    return maps | {"pixels": subject.pixels, "class": classes,
                   "completeness_error": error}, remarks


def completeness(error: float, steps: int) -> str:
    """How integrated gradients were found, and whether they are what they should be."""
    begin = f"Integrated gradients: from black in {steps} steps, "
    if error <= COMPLETE:
        return begin + f"complete within {error:.1g}."
    return begin + (f"incomplete: their sum and the change of the score are {error:.2g}"
                    f" apart, over the {COMPLETE:g} aimed at.")


def words(subject: Subject, classes: np.ndarray, row: int) -> str:
    """Beside an image: which it is, its true class, the answer, what is explained."""
    said = [subject.titles[row]]
    logits, name = subject.image_logits[row], subject.class_name
    if logits.ndim > 1:
        return "\n".join([*said, f"why {name(classes[row])}?"])
    probabilities = np.exp(logits - logits.max())
    answer = int(probabilities.argmax())
    share = 100 * probabilities[answer] / probabilities.sum()
    if subject.labels is not None:
        said.append(f"is {name(int(subject.labels[row]))}")
    said.append(f"said {name(answer)}, {share:.0f}%")
    if classes[row] != answer:
        said.append(f"why {name(int(classes[row]))}?")
    return "\n".join(said)
