"""Checks that a network computes the same as a library's network with equal arrays.

Padding, epsilon and the position of a stride do not show in the arrays. If they differ,
weights load without an error, but the network computes something else.
"""

from typing import Any

import flax.linen as nn

from cnn_jax import networks
from cnn_jax.interop.pretrained import PRETRAINED
from cnn_jax.interop.pretrained.row import Pretrained
from cnn_jax.layers import BATCH_NORM, BatchNorm
from cnn_jax.networks.trace import ImageShape, trace_shapes

# Fields that show in the shapes of arrays, and fields that do not affect the logits of
# evaluation.
SIZES = {"blocks", "depths", "growth", "groups", "middle", "version", "width", "widths"}
NO_EFFECT = {"num_classes", "layers", "parent", "name", "aux", "dropout", "aux_dropout",
             "dropout_first", "flatten_size", "zero_gamma"}
KINDS = ("bottleneck", "norm")


def differences(library: str, network: nn.Module, image_shape: ImageShape) -> list[str]:
    """Lists the fields in which a network differs from the library's most similar one.

    For example ["stride_in='1x1' instead of '3x3'"]; if empty, it computes the same.
    """
    rows = [row for row in PRETRAINED.values() if row.library == library
            and networks.NETWORKS[row.network].constructor is type(network)]
    if not rows:
        return []
    epsilons = {call.module.epsilon for call in trace_shapes(network, None, image_shape)
                if isinstance(call.module, BatchNorm)}
    by_row = [different_from(row, network, epsilons) for row in rows]
    return min(by_row, key=lambda texts: (  # prefer the same kind of network
        any(text.startswith(KINDS) for text in texts), len(texts)))


def different_from(row: Pretrained, network: nn.Module,
                   epsilons: set[float]) -> list[str]:
    """Lists the fields in which a network differs from that of a row."""
    theirs: dict[str, Any] = networks.variant_fields(row.network) | row.fields
    pairs = [(name, getattr(network, name), value) for name, value in theirs.items()
             if name not in SIZES | NO_EFFECT]
    epsilon = BATCH_NORM[row.bn].epsilon
    pairs += [("epsilon of batch norm", ours, epsilon) for ours in sorted(epsilons)]
    return [f"{name}={ours!r} instead of {value!r}" for name, ours, value in pairs
            if ours != value]
