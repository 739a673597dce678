"""What a network computes on the way to its logits, by name.

A layer's name says what part of the network it is in: the part is what stands before
the first underscore (`stage1_block2` is in `stage1`); see `networks.part_of`.
"""

from typing import Any

import flax.linen as nn
import jax

from cnn_jax import networks


def features(network: str | nn.Module, variables: Any, images: jax.Array,
             inner: bool = False) -> dict[str, jax.Array]:
    """Every named intermediate of `network` for images [N, H, W, C], as in evaluation.

    network: a module, or the name of one with the fields of `networks.NETWORKS`.
    variables: {"params": ..., "batch_stats": ...}.
    images: scaled as in training; raw pixels are not scaled here.
    inner: also the layers inside blocks, as `stage1_block2/conv1`.

    Returns the output of each layer or block at the top level (conv1, stage1_block2,
    ...), of each part (stem, stage1, ...: that of its last layer), the input of the
    last layer as `before_head`, and the logits as `head`. A name that is both a layer's
    and a part's (AlexNet's conv1, a part that ends in conv1_pool) is the layer's. Pure,
    so it can be put under `jax.jit` and differentiated.
    Raises ValueError for variables or images that the network cannot take.
    """
    if "params" not in variables:
        raise ValueError("variables must be {'params': ..., 'batch_stats': ...}, not a "
                         f"mapping of {', '.join(map(str, variables)) or 'nothing'}")
    if isinstance(network, str):
        network = networks.create(network, classes(variables))
    layers: dict[str, jax.Array] = {}
    before_head = {}

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        path = context.module.path
        if context.method_name == "__call__" and (
                len(path) == 1 or inner and len(path) > 1):
            layers["/".join(path)] = out
            if path == ("head",):
                before_head["before_head"] = args[0]
        return out

    with nn.intercept_methods(watch):
        network.apply(variables, images, train=False)
    parts = {networks.part_of(layer): out for layer, out in layers.items()
             if "/" not in layer}
    return parts | layers | before_head


def classes(variables: Any) -> int | None:
    """How many the head was made for; None where it has no parameters."""
    head = variables["params"].get("head")
    return head["kernel"].shape[-1] if head else None
