"""The parts of a network: what to freeze, what to take from a trained one.

A part is what stands before the first underscore of the names of its layers: `stem` is
`stem_conv`, `stem_bn`, ...; `stage1` is `stage1_block1`, ...; `head` is the last layer.
"""

from collections.abc import Mapping
from typing import Any

import jax


def part_of(layer: str) -> str:
    """`stage1_block2` -> `stage1`."""
    return layer.split("_")[0]


def parts_of(params: Mapping) -> list[str]:
    """The parts that have parameters."""
    return list(dict.fromkeys(map(part_of, params)))


def in_parts(params: Mapping, chosen: str, must_exist: bool = True) -> dict[str, Any]:
    """For each parameter whether it is in one of the parts, 'stem,stage1'.

    Single layers ('stage1_block2') are names too. Raises ValueError for a name that no
    parameter has, if `must_exist`; running statistics lack the layers that have none.
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


def frozen(params: Mapping, chosen: str) -> dict[str, Any]:
    """`in_parts`, or a ValueError where nothing would be left to learn."""
    marked = in_parts(params, chosen)
    if all(jax.tree.leaves(marked)):
        raise ValueError(f"freeze = {chosen!r} leaves no parameter to learn: leave out "
                         f"one of {', '.join(parts_of(params))}")
    return marked


def adopt(variables: Mapping, trained: Mapping) -> dict[str, Any]:
    """`variables` with the values of a trained network of the same architecture.

    Both are {"params": ..., "batch_stats": ...}. The head is taken if its shapes agree,
    else it keeps its fresh values: another number of classes is the usual case.
    Raises ValueError if any other layer differs.
    """
    out = {}
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
    return {jax.tree_util.keystr(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
