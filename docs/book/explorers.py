"""Gives the interactive drawings their data."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cnn_jax import networks
from cnn_jax.layers import Layers
from cnn_jax.networks.summary import layer_table

from book.figures import Html

PLAIN = Layers(conv="lax", pool="lax")  # the fastest to trace, with the same fields


def field_data(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Collects the receptive fields of networks.

    Each network has its image size and, for each layer with a map, [name, size of the
    map, field, stride, offset], all along the vertical axis.
    """
    data = {}
    for name in names:
        shape = networks.NETWORKS[name].input_shape
        table = layer_table(networks.create(name, layers=PLAIN), shape)
        layers = [[row.name, row.shape[0], *row.field[0]] for row in table.rows
                  if row.field and row.field[0].stride and len(row.shape) == 3]
        data[name] = {"image": shape[0], "layers": layers}
    return data


def fields(names: Sequence[str]) -> Html:
    """Writes `field_data` where docs/_static/field_explorer.js reads it."""
    return Html('<script type="application/json" id="field-data">'
                f"{json.dumps(field_data(names))}</script>")


def digit_data(params: Mapping[str, Any], images: np.ndarray,
               labels: np.ndarray) -> dict[str, Any]:
    """Collects what the drawn LeNet-5 needs: its weights in 8 bits, and examples.

    params: of `networks.lenet.LeNet5`. images: [N, 8, 8] counts of 0 to 16.
    """
    arrays = {}
    for layer, values in params.items():
        for name, value in values.items():
            value = np.asarray(value, np.float32)
            scale = float(np.abs(value).max() / 127) or 1.0
            rounded = np.rint(value / scale).astype(np.int8)
            arrays[f"{layer}/{name}"] = {
                "shape": value.shape, "scale": scale,
                "bytes": base64.b64encode(rounded.tobytes()).decode()}
    examples = [{"label": int(label), "rows": image.astype(int).tolist()}
                for image, label in zip(images, labels)]
    return {"arrays": arrays, "examples": examples}


def digits(params: Mapping[str, Any], images: np.ndarray, labels: np.ndarray) -> Html:
    """Writes `digit_data` where docs/_static/digit_explorer.js reads it."""
    return Html('<script type="application/json" id="digit-data">'
                f"{json.dumps(digit_data(params, images, labels))}</script>")
