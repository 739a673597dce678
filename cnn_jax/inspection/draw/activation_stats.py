"""Draws histograms of weights and activations, and dead units, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.inspection.draw.drawing import new_figure
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.activation_stats import (DEAD, PER_IMAGE, is_dead,
                                                         kernel_values,
                                                         standard_deviation,
                                                         watch_activations)
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.networks.named_layers import evenly_spaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLE = 256             # images whose activations are measured
PANELS, COLUMNS = 24, 3  # histograms in a picture
BARS = 40                # layers in the picture of dead units


def weights(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws histograms of the kernels."""
    values = kernel_values(run.variables, run.layers)
    yield Picture(
        "weights", "Weights",
        "The distribution of the values of each layer's kernel, and their standard "
        "deviation (sd)." + left_out(values), describe_values(values, "kernel"),
        histograms(values, lambda name: f"sd {standard_deviation(values[name]):.2g}"),
        values)


def activations(run: InspectedRun, settings: ConfigDict) -> Iterator[Picture]:
    """Draws histograms of the outputs of the activation functions, and dead units."""
    pixels = run.examples.images[:SAMPLE]
    recorded = run.map_batches(pixels, watch_activations)
    if not recorded:
        return
    recorded = {name: recorded[name] for name in run.layers if name in recorded}
    images = f"{len(pixels)} {run.split} images"
    values = {name: stats["values"].ravel() for name, stats in recorded.items()}
    yield Picture(
        "activations", "Activations",
        f"The outputs of each activation function for {images}, {PER_IMAGE} values of "
        "each image. Zeros are left out, since they would hide the other values; the "
        "title gives their fraction." + left_out(values),
        describe_values(values, "output"),
        histograms({name: x[x != 0] for name, x in values.items()},
                   lambda name: f"{np.mean(values[name] == 0):.0%} zero"), values)
    yield draw_dead({name: is_dead(stats["slope"]) for name, stats in recorded.items()},
                    images)


def draw_dead(dead: Mapping[str, np.ndarray], images: str) -> Picture:
    """Draws the fraction of dead units in each layer as bars.

    dead: layer -> bool [units].
    """
    layers = deadest(dead)
    figure = new_figure(4.5, 0.26 * len(layers) + 1.0)
    axes = figure.subplots()
    fractions = [100 * dead[layer].mean() for layer in layers]
    axes.barh(range(len(layers)), fractions, color="#8fb8de", edgecolor="#1f4e79")
    for row, (layer, fraction) in enumerate(zip(layers, fractions)):
        axes.text(fraction, row, f" {dead[layer].sum()} of {dead[layer].size}",
                  va="center", fontsize=8)
    axes.set_yticks(range(len(layers)), layers, fontsize=8)
    axes.set(xlabel="dead units, % of the layer", xlim=(0, max(*fractions, 1) * 1.3),
             ylim=(len(layers) - 0.5, -0.5))
    axes.grid(axis="x", alpha=0.3)
    total = sum(int(units.sum()) for units in dead.values())
    named = [f"{layer} {units.sum()} of {units.size}" for layer, units in dead.items()
             if units.any()]
    return Picture(
        "dead_units", "Dead units",
        "A unit (a channel, or an output of a dense layer) is dead if no gradient "
        f"passes its activation function in any of {images}, at any position: its "
        f"slope is at most {DEAD:g} everywhere. A dead ReLU gives zero; a dead sigmoid "
        "or tanh is saturated." + (
            "" if len(layers) == len(dead)
            else f" The {BARS} of {len(dead)} layers with the largest fractions are "
            "shown."),
        f"{total} units of {sum(units.size for units in dead.values()):,} are dead"
        + (f": {', '.join(named)}." if named else "."), figure, dict(dead))


def deadest(dead: Mapping[str, np.ndarray]) -> list[str]:
    """Returns the `BARS` layers with the largest fractions of dead units, in order."""
    order = sorted(dead, key=lambda layer: -dead[layer].mean())
    return [layer for layer in dead if layer in order[:BARS]]


def left_out(layers: Mapping[str, np.ndarray]) -> str:
    """Says which layers a picture shows if it does not show all."""
    return ("" if len(layers) <= PANELS
            else f" {PANELS} of {len(layers)} layers are shown, evenly from first to "
            "last.")


def histograms(values: Mapping[str, np.ndarray],
               note: Callable[[str], str]) -> Figure:
    """Draws a panel for each layer, with `note(layer)` in its title."""
    names = evenly_spaced(list(values), PANELS)
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure = new_figure(max(3.0, 1.55 * columns), 1.4 * rows)
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


def describe_values(values: Mapping[str, np.ndarray], what: str) -> str:
    """Returns 'conv1: kernel from -0.5 to 0.6, standard deviation 0.2; ...'."""
    layers = [f"{name} from {values[name].min():.2g} to {values[name].max():.2g}, "
              f"standard deviation {standard_deviation(values[name]):.2g}"
              for name in evenly_spaced(list(values), PANELS)]
    return f"The {what} values of each layer: {'; '.join(layers)}."
