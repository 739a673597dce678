"""Maps layer names to those of torchvision (0.29, and files since 2017)."""

import functools

import flax.linen as nn

from cnn_jax.interop.names.layouts import torch_flattened
from cnn_jax.interop.names.rules import Names, by_rules, groups, shifted
from cnn_jax.networks import (VGG, AlexNet, DenseNet, GoogLeNet, InceptionV3,
                              MobileNetV2, ResNet, SqueezeNet)
from cnn_jax.networks.mobilenet import INVERTED
from cnn_jax.networks.squeezenet import VERSIONS

ALEXNET = {"conv1": 0, "conv2": 3, "conv3": 6, "conv4": 8, "conv5": 10}

RESNET = by_rules(
    (r"stem_(conv|bn)", r"\g<1>1"),
    (r"stage(\d)_block(\d+)/(conv|bn)(\d)", shifted("layer{}.{}.{}{}", 0, -1)),
    (r"stage(\d)_block(\d+)/shortcut_conv", shifted("layer{}.{}.downsample.0", 0, -1)),
    (r"stage(\d)_block(\d+)/shortcut_bn", shifted("layer{}.{}.downsample.1", 0, -1)),
    ("head", "fc"))

DENSENET = by_rules(
    ("stem_conv", "features.conv0"), ("stem_bn", "features.norm0"),
    ("final_bn", "features.norm5"), ("head", "classifier"),
    (r"block(\d)_layer(\d+)/neck_bn", r"features.denseblock\1.denselayer\2.norm1"),
    (r"block(\d)_layer(\d+)/neck_conv", r"features.denseblock\1.denselayer\2.conv1"),
    (r"block(\d)_layer(\d+)/bn", r"features.denseblock\1.denselayer\2.norm2"),
    (r"block(\d)_layer(\d+)/conv", r"features.denseblock\1.denselayer\2.conv2"),
    (r"transition(\d)/bn", r"features.transition\1.norm"),
    (r"transition(\d)/conv", r"features.transition\1.conv"))

BRANCHES = {"a1": "branch1", "b1": "branch2.0", "b2": "branch2.1", "c1": "branch3.0",
            "c2": "branch3.1", "d1": "branch4.1"}
GOOGLENET = by_rules(
    (r"stem_conv(\d)/(conv|bn)", r"conv\1.\2"), ("head", "fc"),
    (r"stage\d_(\d\w)/(\w\d)/(conv|bn)",
     lambda cell, step, kind: f"inception{cell}.{BRANCHES[step]}.{kind}"),
    (r"(aux\d)/conv/(conv|bn)", r"\1.conv.\2"),
    (r"(aux\d)/fc", r"\1.fc1"), (r"(aux\d)/head", r"\1.fc2"))

# Cells of Inception v3 -> our step -> their branch.
ENDS = {"a1": "branch1x1", "d2": "branch_pool"}
DOUBLE_3 = {f"c{i}": f"branch3x3dbl_{i}" for i in (1, 2, 3)}
CELL_A = ENDS | DOUBLE_3 | {"b1": "branch5x5_1", "b2": "branch5x5_2"}
CELL_C = ENDS | {f"b{i}": f"branch7x7_{i}" for i in (1, 2, 3)} | {
    f"c{i}": f"branch7x7dbl_{i}" for i in range(1, 6)}
CELL_E = ENDS | DOUBLE_3 | {
    "b1": "branch3x3_1", "b2x": "branch3x3_2a", "b2y": "branch3x3_2b",
    "c3x": "branch3x3dbl_3a", "c3y": "branch3x3dbl_3b"}
STEPS = {
    **dict.fromkeys(("5_b", "5_c", "5_d"), CELL_A),
    "6_a": {"a1": "branch3x3", **{f"b{i}": f"branch3x3dbl_{i}" for i in (1, 2, 3)}},
    **dict.fromkeys(("6_b", "6_c", "6_d", "6_e"), CELL_C),
    "7_a": {"a1": "branch3x3_1", "a2": "branch3x3_2",
            **{f"b{i}": f"branch7x7x3_{i}" for i in range(1, 5)}},
    **dict.fromkeys(("7_b", "7_c"), CELL_E),
}
STEM = ("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3")
INCEPTION = by_rules(
    (r"stem_conv(\d)/(conv|bn)", lambda i, kind: f"Conv2d_{STEM[int(i) - 1]}.{kind}"),
    (r"stage(\d_\w)/(\w+)/(conv|bn)", lambda cell, step, kind:
     f"Mixed_{cell.replace('_', '')}.{STEPS[cell][step]}.{kind}"),
    (r"aux/conv(\d)/(conv|bn)", shifted("AuxLogits.conv{}.{}", -1)),
    ("aux/head", "AuxLogits.fc"), ("head", "fc"))


def alexnet(network: nn.Module, path: str) -> str:
    if path in ALEXNET:
        return f"features.{ALEXNET[path]}"
    return f"classifier.{ {'fc1': 1, 'fc2': 4, 'head': 6}[path] }"


def vgg(network: nn.Module, path: str) -> str:
    dense = {"fc1": 0, "fc2": 3, "head": 6}
    if path in dense:
        return f"classifier.{dense[path]}"
    return f"features.{vgg_index(network, path)}"


def vgg_index(network: nn.Module, path: str) -> int:
    """Counts the modules before a layer: convolutions, batch norms, ReLUs, pools."""
    stage, kind, layer = groups(r"stage(\d)_(conv|bn)(\d)", path)
    size = 2 + network.norm
    return (sum(size * depth + 1 for depth in network.depths[:int(stage) - 1])
            + size * (int(layer) - 1) + (kind == "bn"))


def mobilenet_v2(network: nn.Module, path: str) -> str:
    """Maps a layer. features[0] is the stem; blocks are counted over all stages."""
    fixed = {"stem/conv": "features.0.0", "stem/bn": "features.0.1",
             "final/conv": "features.18.0", "final/bn": "features.18.1",
             "head": "classifier.1"}
    if path in fixed:
        return fixed[path]
    stage, block, part, kind = groups(r"stage(\d)_block(\d)/(\w+)/(\w+)", path)
    number = sum(row[2] for row in INVERTED[:int(stage) - 1]) + int(block)
    expanded = INVERTED[int(stage) - 1][0] != 1  # if not, its numbers are lower by one
    index = ["expand", "depthwise", "project"].index(part) - (not expanded)
    if part == "project":  # not wrapped with its batch norm
        return f"features.{number}.conv.{index + (kind == 'bn')}"
    return f"features.{number}.conv.{index}.{int(kind == 'bn')}"


def first_mobilenet_v2(network: nn.Module, path: str) -> str:
    """Maps a layer of the network of 2018, whose blocks are one flat sequence."""
    if path == "head":
        return "classifier"
    if not path.startswith("stage"):
        return mobilenet_v2(network, path)
    stage, block, part, kind = groups(r"stage(\d)_block(\d)/(\w+)/(\w+)", path)
    number = sum(row[2] for row in INVERTED[:int(stage) - 1]) + int(block)
    expanded = INVERTED[int(stage) - 1][0] != 1
    index = ["expand", "depthwise", "project"].index(part) - (not expanded)
    return f"features.{number}.conv.{3 * index + (kind == 'bn')}"


def squeezenet(network: nn.Module, path: str) -> str:
    """Maps a layer. features holds convolution, ReLU, pool, then fires and pools."""
    if path == "conv1":
        return "features.0"
    if path == "head":
        return "classifier.1"
    fire, part = groups(r"fire(\d)/(\w+)", path)
    pools = VERSIONS[network.version].pools
    index = int(fire) + 1 + sum(pool < int(fire) for pool in pools)
    name = {"squeeze": "squeeze", "expand1": "expand1x1", "expand3": "expand3x3"}[part]
    return f"features.{index}.{name}"


FAMILIES: dict[type[nn.Module], Names] = {
    AlexNet: Names(alexnet, {"fc1": functools.partial(torch_flattened, channels=256)}),
    VGG: Names(vgg, {"fc1": functools.partial(torch_flattened, channels=512)}),
    ResNet: Names(RESNET),
    DenseNet: Names(DENSENET),
    GoogLeNet: Names(GOOGLENET, {
        f"aux{i}/fc": functools.partial(torch_flattened, channels=128)
        for i in (1, 2)}, optional=r"aux\d\..+"),
    InceptionV3: Names(INCEPTION, optional=r"AuxLogits\..+"),
    MobileNetV2: Names(mobilenet_v2),
    SqueezeNet: Names(squeezenet),
}
FIRST_MOBILENET: dict[type[nn.Module], Names] = {MobileNetV2: Names(first_mobilenet_v2)}
