"""Maps layer names to those of keras.applications (3.15)."""

import flax.linen as nn

from cnn_jax.interop.names.layouts import keras_pointwise
from cnn_jax.interop.names.rules import Names, by_rules, groups, shifted
from cnn_jax.networks import (VGG, DenseNet, InceptionV3, MobileNetV1, MobileNetV2,
                              PreActResNet, ResNet, Xception)
from cnn_jax.networks.mobilenet import INVERTED

# Keras counts the stem as stage 1, so our stage 1 is its conv2.
RESNET = by_rules(
    ("stem_(conv|bn)", r"conv1_\1"), ("head", "predictions"),
    (r"stage(\d)_block(\d+)/conv(\d)", shifted("conv{}_block{}_{}_conv", 1)),
    (r"stage(\d)_block(\d+)/bn(\d)", shifted("conv{}_block{}_{}_bn", 1)),
    (r"stage(\d)_block(\d+)/shortcut_(conv|bn)", shifted("conv{}_block{}_0_{}", 1)))
RESNET_V2 = by_rules(
    ("stem_conv", "conv1_conv"), ("final_bn", "post_bn"), ("head", "predictions"),
    (r"stage(\d)_block(\d+)/bn1", shifted("conv{}_block{}_preact_bn", 1)),
    (r"stage(\d)_block(\d+)/bn(\d)", shifted("conv{}_block{}_{}_bn", 1, 0, -1)),
    (r"stage(\d)_block(\d+)/conv(\d)", shifted("conv{}_block{}_{}_conv", 1)),
    (r"stage(\d)_block(\d+)/shortcut_conv", shifted("conv{}_block{}_0_conv", 1)))
DENSENET = by_rules(
    ("stem_(conv|bn)", r"conv1_\1"), ("final_bn", "bn"), ("head", "predictions"),
    (r"block(\d)_layer(\d+)/neck_bn", shifted("conv{}_block{}_0_bn", 1)),
    (r"block(\d)_layer(\d+)/neck_conv", shifted("conv{}_block{}_1_conv", 1)),
    (r"block(\d)_layer(\d+)/bn", shifted("conv{}_block{}_1_bn", 1)),
    (r"block(\d)_layer(\d+)/conv", shifted("conv{}_block{}_2_conv", 1)),
    (r"transition(\d)/(conv|bn)", shifted("pool{}_{}", 1)))
VGG_NAMES = by_rules((r"stage(\d)_conv(\d)", r"block\1_conv\2"),
                     ("head", "predictions"), (r"fc(\d)", r"fc\1"))
MOBILENET_V1 = by_rules(
    ("stem/conv", "conv1"), ("stem/bn", "conv1_bn"), ("head", "conv_preds"),
    (r"stage\d_layer(\d+)_depthwise/conv", r"conv_dw_\1"),
    (r"stage\d_layer(\d+)_depthwise/bn", r"conv_dw_\1_bn"),
    (r"stage\d_layer(\d+)_pointwise/conv", r"conv_pw_\1"),
    (r"stage\d_layer(\d+)_pointwise/bn", r"conv_pw_\1_bn"))
# Layers that Keras' code does not name are numbered in the order of their creation.
XCEPTION = by_rules(
    (r"stem_conv(\d)/conv", r"block1_conv\1"),
    (r"stem_conv(\d)/bn", r"block1_conv\1_bn"),
    (r"entry_block(\d)/shortcut/conv", lambda i: numbered("conv2d", int(i) - 1)),
    (r"entry_block(\d)/shortcut/bn",
     lambda i: numbered("batch_normalization", int(i) - 1)),
    ("exit_block1/shortcut/conv", "conv2d_3"),
    ("exit_block1/shortcut/bn", "batch_normalization_3"),
    (r"entry_block(\d)/conv(\d)/\w+", shifted("block{}_sepconv{}", 1)),
    (r"entry_block(\d)/bn(\d)", shifted("block{}_sepconv{}_bn", 1)),
    (r"middle_block(\d)/conv(\d)/\w+", shifted("block{}_sepconv{}", 4)),
    (r"middle_block(\d)/bn(\d)", shifted("block{}_sepconv{}_bn", 4)),
    (r"exit_block1/conv(\d)/\w+", r"block13_sepconv\1"),
    (r"exit_block1/bn(\d)", r"block13_sepconv\1_bn"),
    (r"exit_conv(\d)/\w+", r"block14_sepconv\1"),
    (r"exit_bn(\d)", r"block14_sepconv\1_bn"),
    ("head", "predictions"))

# The steps of each cell of Inception v3 in Keras' order of layers, which follows their
# distance from the logits. A pair has other orders for convolutions and batch norms.
CELL_A = ("c1", "b1 c2", "a1 b2 c3 d2")
CELL_C = ("c1", "c2", "b1 c3", "b2 c4", "a1 b3 c5 d2")
CELL_E = ("c1", "b1 c2", ("b2x b2y c3x c3y a1", "b2x b2y c3x c3y"), ("d2", "a1 d2"))
LEVELS: dict[str, tuple[str | tuple[str, str], ...]] = {
    **dict.fromkeys(("5_b", "5_c", "5_d"), CELL_A), "6_a": ("b1", "b2", "a1 b3"),
    **dict.fromkeys(("6_b", "6_c", "6_d", "6_e"), CELL_C),
    "7_a": ("b1", "b2", "a1 b3", "a2 b4"), **dict.fromkeys(("7_b", "7_c"), CELL_E),
}
MADE = {layer: i for i, layer in enumerate([
    *(f"stem_conv{i}" for i in range(1, 6)),
    *(f"stage{cell}/{step}" for cell, levels in LEVELS.items()
      for step in sorted({step for level in levels for step in (
          level if isinstance(level, str) else " ".join(level)).split()}))])}


def numbered(name: str, i: int) -> str:
    """Returns NAME for 0, else NAME_i."""
    return name if i == 0 else f"{name}_{i}"


def mobilenet_v2(network: nn.Module, path: str) -> str:
    """Maps a layer. Keras counts blocks over all stages; the first is not expanded."""
    fixed = {"stem/conv": "Conv1", "stem/bn": "bn_Conv1", "final/conv": "Conv_1",
             "final/bn": "Conv_1_bn", "head": "predictions"}
    if path in fixed:
        return fixed[path]
    stage, block, part, kind = groups(r"stage(\d)_block(\d)/(\w+)/(\w+)", path)
    number = sum(row[2] for row in INVERTED[:int(stage) - 1]) + int(block) - 1
    name = f"block_{number}_{part}" if number else f"expanded_conv_{part}"
    return name + ("_BN" if kind == "bn" else "")


def inception(network: nn.Module, path: str) -> str:
    if path == "head":
        return "predictions"
    layer, kind = path.rsplit("/", 1)
    return numbered("conv2d" if kind == "conv" else "batch_normalization",
                    MADE[layer])


def inception_order(layers: list[str]) -> list[str]:
    """Sorts our layers by their distance from the logits, as Keras lists them."""
    stem = [layer for layer in layers if layer.startswith("stem")]
    cells = []
    for cell, levels in LEVELS.items():
        for level in levels:
            both = (level, level) if isinstance(level, str) else level
            for kind, steps in zip(("conv", "bn"), both):
                cells += [f"stage{cell}/{step}/{kind}" for step in steps.split()]
    known = [*stem, *cells, "head"]
    return known + [layer for layer in layers if layer not in known]


def resnet_order(layers: list[str]) -> list[str]:
    """Puts the layers of a shortcut before the last ones of the residual branch."""
    ordered = [layer for layer in layers if "/shortcut_" not in layer]
    for layer in layers:
        if "/shortcut_" in layer:
            name = layer.replace("shortcut_", "")
            last = f"{name}3" if f"{name}3" in ordered else f"{name}2"
            ordered.insert(ordered.index(last), layer)
    return ordered


FAMILIES: dict[type[nn.Module], Names] = {
    VGG: Names(VGG_NAMES),
    ResNet: Names(RESNET, order=resnet_order),
    PreActResNet: Names(RESNET_V2, order=resnet_order),
    DenseNet: Names(DENSENET),
    InceptionV3: Names(inception, order=inception_order),
    Xception: Names(XCEPTION),
    MobileNetV1: Names(MOBILENET_V1, {"head": keras_pointwise}),
    MobileNetV2: Names(mobilenet_v2),
}
