"""Calls timm's own modules on our variables, by timm's names for our layers.

Each function takes (tensors, images) and returns (logits, no auxiliary logits), as in
`torch_forms`. timm is imported at the first use; without it those cases are skipped.
"""

import functools

import pytest
import torch

from cnn_jax.interop.names import TORCH, timm as names


@functools.cache
def module_of(model, classes):
    timm = pytest.importorskip("timm", reason="needs the `peers` extra: timm")
    return timm.create_model(model, num_classes=classes)


def run(t, x, model, name_of):
    """Calls timm's `model` with our tensors; `name_of` maps our names to timm's."""
    module = module_of(model, t.get("head", "bias").shape[0]).train(t.training)
    tensors = {}
    for (_, *path, leaf), tensor in t.at.items():
        name = f"{name_of(None, '/'.join(path))}.{TORCH[leaf]}"
        tensors[name] = tensor.reshape(module.get_parameter(name).shape
                                       if leaf == "kernel" else tensor.shape)
    own = {name for name in module.state_dict() if not name.endswith("batches_tracked")}
    assert tensors.keys() == own, tensors.keys() ^ own
    return torch.func.functional_call(module, tensors, (x,)), []


def resnet_v2(t, x, model):
    return run(t, x, model, names.RESNET_V2)


def mobilenet_v2(t, x):
    return run(t, x, "mobilenetv2_100", names.mobilenet_v2)


def xception(t, x):
    return run(t, x, "legacy_xception", names.xception)
