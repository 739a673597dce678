"""Calls timm's own modules on our variables, by timm's names for our layers.

Each function takes (tensors, images) and returns (logits, no auxiliary logits), as in
`torch_forms`. timm is imported at the first use; without it those cases are skipped.
"""

import functools
import re

import pytest
import torch

LEAVES = {"kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean",
          "var": "running_var"}


@functools.cache
def module_of(model, classes):
    timm = pytest.importorskip("timm", reason="needs the `peers` extra: timm")
    return timm.create_model(model, num_classes=classes)


def run(t, x, model, name_of):
    """Calls timm's `model` with our tensors; `name_of` maps our names to timm's."""
    module = module_of(model, t.get("head", "bias").shape[0]).train(t.training)
    tensors = {}
    for (_, *path, leaf), tensor in t.at.items():
        name = f"{name_of('/'.join(path))}.{LEAVES[leaf]}"
        tensors[name] = tensor.reshape(module.get_parameter(name).shape
                                       if leaf == "kernel" else tensor.shape)
    own = {name for name in module.state_dict() if not name.endswith("batches_tracked")}
    assert tensors.keys() == own, tensors.keys() ^ own
    return torch.func.functional_call(module, tensors, (x,)), []


def resnet_v2(t, x, model):
    def name_of(layer):
        fixed = {"stem_conv": "stem.conv", "final_bn": "norm", "head": "head.fc"}
        if layer in fixed:
            return fixed[layer]
        i, j, part = re.fullmatch(r"stage(\d)_block(\d+)/(\w+)", layer).groups()
        part = part.replace("bn", "norm").replace("shortcut_conv", "downsample.conv")
        return f"stages.{int(i) - 1}.blocks.{int(j) - 1}.{part}"
    return run(t, x, model, name_of)


def mobilenet_v2(t, x):
    def name_of(layer):
        fixed = {"stem/conv": "conv_stem", "stem/bn": "bn1", "final/conv": "conv_head",
                 "final/bn": "bn2", "head": "classifier"}
        if layer in fixed:
            return fixed[layer]
        i, j, part, kind = re.fullmatch(r"stage(\d)_block(\d)/(\w+)/(\w+)",
                                        layer).groups()
        # The first stage has no expansion, so its other two parts come one earlier.
        parts = (["depthwise", "project"] if i == "1"
                 else ["expand", "depthwise", "project"])
        names = ["conv_dw", "conv_pw"] if i == "1" else ["conv_pw", "conv_dw",
                                                         "conv_pwl"]
        place = parts.index(part)
        name = names[place] if kind == "conv" else f"bn{place + 1}"
        return f"blocks.{int(i) - 1}.{int(j) - 1}.{name}"
    return run(t, x, "mobilenetv2_100", name_of)


def xception(t, x):
    blocks = {"entry_block": 0, "middle_block": 3, "exit_block": 11}

    def name_of(layer):
        layer = layer.replace("depthwise", "conv1")
        if layer == "head":
            return "fc"
        if found := re.fullmatch(r"stem_conv(\d)/(conv|bn)", layer):
            return f"{found[2]}{found[1]}"
        if found := re.fullmatch(r"exit_(conv|bn)(\d)(/\w+)?", layer):
            return f"{found[1]}{int(found[2]) + 2}{(found[3] or '').replace('/', '.')}"
        part, i, rest = re.fullmatch(r"(\w+_block)(\d)/(.+)", layer).groups()
        block = f"block{blocks[part] + int(i)}"
        if rest.startswith("shortcut"):
            return f"{block}.skip" + "bn" * rest.endswith("bn")
        kind, j, inner = re.fullmatch(r"(conv|bn)(\d)(/\w+)?", rest).groups()
        # rep is a list: ReLU (not the very first), convolution, batch norm, ...
        place = 3 * (int(j) - 1) + (block != "block1") + (kind == "bn")
        return f"{block}.rep.{place}{(inner or '').replace('/', '.')}"
    return run(t, x, "legacy_xception", name_of)
