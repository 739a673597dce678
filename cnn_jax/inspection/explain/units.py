"""Weights, activations and dead units of a trained network, layer by layer."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax.networks.named_layers import kernel_of
from cnn_jax.networks.trace import Call, trace
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject
from cnn_jax.layers import ACTIVATIONS, Activation

SAMPLE = 256         # images that activations are measured on
PER_IMAGE = 64       # activations of a layer that are kept of each of them
MOST_WEIGHTS = 100_000   # of a layer that go into its histogram
PANELS, COLUMNS = 24, 3  # histograms in a picture
DEAD = 1e-6          # the largest slope of a dead unit
BARS = 40            # layers in the picture of dead units


def weights(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """Histograms of the kernels."""
    values = kernels(subject)
    yield Picture(
        "weights", "Weights",
        "How the values of each layer's kernel are distributed, with their standard "
        "deviation." + left_out(values), spread_in_words(values, "kernel"),
        histograms(values, lambda name: f"sd {deviation(values[name]):.2g}"), values)


def units(subject: Subject, settings: Settings) -> Iterator[Picture]:
    """Histograms of what the activation functions give, and dead units."""
    found = subject.over(subject.examples.images[:SAMPLE], watch_activations)
    if not found:
        return
    found = {name: found[name] for name in subject.layers if name in found}
    images = (f"{min(SAMPLE, len(subject.examples.images))} images of the "
              f"{subject.part} part")
    values = {layer: one["values"].ravel() for layer, one in found.items()}
    yield Picture(
        "activations", "Activations",
        f"What each activation function gives for {images}, {PER_IMAGE} values of each "
        "image. Zeros are left out, as they would hide all else; above is their share."
        + left_out(values), spread_in_words(values, "output"),
        histograms({name: x[x != 0] for name, x in values.items()},
                   lambda name: f"{np.mean(values[name] == 0):.0%} zero"), values)
    yield draw_dead({layer: is_dead(one["slope"]) for layer, one in found.items()},
                    images)


def draw_dead(dead: Mapping[str, np.ndarray], images: str) -> Picture:
    """Bars with the share of dead units, from a bool for each unit of each layer."""
    # Imported here, as below: matplotlib takes a second, and few modes draw.
    from matplotlib.figure import Figure

    layers = deadest(dead)
    figure = Figure(figsize=(4.5, 0.26 * len(layers) + 1.0), layout="constrained")
    axes = figure.subplots()
    shares = [100 * dead[layer].mean() for layer in layers]
    axes.barh(range(len(layers)), shares, color="#8fb8de", edgecolor="#1f4e79")
    for row, (layer, share) in enumerate(zip(layers, shares)):
        axes.text(share, row, f" {dead[layer].sum()} of {dead[layer].size}",
                  va="center", fontsize=8)
    axes.set_yticks(range(len(layers)), layers, fontsize=8)
    axes.set(xlabel="dead units, % of the layer's", xlim=(0, max(*shares, 1) * 1.3),
             ylim=(len(layers) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    total = sum(int(units.sum()) for units in dead.values())
    named = [f"{layer} {units.sum()} of {units.size}" for layer, units in dead.items()
             if units.any()]
    return Picture(
        "dead_units", "Dead units",
        "A unit (a channel, or an output of a dense layer) is dead if no gradient "
        f"passes its activation function in any of {images}, at any position: its "
        f"slope is at most {DEAD:g} everywhere. A dead ReLU gives zero, a dead sigmoid "
        "or tanh is saturated." + ("" if len(layers) == len(dead) else
                                   f" The {BARS} of {len(dead)} layers with most."),
        f"{total} units of {sum(units.size for units in dead.values()):,} are dead"
        + (f": {', '.join(named)}." if named else "."), figure, dict(dead))


def deadest(dead: Mapping[str, np.ndarray]) -> list[str]:
    """All layers, or the `BARS` with the largest shares of dead units, in order."""
    order = sorted(dead, key=lambda layer: -dead[layer].mean())
    return [layer for layer in dead if layer in order[:BARS]]


def kernels(subject: Subject) -> dict[str, np.ndarray]:
    """{layer: values of its kernel [n]}, at most `MOST_WEIGHTS` drawn from them."""
    return {layer.name: thinned(kernel_of(subject.variables, layer))
            for layer in subject.layers.values() if layer.kernel is not None}


def thinned(values: np.ndarray, most: int = MOST_WEIGHTS) -> np.ndarray:
    """All values, or as many as asked for at places that are always the same."""
    if values.size <= most:
        return values.ravel()
    places = np.random.default_rng(0).integers(values.size, size=most)
    return values.ravel()[places]


def watch_activations(network: nn.Module, variables: Any,
                      images: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """Of each activation function f in the network, by its layer's name:

        slope    [N, units]      max |f'(z)| over the positions of an image
        values   [N, PER_IMAGE]  of f(z), at places that are the same in all images
    """
    _, calls = trace(network, variables, images)
    return {call.name: statistics(call) for call in calls
            if isinstance(call.module, Activation)}


def statistics(call: Call) -> dict[str, jax.Array]:
    """Measures one activation function; see `watch_activations`."""
    z = call.inputs[0].astype(jnp.float32)
    _, slope = jax.jvp(ACTIVATIONS[call.module.kind], (z,), (jnp.ones_like(z),))
    flat = call.output.reshape(len(z), -1).astype(jnp.float32)
    places = np.random.default_rng(0).integers(flat.shape[1], size=PER_IMAGE)
    return {"slope": jnp.abs(slope).max(tuple(range(1, z.ndim - 1))),
            "values": flat[:, places]}


def is_dead(slope: np.ndarray) -> np.ndarray:
    """bool [units]: those without a slope in all images, from [N, units]."""
    return slope.max(0) <= DEAD


def shown(layers: Mapping) -> list[str]:
    """All layers, or as many as a picture holds, evenly from the first to the last."""
    names = list(layers)
    if len(names) <= PANELS:
        return names
    places = np.linspace(0, len(names) - 1, PANELS).round().astype(int)
    return [names[i] for i in places]


def left_out(layers: Mapping) -> str:
    return ("" if len(layers) <= PANELS
            else f" {PANELS} of {len(layers)} layers, evenly from first to last.")


def histograms(values: Mapping[str, np.ndarray], note: Callable[[str], str]) -> Any:
    """A figure with a panel for each layer; `note(layer)` stands above it."""
    from matplotlib.figure import Figure

    names = shown(values)
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(max(3.0, 1.55 * columns), 1.4 * rows),
                    layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, names):
        finite = values[name][np.isfinite(values[name])]
        axes.stairs(*np.histogram(finite, bins=40), fill=True, facecolor="#8fb8de",
                    edgecolor="#1f4e79", linewidth=0.6)
        axes.set_title(f"{name}\n{note(name)}", fontsize=7)
        axes.tick_params(labelsize=6)
        axes.set_yticks([])
    for axes in panels[len(names):]:
        axes.set_axis_off()
    return figure


def spread_in_words(values: Mapping[str, np.ndarray], what: str) -> str:
    """'conv1: kernel from -0.5 to 0.6, standard deviation 0.2; ...'"""
    said = [f"{name} from {x.min():.2g} to {x.max():.2g}, standard deviation "
            f"{deviation(x):.2g}"
            for name, x in ((name, values[name]) for name in shown(values))]
    return f"The {what} values of each layer: {'; '.join(said)}."


def deviation(values: np.ndarray) -> float:
    """The standard deviation, by squares that float32 may be too small for."""
    return float(values.std(dtype=np.float64))
