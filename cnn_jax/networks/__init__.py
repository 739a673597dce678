"""Every network by name. One file per family; one row here per network."""

from typing import Any, NamedTuple

import flax.linen as nn

from cnn_jax.layers import Layers, lookup
from cnn_jax.networks.lenet import LeNet5, LeNet5Published
from cnn_jax.networks.tf2_course import AlexNet8, CBAPDNet, Inception10


class Network(NamedTuple):
    """A row of `NETWORKS`."""

    constructor: type[nn.Module]
    input_shape: tuple[int, int, int]  # (H, W, C) of the publication
    fields: dict[str, Any] = {}        # where this variant differs from the class


GREY_28, GREY_32, COLOUR_32 = (28, 28, 1), (32, 32, 1), (32, 32, 3)

VGG16_GROUPS = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3)

NETWORKS = {
    "lenet5": Network(LeNet5, GREY_32),
    "lenet5_1998": Network(LeNet5Published, GREY_32),
    "baseline": Network(CBAPDNet, COLOUR_32),
    "tf2_lenet5": Network(LeNet5, COLOUR_32, {"activation": "sigmoid", "pool": "max"}),
    "tf2_alexnet8": Network(AlexNet8, COLOUR_32),
    "tf2_vgg16": Network(CBAPDNet, COLOUR_32, {
        "groups": VGG16_GROUPS, "kernel": 3, "dense": (512, 512)}),
    "tf2_inception10": Network(Inception10, COLOUR_32),
}


def create(name: str, num_classes: int | None = None, layers: Layers = Layers(),
           **fields) -> nn.Module:
    """The network `name`, not yet initialised.

    num_classes: None = as published.
    fields: the fields of the network's own class, such as `activation="relu"`.
    Raises ValueError for an unknown name or field, or num_classes < 1.
    """
    row = lookup(NETWORKS, "network", name)
    if num_classes is not None:
        if num_classes < 1:
            raise ValueError(f"num_classes must be at least 1, not {num_classes}")
        fields["num_classes"] = num_classes
    known = variant_fields(name) | {"num_classes": None}
    for field in fields:
        lookup(known, f"field of network {name}", field)
    return row.constructor(layers=layers, **(row.fields | fields))


def variant_fields(name: str) -> dict[str, Any]:
    """The fields of a network that select a variant, with their defaults."""
    row = lookup(NETWORKS, "network", name)
    shared = {"num_classes", "layers", "parent", "name"}
    return {field.name: field.default
            for field in row.constructor.__dataclass_fields__.values()
            if field.name not in shared} | row.fields
