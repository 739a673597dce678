"""Maps layer names to those of timm (1.0.31); many are torchvision's."""

import functools
import re

import flax.linen as nn

from cnn_jax.interop.names import torchvision
from cnn_jax.interop.names.layouts import torch_pointwise, torch_window
from cnn_jax.interop.names.rules import Names, by_rules, groups, shifted
from cnn_jax.networks import (VGG, DenseNet, InceptionV3, MobileNetV1, MobileNetV2,
                              PreActResNet, ResNet, Xception)
from cnn_jax.networks.mobilenet import INVERTED, SEPARABLE

RESNET_V2 = by_rules(
    ("stem_conv", "stem.conv"), ("stem_bn", "stem.norm"), ("final_bn", "norm"),
    ("head", "head.fc"),
    (r"stage(\d)_block(\d+)/conv(\d)", shifted("stages.{}.blocks.{}.conv{}", -1, -1)),
    (r"stage(\d)_block(\d+)/bn(\d)", shifted("stages.{}.blocks.{}.norm{}", -1, -1)),
    (r"stage(\d)_block(\d+)/shortcut_conv",
     shifted("stages.{}.blocks.{}.downsample.conv", -1, -1)))

FIRST_LAYERS = [1] + [i for i, (_, stride) in enumerate(SEPARABLE, 1) if stride == 2]
XCEPTION_BLOCKS = {"entry_block": 0, "middle_block": 3, "exit_block": 11}


def vgg(network: nn.Module, path: str) -> str:
    dense = {"fc1": "pre_logits.fc1", "fc2": "pre_logits.fc2", "head": "head.fc"}
    return dense[path] if path in dense else torchvision.FAMILIES[VGG].layer(network,
                                                                             path)


def mobilenet_v1(network: nn.Module, path: str) -> str:
    """Maps a layer. timm counts the separable layers within their stage."""
    fixed = {"stem/conv": "conv_stem", "stem/bn": "bn1", "head": "classifier"}
    if path in fixed:
        return fixed[path]
    stage, layer, part, kind = groups(r"stage(\d)_layer(\d+)_(\w+)/(\w+)", path)
    index = int(layer) - FIRST_LAYERS[int(stage) - 1]
    depthwise = part == "depthwise"
    name = {"conv": "conv_dw" if depthwise else "conv_pw",
            "bn": "bn1" if depthwise else "bn2"}[kind]
    return f"blocks.{int(stage) - 1}.{index}.{name}"


def mobilenet_v2(network: nn.Module, path: str) -> str:
    """Maps a layer. In an unexpanded block the parts have numbers lower by one."""
    fixed = {"stem/conv": "conv_stem", "stem/bn": "bn1", "final/conv": "conv_head",
             "final/bn": "bn2", "head": "classifier"}
    if path in fixed:
        return fixed[path]
    stage, block, part, kind = groups(r"stage(\d)_block(\d)/(\w+)/(\w+)", path)
    expanded = INVERTED[int(stage) - 1][0] != 1
    number = ["expand", "depthwise", "project"].index(part) + expanded
    convolutions = (["conv_pw", "conv_dw", "conv_pwl"] if expanded
                    else ["conv_dw", "conv_pw"])
    name = convolutions[number - 1] if kind == "conv" else f"bn{number}"
    return f"blocks.{int(stage) - 1}.{int(block) - 1}.{name}"


def xception(network: nn.Module, path: str) -> str:
    """Maps a layer. timm numbers all blocks, and its `rep` counts ReLUs too."""
    path = path.replace("depthwise", "conv1")
    if path == "head":
        return "fc"
    if match := re.fullmatch(r"stem_conv(\d)/(conv|bn)", path):
        return f"{match[2]}{match[1]}"
    if match := re.fullmatch(r"exit_(conv|bn)(\d)(/\w+)?", path):
        return f"{match[1]}{int(match[2]) + 2}{(match[3] or '').replace('/', '.')}"
    part, i, layer = groups(r"(\w+_block)(\d)/(.+)", path)
    block = f"block{XCEPTION_BLOCKS[part] + int(i)}"
    if layer.startswith("shortcut"):
        return f"{block}.skip" + "bn" * layer.endswith("bn")
    kind, j, inner = groups(r"(conv|bn)(\d)(/\w+)?", layer)
    # ReLU (not in the first block), convolution, batch norm, ReLU, ...
    index = 3 * (int(j) - 1) + (block != "block1") + (kind == "bn")
    return f"{block}.rep.{index}{(inner or '').replace('/', '.')}"


FAMILIES: dict[type[nn.Module], Names] = {
    VGG: Names(vgg, {"fc1": functools.partial(torch_window, channels=512),
                     "fc2": torch_pointwise}),
    ResNet: torchvision.FAMILIES[ResNet],
    PreActResNet: Names(RESNET_V2, {"head": torch_pointwise}),
    DenseNet: torchvision.FAMILIES[DenseNet],
    InceptionV3: torchvision.FAMILIES[InceptionV3],
    Xception: Names(xception),
    MobileNetV1: Names(mobilenet_v1),
    MobileNetV2: Names(mobilenet_v2),
}
