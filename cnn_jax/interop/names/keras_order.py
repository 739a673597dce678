"""Names the arrays of Keras files whose names are not those of a network's layers.

`shapes` are the current names of a network's arrays in Keras and their shapes, in the
order of its layers.
"""

import itertools
from collections.abc import Iterable, Mapping

import numpy as np

Arrays = dict[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def named_variables(shapes: Shapes, arrays: Arrays) -> Arrays:
    """Names the numbered weights, LAYER/vars/0, of a .weights.h5 file.

    They keep their number if the class of the layer does not tell which weight it is.
    """
    weights: dict[str, list[str]] = {}
    for key in shapes:
        weights.setdefault(key.rpartition("/")[0], []).append(key)
    named = {}
    for key, array in arrays.items():
        layer, is_numbered, number = key.rpartition("/vars/")
        keys = weights.get(layer, [])
        if is_numbered and number.isdigit() and int(number) < len(keys):
            key = keys[int(number)]
        named[key] = array
    return named


def in_keras_order(shapes: Shapes, arrays: Arrays) -> Arrays | None:
    """Names arrays by their order, as Keras does when it reads an .h5 file.

    Published files have the layer names of an older Keras, so Keras pairs its layers
    with those of the file in order, and the arrays of each. Returns None if numbers or
    shapes do not fit, as in .keras files, whose names are right.
    """
    def by_layer(keys: Iterable[str]) -> list[list[str]]:
        return [list(group) for _, group in itertools.groupby(
            keys, lambda key: key.rpartition("/")[0])]

    ours, theirs = by_layer(shapes), by_layer(arrays)
    if list(map(len, ours)) != list(map(len, theirs)):
        return None
    pairs = dict(zip(itertools.chain(*ours), itertools.chain(*theirs)))
    if any(shapes[key] != arrays[other].shape for key, other in pairs.items()):
        return None
    return {key: arrays[other] for key, other in pairs.items()}


def in_class_order(shapes: Shapes, arrays: Arrays) -> Arrays | None:
    """Names arrays by the order of their layers among those with the same weights.

    A .keras or .weights.h5 file lists the layers of each class in the model's order.
    Keras keeps counting unnamed layers within a process, so that the second Inception
    v3 begins with conv2d_94. Returns None if the names are the current ones, or if
    numbers or shapes do not fit.
    """
    if set(arrays) == set(shapes):
        return None

    def by_weights(keys: Iterable[str]) -> dict[tuple[str, ...], list[str]]:
        layers: dict[str, list[str]] = {}
        for key in keys:
            layer, _, weight = key.replace("/vars/0", "/beta").rpartition("/")
            layers.setdefault(layer, []).append(weight)
        alike: dict[tuple[str, ...], list[str]] = {}
        for layer, weights in layers.items():
            alike.setdefault(tuple(weights), []).append(layer)
        return alike

    renamed = {key.replace("/vars/0", "/beta"): array for key, array in arrays.items()}
    ours, theirs = by_weights(shapes), by_weights(arrays)
    if {kind: len(layers) for kind, layers in ours.items()} != {
            kind: len(layers) for kind, layers in theirs.items()}:
        return None
    pairs = {f"{layer}/{weight}": f"{other}/{weight}" for kind in ours
             for layer, other in zip(ours[kind], theirs[kind]) for weight in kind}
    if any(shapes[key] != renamed[other].shape for key, other in pairs.items()):
        return None
    return {key: renamed[other] for key, other in pairs.items()}
