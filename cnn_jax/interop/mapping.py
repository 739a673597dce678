"""Converts parameters between our networks and the files of other libraries.

A `Mapping` holds, for each of our arrays, its key in a library's file and its layout
there. It is used both ways: by `variables_from` and by `arrays_from`.
"""

import re
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from cnn_jax.errors import InputError
from cnn_jax.interop.names import LIBRARIES, Library
from cnn_jax.interop.names.keras_order import (Arrays, in_class_order,
                                               in_keras_order, named_variables)
from cnn_jax.interop.names.layouts import Layout, Shape, same
from cnn_jax.interop.names.rules import LayerName
from cnn_jax.layers import eval_shape
from cnn_jax.networks import is_head

MOST_NAMED = 3  # keys of each kind that an error lists


class Leaf(NamedTuple):
    """Says under which key and in which layout a library stores one of our arrays."""

    key: str
    layout: Layout


class Mapping(NamedTuple):
    """Maps a network's arrays to those of a library's file.

    leaves: by our names, 'params/conv1/kernel', in the order of the library's layers.
    optional: a pattern of keys that a file may hold although this network lacks them.
    """

    library: str
    network: str  # name of our class
    leaves: dict[str, Leaf]
    optional: str


class Misfit(NamedTuple):
    """Lists how the arrays of a file differ from those of a mapping."""

    missing: list[str]
    left_over: list[str]
    shapes: list[str]

    @property
    def total(self) -> int:
        return sum(map(len, self))


def mapping_of(library: str, network: nn.Module, image_shape: Shape,
               bgr: bool = False) -> Mapping:
    """Makes the mapping of a network for images of `image_shape` = (H, W, C).

    bgr: whether their network reads channels in the order blue, green, red. Then its
        first kernel is reversed, so that ours reads RGB and computes the same.
    Raises InputError for a library that has no such network.
    """
    mapping = _mapping(library, network, shapes_of(network, image_shape))
    return reversed_input(mapping) if bgr else mapping


def _mapping(library: str, network: nn.Module, ours: dict[str, Shape]) -> Mapping:
    """Makes the mapping of a network whose arrays have these shapes."""
    if library == "cnn_jax":  # our own .npz and .safetensors files
        return Mapping(library, type(network).__name__, {
            path: Leaf(path, same(shape)) for path, shape in ours.items()}, "")
    naming = LIBRARIES[library]
    if type(network) not in naming.families:
        raise InputError(f"{library} has no network like our {type(network).__name__}; "
                         f"it has {', '.join(f.__name__ for f in naming.families)}")
    names = naming.families[type(network)]
    layers: dict[str, list[str]] = {}  # ours -> its arrays
    for path in ours:
        layers.setdefault(path.partition("/")[2].rpartition("/")[0], []).append(path)
    leaves = {}
    for layer in names.order(list(layers)):
        theirs = their_layer(names.layer, network, layer, library)
        norm = f"batch_stats/{layer}/mean" in ours
        for path in layers[layer]:
            leaf, shape = path.rpartition("/")[2], ours[path]
            layout = same(shape)
            if leaf == "kernel":
                make = names.kernels.get(layer)
                layout = make(shape) if make else naming.kernel(layer, shape)
            leaves[path] = Leaf(naming.key(theirs, layer, leaf, norm), layout)
    return Mapping(library, type(network).__name__, leaves, names.optional)


def their_layer(name: LayerName, network: nn.Module, layer: str, library: str) -> str:
    """Names a layer as the library does.

    Raises InputError for a layer that the library's network does not have.
    """
    try:
        return name(network, layer)
    except KeyError:
        raise InputError(f"{library}'s form of {type(network).__name__} has no layer "
                         f"like our {layer}") from None


def shapes_of(network: nn.Module, image_shape: Shape) -> dict[str, Shape]:
    """Returns the shapes of a network's arrays, by names such as 'params/conv1/kernel'.

    The layers are in the order of their creation.
    """
    made: dict[str, Shape] = {}

    def init() -> None:
        variables = network.init(jax.random.key(0), jnp.zeros((1, *image_shape)),
                                 train=False)
        # jax.tree would sort the names; here they are in the order of the calls.
        made.update({path: array.shape for path, array in traverse_util.flatten_dict(
            dict(variables), sep="/").items()})

    eval_shape(init)
    params = [path for path in made if path.startswith("params/")]
    layers = dict.fromkeys(path[len("params/"):].rpartition("/")[0] for path in params)
    order = {layer: i for i, layer in enumerate(layers)}
    # A stable sort: the running statistics of a layer follow its parameters.
    return {path: made[path] for path in sorted(
        made, key=lambda path: order[path.partition("/")[2].rpartition("/")[0]])}


def reversed_input(mapping: Mapping) -> Mapping:
    """Reverses the input channels of the first kernel, which reads three of them."""
    [first] = [path for path, leaf in mapping.leaves.items()
               if len(leaf.layout.ours) == 4 and leaf.layout.ours[2] == 3]
    key, layout = mapping.leaves[first]
    return mapping._replace(leaves=mapping.leaves | {
        first: Leaf(key, layout._replace(reverse=True))})


def variables_from(mapping: Mapping, arrays: Arrays, source: str = "the file"
                   ) -> dict[str, Any]:
    """Makes {"params": ..., "batch_stats": ...} from the arrays of a library's file.

    All types except float32 and float64 become float32. The arrays may be views.
    Raises InputError that lists the keys which are missing, left over or of another
    shape.
    """
    arrays = cleaned(mapping, arrays)
    misfit = misfit_of(mapping, arrays)
    if misfit.total:
        raise InputError(describe(mapping, misfit, source))
    flat = {path: as_float(leaf.layout.to_ours(arrays[leaf.key]))
            for path, leaf in mapping.leaves.items()}
    variables: dict[str, Any] = traverse_util.unflatten_dict(flat, sep="/")
    return {"params": variables["params"],
            "batch_stats": variables.get("batch_stats", {})}


def arrays_from(mapping: Mapping, variables: Any) -> Arrays:
    """Makes the arrays of a library's file from {"params": ..., "batch_stats": ...}.

    They are in the order of the library's layers.
    Raises InputError for variables of another network.
    """
    ours = {path: np.asarray(array) for path, array in traverse_util.flatten_dict(
        dict(variables), sep="/").items()}
    misfit = misfit_of(mapping._replace(leaves={
        path: Leaf(path, same(leaf.layout.ours))
        for path, leaf in mapping.leaves.items()}), ours)
    if misfit.total:
        raise InputError(describe(mapping, misfit, "the variables"))
    return {leaf.key: np.ascontiguousarray(leaf.layout.to_theirs(ours[path]))
            for path, leaf in mapping.leaves.items()}


def left_out(mapping: Mapping, arrays: Arrays) -> list[str]:
    """Lists the keys of a file that our network does not need."""
    keys = {leaf.key for leaf in mapping.leaves.values()}
    return [key for key in cleaned(mapping, arrays, keep_optional=True)
            if key not in keys and is_like(mapping.optional, key)]


def cleaned(mapping: Mapping, arrays: Arrays, keep_optional: bool = False) -> Arrays:
    """Renames a file's arrays to the library's current names.

    Arrays that are not parameters are dropped, and so are optional ones, unless
    `keep_optional`.
    """
    keys = {leaf.key for leaf in mapping.leaves.values()}
    if library := LIBRARIES.get(mapping.library):  # not one of ours
        arrays = {current_key(library, key): array for key, array in arrays.items()}
        arrays = {key: array for key, array in arrays.items()
                  if not is_like(library.ignored, key)}
    renamed = {key: array for key, array in arrays.items()
               if keep_optional or key in keys or not is_like(mapping.optional, key)}
    if mapping.library == "keras":
        shapes = {leaf.key: leaf.layout.shape for leaf in mapping.leaves.values()}
        renamed = named_variables(shapes, renamed)
        return (in_keras_order(shapes, renamed) or in_class_order(shapes, renamed)
                or renamed)
    return renamed


def current_key(library: Library, key: str) -> str:
    """Turns a key of an older file into the library's current one."""
    for pattern, template in library.renamed:
        if match := re.fullmatch(pattern, key):
            key = match.expand(template)
    return key


def is_like(pattern: str, key: str) -> bool:
    """Tells whether a key matches a pattern; '' matches nothing."""
    return bool(pattern) and re.fullmatch(pattern, key) is not None


def as_float(array: np.ndarray) -> np.ndarray:
    """Keeps float32 and float64, and converts other types to float32."""
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float32)


def misfit_of(mapping: Mapping, arrays: Arrays) -> Misfit:
    """Compares the arrays of a file, `cleaned`, with those that a mapping expects."""
    keys = {leaf.key for leaf in mapping.leaves.values()}
    missing, shapes = [], []
    for path, (key, layout) in mapping.leaves.items():
        ours = "" if path == key else f" (our {path})"
        if key not in arrays:
            missing.append(f"{key}{ours}")
        elif arrays[key].shape != layout.shape:
            shapes.append(f"{key}{ours} is {arrays[key].shape} instead of "
                          f"{layout.shape}")
    return Misfit(missing, [key for key in arrays if key not in keys], shapes)


def fits(mapping: Mapping, arrays: Arrays) -> bool:
    """Tells whether a file has exactly the arrays that a mapping expects."""
    return misfit_of(mapping, cleaned(mapping, arrays)).total == 0


def describe(mapping: Mapping, misfit: Misfit, source: str) -> str:
    """Writes in one line which keys do not fit."""
    def listed(title: str, items: list[str]) -> list[str]:
        if not items:
            return []
        more = len(items) - MOST_NAMED
        return [f"{title} {', '.join(items[:MOST_NAMED])}"
                + (f" and {more} more" if more > 0 else "")]

    return (f"{source} does not fit {mapping.library}'s form of {mapping.network}: "
            + "; ".join(listed("missing", misfit.missing)
                        + listed("left over", misfit.left_over)
                        + listed("of another shape", misfit.shapes)))


def classes_of(network: nn.Module, image_shape: Shape, arrays: Arrays) -> int | None:
    """Finds the number of classes of a weight file, by the bias of the head.

    In a Keras file the head may have any name: it is the last dense layer. Returns None
    if the file has no head.

    network: may have any number of classes.
    """
    ours = shapes_of(network, image_shape)
    for library in ("cnn_jax", *LIBRARIES):
        try:
            mapping = _mapping(library, network, ours)
        except InputError:  # it has no such network or layer
            continue
        bias = mapping.leaves.get("params/head/bias")
        renamed = cleaned(mapping, arrays)
        if bias is not None and bias.key in renamed and renamed[bias.key].ndim == 1:
            return len(renamed[bias.key])
        if library == "keras" and len(renamed) == len(mapping.leaves):
            dense = [array for array in renamed.values() if array.ndim == 2]
            return dense[-1].shape[1] if dense else None
    return None


def without_unfit_heads(mapping: Mapping, arrays: Arrays) -> Mapping:
    """Leaves out the heads that a file lacks or has with other shapes.

    A trunk has no head, and a network for other classes has another one. Their keys
    become optional, so that the file may hold them.
    """
    renamed = cleaned(mapping, arrays)
    unfit = {path.rpartition("/")[0].partition("/")[2]
             for path, (key, layout) in mapping.leaves.items()
             if key not in renamed or renamed[key].shape != layout.shape}
    heads = {path: leaf for path, leaf in mapping.leaves.items()
             if (layer := path.rpartition("/")[0].partition("/")[2]) in unfit
             and is_head(layer)}
    patterns = [re.escape(leaf.key) for leaf in heads.values()]
    return mapping._replace(
        leaves={path: leaf for path, leaf in mapping.leaves.items()
                if path not in heads},
        optional="|".join(filter(None, [mapping.optional, *patterns])))


def find_mapping(network: nn.Module, image_shape: Shape, arrays: Arrays,
                 source: str = "the file", whole: bool = True) -> Mapping:
    """Finds the library whose names of a network's arrays are those of a file.

    whole: False allows heads that are missing or have other shapes.
    Raises InputError that lists the keys which do not fit, for the nearest library.
    """
    ours = shapes_of(network, image_shape)
    tried: list[tuple[Mapping, Misfit]] = []
    for library in ("cnn_jax", *LIBRARIES):
        try:
            mapping = _mapping(library, network, ours)
        except InputError:  # it has no such network or layer
            continue
        if not whole and not fits(mapping, arrays):
            mapping = without_unfit_heads(mapping, arrays)
        misfit = misfit_of(mapping, cleaned(mapping, arrays))
        if not misfit.total:
            return mapping
        tried.append((mapping, misfit))
    mapping, misfit = min(tried, key=lambda pair: pair[1].total)
    raise InputError(describe(mapping, misfit, source))
