"""Writes networks that keras.applications lacks with torch's functions.

They read our parameters by our layers' names. Each takes (tensors, images) and returns
(logits, auxiliary logits of training).
"""

import jax
import numpy as np
import torch

F = torch.nn.functional


class Tensors:
    """Our variables as torch tensors, and layers that use them by our names."""

    def __init__(self, variables, epsilon):
        self.epsilon = epsilon
        self.training = False
        self.at = {}  # (kind, path) -> tensor in torch's layout
        for path, value in jax.tree_util.tree_leaves_with_path(variables):
            key = tuple(part.key for part in path)
            tensor = torch.tensor(np.asarray(value))
            if key[-1] == "kernel":
                tensor = tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T
            tensor = tensor.contiguous()
            self.at[key] = tensor.requires_grad_(key[0] == "params")

    def get(self, layer, leaf, kind="params"):
        return self.at.get((kind, *layer.split("/"), leaf))

    def conv(self, x, layer, stride=1, padding=0, groups=1):
        return F.conv2d(x, self.get(layer, "kernel"), self.get(layer, "bias"), stride,
                        padding, groups=groups)

    def bn(self, x, layer):
        return F.batch_norm(
            x, self.get(layer, "mean", "batch_stats"),
            self.get(layer, "var", "batch_stats"), self.get(layer, "scale"),
            self.get(layer, "bias"), self.training, 0.1, self.epsilon)

    def bn_relu(self, x, layer):
        """Applies batch norm and ReLU, or nothing if the network has no such layer."""
        return x if self.get(layer, "scale") is None else F.relu(self.bn(x, layer))

    def conv_bn_relu(self, x, layer, stride=1):
        size = self.get(f"{layer}/conv", "kernel").shape[-1]
        x = self.conv(x, f"{layer}/conv", stride, size // 2)
        if self.get(f"{layer}/bn", "scale") is not None:
            x = self.bn(x, f"{layer}/bn")
        return F.relu(x)

    def dense(self, x, layer):
        """Applies a dense layer; x may be [N, C, H, W], our rows are H, W, C."""
        if x.ndim == 4:
            x = x.permute(0, 2, 3, 1).flatten(1)
        return F.linear(x, self.get(layer, "kernel"), self.get(layer, "bias"))

    def parameters(self):
        return [tensor for tensor in self.at.values() if tensor.requires_grad]

    def as_ours(self, key):
        tensor = self.at[key].detach()
        if key[-1] == "kernel":
            tensor = tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor.T
        return tensor.numpy()


def alexnet(t, x, groups=2, padding=0, lrn=True, caffe=False):
    def norm(x):
        # torch divides alpha by the size, 5: its 5e-4 is the paper's 1e-4.
        constants = {"alpha": 1e-4, "k": 1.0} if caffe else {"alpha": 5e-4, "k": 2.0}
        return F.local_response_norm(x, 5, beta=0.75, **constants) if lrn else x

    def norm_and_pool(x):
        x = F.relu(x)
        return norm(F.max_pool2d(x, 3, 2)) if caffe else F.max_pool2d(norm(x), 3, 2)
    x = norm_and_pool(t.conv(x, "conv1", 4, padding))
    x = norm_and_pool(t.conv(x, "conv2", 1, 2, groups))
    x = F.relu(t.conv(x, "conv3", 1, 1))
    x = F.relu(t.conv(x, "conv4", 1, 1, groups))
    x = F.max_pool2d(F.relu(t.conv(x, "conv5", 1, 1, groups)), 3, 2)
    x = F.relu(t.dense(F.relu(t.dense(x, "fc1")), "fc2"))
    return t.dense(x, "head"), []


def zfnet(t, x):
    def norm_pool(x):
        x = F.max_pool2d(F.relu(x), 3, 2, ceil_mode=True)
        return F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0)
    x = norm_pool(t.conv(x, "conv1", 2, 1))
    x = norm_pool(t.conv(x, "conv2", 2))
    for i in (3, 4, 5):
        x = F.relu(t.conv(x, f"conv{i}", 1, 1))
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    x = F.relu(t.dense(F.relu(t.dense(x, "fc1")), "fc2"))
    return t.dense(x, "head"), []


def googlenet(t, x, lrn=True, last_pool=3):
    def norm(x):
        return F.local_response_norm(x, 5, alpha=1e-4, beta=0.75, k=1.0) if lrn else x

    def cell(x, name):
        pooled = F.max_pool2d(x, 3, 1, 1)
        return torch.cat([
            t.conv_bn_relu(x, f"{name}/a1"),
            t.conv_bn_relu(t.conv_bn_relu(x, f"{name}/b1"), f"{name}/b2"),
            t.conv_bn_relu(t.conv_bn_relu(x, f"{name}/c1"), f"{name}/c2"),
            t.conv_bn_relu(pooled, f"{name}/d1")], 1)

    def auxiliary(x, name):
        x = t.conv_bn_relu(F.avg_pool2d(x, 5, 3), f"{name}/conv")
        return t.dense(F.relu(t.dense(x, f"{name}/fc")), f"{name}/head")

    x = norm(F.max_pool2d(t.conv_bn_relu(x, "stem_conv1", 2), 3, 2, ceil_mode=True))
    x = norm(t.conv_bn_relu(t.conv_bn_relu(x, "stem_conv2"), "stem_conv3"))
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    x = cell(cell(x, "stage3_3a"), "stage3_3b")
    x = cell(F.max_pool2d(x, 3, 2, ceil_mode=True), "stage4_4a")
    logits = [auxiliary(x, "aux1")] if t.training else []
    x = cell(cell(cell(x, "stage4_4b"), "stage4_4c"), "stage4_4d")
    logits += [auxiliary(x, "aux2")] if t.training else []
    x = F.max_pool2d(cell(x, "stage4_4e"), last_pool, 2, ceil_mode=True)
    x = cell(cell(x, "stage5_5a"), "stage5_5b")
    return t.dense(x.mean((2, 3)), "head"), logits


def resnet(t, x, blocks, bottleneck):
    x = F.relu(t.bn(t.conv(x, "stem_conv", 2, 3), "stem_bn"))
    x = F.max_pool2d(x, 3, 2, 1)
    for i, count in enumerate(blocks, 1):
        for j in range(1, count + 1):
            name = f"stage{i}_block{j}"
            stride = 2 if i > 1 and j == 1 else 1
            y = x
            plan = [(1, stride), (1, 1)]
            if bottleneck:
                plan = [(0, 1), (1, stride), (0, 1)]
            for k, (padding, step) in enumerate(plan, 1):
                y = t.bn(t.conv(y, f"{name}/conv{k}", step, padding), f"{name}/bn{k}")
                y = F.relu(y) if k < len(plan) else y
            if t.get(f"{name}/shortcut_conv", "kernel") is not None:
                x = t.conv(x, f"{name}/shortcut_conv", stride)
                x = t.bn(x, f"{name}/shortcut_bn")
            x = F.relu(x + y)
    return t.dense(x.mean((2, 3)), "head"), []


def resnet_v2(t, x, blocks, bottleneck, stride_in="3x3"):
    """Builds pre-activated blocks; a stage's first block has the stride in `stride_in`.

    If the stem has batch norm, a ReLU follows it, and the first block has no first
    batch norm. Otherwise the pool must be padded with -inf, torch's default.
    """
    def block(x, name, stride):
        plan = [(3, stride), (3, 1)]
        if bottleneck:
            steps = (stride, 1) if stride_in == "1x1" else (1, stride)
            plan = [(1, steps[0]), (3, steps[1]), (1, 1)]
        y = start = t.bn_relu(x, f"{name}/bn1")
        for k, (size, step) in enumerate(plan, 1):
            y = t.bn_relu(y, f"{name}/bn{k}") if k > 1 else y
            y = t.conv(y, f"{name}/conv{k}", step, size // 2)
        if t.get(f"{name}/shortcut_conv", "kernel") is not None:
            x = t.conv(start, f"{name}/shortcut_conv", stride)
        return x + y

    x = F.max_pool2d(t.bn_relu(t.conv(x, "stem_conv", 2, 3), "stem_bn"), 3, 2, 1)
    for i, count in enumerate(blocks, 1):
        for j in range(1, count + 1):
            x = block(x, f"stage{i}_block{j}", 2 if i > 1 and j == 1 else 1)
    return t.dense(F.relu(t.bn(x, "final_bn")).mean((2, 3)), "head"), []


def cifar_resnet(t, x, depth, zeros="end", preact=False, bottleneck=False):
    """Builds blocks with shortcuts of option A or B.

    Option A pads zero channels at the 'end' or on 'both' sides; option B is used if the
    network has a shortcut convolution.
    """
    def shortcut(x, name, features, stride):
        if t.get(f"{name}/shortcut_conv", "kernel") is None:
            missing = features - x.shape[1]
            before = missing // 2 if zeros == "both" else 0
            return F.pad(x[:, :, ::stride, ::stride],
                         (0, 0, 0, 0, before, missing - before))
        x = t.conv(x, f"{name}/shortcut_conv", stride)
        return x if preact else t.bn(x, f"{name}/shortcut_bn")

    def block(x, name, stride):
        y = start = x
        plan = [(1, stride), (3, 1), (1, 1)] if bottleneck else [(3, stride), (3, 1)]
        for k, (size, step) in enumerate(plan, 1):
            if preact:
                y = t.bn_relu(y, f"{name}/bn{k}")
                start = y if k == 1 else start
            y = t.conv(y, f"{name}/conv{k}", step, size // 2)
            if not preact:
                y = t.bn(y, f"{name}/bn{k}")
                y = F.relu(y) if k < len(plan) else y
        if x.shape != y.shape:
            x = shortcut(start, name, y.shape[1], stride)
        return x + y if preact else F.relu(x + y)

    x = t.conv(x, "stem_conv", 1, 1)
    x = t.bn_relu(x, "stem_bn")
    for i in (1, 2, 3):
        for j in range(1, (depth - 2) // (9 if bottleneck else 6) + 1):
            x = block(x, f"stage{i}_block{j}", 2 if i > 1 and j == 1 else 1)
    x = F.relu(t.bn(x, "final_bn")) if preact else x
    return t.dense(x.mean((2, 3)), "head"), []


def cifar_densenet(t, x, blocks, bottleneck):
    def bn_relu_conv(x, prefix, padding=0):
        return t.conv(F.relu(t.bn(x, f"{prefix}bn")), f"{prefix}conv", 1, padding)
    x = t.conv(x, "stem_conv", 1, 1)
    for i, count in enumerate(blocks, 1):
        for j in range(1, count + 1):
            name = f"block{i}_layer{j}/"
            y = bn_relu_conv(x, f"{name}neck_") if bottleneck else x
            x = torch.cat([x, bn_relu_conv(y, name, 1)], 1)
        if i < len(blocks):
            x = F.avg_pool2d(bn_relu_conv(x, f"transition{i}/"), 2)
    x = F.relu(t.bn(x, "final_bn"))
    return t.dense(x.mean((2, 3)), "head"), []


def inception_v3(t, x):
    def block(x, name, stride=1, same=True):
        kernel = t.get(f"{name}/conv", "kernel")
        padding = [size // 2 for size in kernel.shape[2:]] if same else 0
        return F.relu(t.bn(t.conv(x, f"{name}/conv", stride, padding), f"{name}/bn"))

    def chain(x, branch, steps, reduce=False):
        for i in range(1, steps + 1):
            last = reduce and i == steps
            x = block(x, f"{branch}{i}", 2 if last else 1, not last)
        return x

    def pooled(x, name):
        return block(F.avg_pool2d(x, 3, 1, 1), f"{name}/d2")

    def cell(x, name, steps):
        branches = [chain(x, f"{name}/{letter}", n) for letter, n in zip("abc", steps)]
        return torch.cat([*branches, pooled(x, name)], 1)

    def reduction(x, name, steps):
        branches = [chain(x, f"{name}/{letter}", n, True)
                    for letter, n in zip("ab", steps)]
        return torch.cat([*branches, F.max_pool2d(x, 3, 2)], 1)

    def wide_cell(x, name):
        b, c = chain(x, f"{name}/b", 1), chain(x, f"{name}/c", 2)
        return torch.cat([
            block(x, f"{name}/a1"), block(b, f"{name}/b2x"), block(b, f"{name}/b2y"),
            block(c, f"{name}/c3x"), block(c, f"{name}/c3y"), pooled(x, name)], 1)

    def auxiliary(x):
        x = block(F.avg_pool2d(x, 5, 3), "aux/conv1")
        x = block(x, "aux/conv2", same=False)
        return t.dense(x.mean((2, 3)), "aux/head")

    x = block(block(x, "stem_conv1", 2, False), "stem_conv2", 1, False)
    x = F.max_pool2d(block(x, "stem_conv3"), 3, 2)
    x = F.max_pool2d(block(block(x, "stem_conv4"), "stem_conv5", 1, False), 3, 2)
    for letter in "bcd":
        x = cell(x, f"stage5_{letter}", (1, 2, 3))
    x = reduction(x, "stage6_a", (1, 3))
    for letter in "bcde":
        x = cell(x, f"stage6_{letter}", (1, 3, 5))
    logits = [auxiliary(x)] if t.training else []
    x = reduction(x, "stage7_a", (2, 4))
    x = wide_cell(wide_cell(x, "stage7_b"), "stage7_c")
    return t.dense(x.mean((2, 3)), "head"), logits
