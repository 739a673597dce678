"""The parts of a network: what to freeze, and what to take from a trained network.

A part is what stands before the first underscore in the names of its layers: `stem` is
`stem_conv`, `stem_bn`, ...; `stage1` is `stage1_block1`, ...; `head` is the last layer.
"""

from collections.abc import Mapping
from typing import Any

import jax


def part_of(layer: str) -> str:
    """Maps `stage1_block2` to `stage1`."""
    return layer.split("_")[0]


def parts_of(params: Mapping[str, Any]) -> list[str]:
    """Lists the parts that have parameters."""
    return list(dict.fromkeys(map(part_of, params)))


def parts_mask(params: Mapping[str, Any], chosen: str,
               must_exist: bool = True) -> dict[str, Any]:
    """Masks the parameters that are in one of the chosen parts, 'stem,stage1'.

    The names of single layers ('stage1_block2') may be chosen too. The mask is a tree
    of the shape of `params` with a bool for each leaf.
    must_exist: raise ValueError for a name that no parameter has. Running statistics
        lack the layers that have none.
    """
    names = [name.strip() for name in chosen.split(",") if name.strip()]
    known = parts_of(params)
    for name in names:
        if must_exist and name not in known and name not in params:
            raise ValueError(f"unknown part {name!r}; known: {', '.join(known)}, "
                             "or the name of a layer")
    chosen_layers = {layer for layer in params
                     if layer in names or part_of(layer) in names}
    return {layer: jax.tree.map(lambda _: layer in chosen_layers, tree)
            for layer, tree in params.items()}


def freeze_mask(params: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    """Masks the parameters to freeze; ValueError if none would be left to learn."""
    mask = parts_mask(params, chosen)
    if all(jax.tree.leaves(mask)):
        raise ValueError(f"freeze = {chosen!r} leaves no parameter to learn: leave out "
                         f"one of {', '.join(parts_of(params))}")
    return mask


def transfer(variables: Mapping[str, Any],
             trained: Mapping[str, Any]) -> dict[str, Any]:
    """Replaces fresh values by those of a trained network of the same architecture.

    Both are {"params": ..., "batch_stats": ...}. The head is replaced if the shapes
    agree, else it keeps its fresh values: another number of classes is the usual case.
    Raises ValueError if any other layer differs.
    """
    out: dict[str, Any] = {}
    for kind, layers in variables.items():
        source = trained.get(kind, {})
        missing = sorted(layers.keys() ^ source.keys())
        if missing:
            raise ValueError(f"the trained network has other layers ({kind}): "
                             f"{', '.join(missing[:5])}")
        out[kind] = {}
        for layer, tree in layers.items():
            same = shapes(tree) == shapes(source[layer])
            if not same and layer != "head":
                raise ValueError(
                    f"layer {layer} ({kind}) of the trained network has other shapes: "
                    f"{shapes(source[layer])} instead of {shapes(tree)}")
            out[kind][layer] = source[layer] if same else tree
    return out


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Maps the path of each leaf to its shape."""
    return {jax.tree_util.keystr(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
