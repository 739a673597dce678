"""The parts of a network: what to freeze, and what to take from a trained network.

A part is all layers whose names are equal up to the first underscore: `stem` has the
layers `stem_conv`, `stem_bn`, ...; `stage1` has `stage1_block1`, ...; `head` is the
last layer. `trunk` means all layers but the head.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import traverse_util
from ml_collections import ConfigDict

from cnn_jax.layers import BatchNorm

HEAD, TRUNK = "head", "trunk"


def part_of(layer: str) -> str:
    """Maps `stage1_block2` to `stage1`."""
    return layer.split("_")[0]


def parts_of(params: Mapping[str, Any]) -> list[str]:
    """Lists the parts that have parameters."""
    return list(dict.fromkeys(map(part_of, params)))


def frozen_parts(model: ConfigDict) -> str:
    """Names the parts that the `model` section of a config freezes; '' for none."""
    return TRUNK if model.train == HEAD else model.freeze or ""


def split_parts(chosen: str) -> list[str]:
    """Splits 'stem,stage1' into its names."""
    return [name.strip() for name in chosen.split(",") if name.strip()]


def is_chosen(layer: str, names: list[str]) -> bool:
    """Tells whether a layer, or the part that it is in, is among the names."""
    return (layer in names or part_of(layer) in names
            or (TRUNK in names and layer != HEAD))


def parts_mask(params: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    """Masks the parameters that are in one of the chosen parts, 'stem,stage1'.

    Single layers ('stage1_block2') and 'trunk' may be chosen too. The mask is a tree of
    the structure of `params` with a bool for each leaf.
    Raises ValueError for a name that no parameter has.
    """
    names, known = split_parts(chosen), parts_of(params)
    for name in names:
        if name == TRUNK and HEAD not in params:
            raise ValueError("the network has no layer 'head', so it has no 'trunk'")
        if name not in known and name not in params and name != TRUNK:
            raise ValueError(f"unknown part {name!r}; known: {', '.join(known)}, "
                             "'trunk' for all but the head, or the name of a layer")
    return {layer: jax.tree.map(lambda _: is_chosen(layer, names), tree)
            for layer, tree in params.items()}


def freeze_mask(params: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    """Masks the parameters to freeze; ValueError if none would be left to learn."""
    mask = parts_mask(params, chosen)
    if all(jax.tree.leaves(mask)):
        raise ValueError(f"freeze = {chosen!r} leaves no parameter to learn: leave out "
                         f"one of {', '.join(parts_of(params))}")
    return mask


@contextlib.contextmanager
def frozen_statistics(chosen: str) -> Iterator[None]:
    """Runs the batch norms of the chosen parts as in evaluation, inside the context.

    Even where train=True, they normalize by their running statistics and keep them
    unchanged. So the layers after them get the same input in training as in evaluation.
    """
    names = split_parts(chosen)

    def run(call: Any, args: tuple, kwargs: dict,
            context: nn.module.InterceptorContext) -> Any:
        norm = context.module
        if (isinstance(norm, BatchNorm) and not norm.use_running_average
                and context.method_name == "__call__"
                and is_chosen(norm.path[0], names)):
            frozen = norm.clone(parent=None, use_running_average=True, axis_name=None)
            return frozen.apply(norm.variables, *args, **kwargs)
        return call(*args, **kwargs)

    with nn.intercept_methods(run) if names else contextlib.nullcontext():
        yield


def apply_head(network: nn.Module, variables: Mapping[str, Any], features: jax.Array,
               image_shape: tuple[int, int, int], **options: Any) -> Any:
    """Applies a network from its layer `head` on, as in evaluation.

    features: the input of that layer, [N, ...].
    image_shape: (H, W, C) of the images that the network takes. The layers before the
        head get images of zeros; nothing depends on them, so the compiler removes them.
    options: those of `nn.Module.apply`. `train` has no effect: the layers from the head
        on behave the same in training.
    """
    def run(call: Any, args: tuple, kwargs: dict,
            context: nn.module.InterceptorContext) -> Any:
        if context.module.path == (HEAD,) and context.method_name == "__call__":
            args = (features, *args[1:])
        return call(*args, **kwargs)

    images = jnp.zeros((len(features), *image_shape))
    with nn.intercept_methods(run):
        return network.apply(variables, images, **options | {"train": False})


class Transferred(NamedTuple):
    """The variables of a network after a transfer, and where they are from."""

    variables: dict[str, Any]  # {"params": ..., "batch_stats": ...}
    taken: list[str]           # layers with the trained values, 'stage1_block1/conv1'
    fresh: list[str]           # heads that keep their initial values


def transfer(variables: Mapping[str, Any],
             trained: Mapping[str, Any]) -> Transferred:
    """Replaces fresh values by those of a trained network of the same architecture.

    Both are {"params": ..., "batch_stats": ...}. A head that the trained network lacks,
    or has with other shapes (the usual case: another number of classes), keeps its
    fresh values. So do the heads of auxiliary classifiers.
    Raises ValueError if any other layer differs.
    """
    initial, learned = leaves_by_layer(variables), leaves_by_layer(trained)
    fresh = [layer for layer in initial if is_head(layer)
             and shapes(initial[layer]) != shapes(learned.get(layer, {}))]
    other = sorted(layer for layer in initial.keys() ^ learned.keys()
                   if layer not in fresh)
    if other:
        raise ValueError("the trained network has other layers: "
                         f"{', '.join(other[:5])}")
    for layer, leaves in initial.items():
        if layer not in fresh and shapes(leaves) != shapes(learned[layer]):
            raise ValueError(f"layer {layer} of the trained network has other shapes: "
                             f"{shapes(learned[layer])} instead of {shapes(leaves)}")
    flat = {path: leaf for layer in initial
            for path, leaf in (initial if layer in fresh else learned)[layer].items()}
    merged = traverse_util.unflatten_dict(flat)
    return Transferred({kind: merged.get(kind, {}) for kind in variables},
                       [layer for layer in initial if layer not in fresh], fresh)


def is_head(layer: str) -> bool:
    """Tells whether a layer is the head, or the head of an auxiliary classifier."""
    return layer.rpartition("/")[2] == HEAD


def leaves_by_layer(variables: Mapping[str, Any]
                    ) -> dict[str, dict[tuple[str, ...], Any]]:
    """Groups arrays by layer: {'stage1_block1/conv1': {('params', ..., 'kernel'): x}}.
    """
    layers: dict[str, dict[tuple[str, ...], Any]] = {}
    for path, leaf in traverse_util.flatten_dict(dict(variables)).items():
        layers.setdefault("/".join(path[1:-1]), {})[path] = leaf
    return layers


def shapes(leaves: Mapping[tuple[str, ...], Any]) -> dict[str, tuple[int, ...]]:
    """Maps the name of each leaf of a layer to its shape."""
    return {path[-1]: leaf.shape for path, leaf in leaves.items()}
