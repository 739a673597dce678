"""Against torch, in float64: AlexNet, GoogLeNet and ResNet written with torch's
functions. Logits, and every parameter and running statistic after three training steps.

Needs the `peers` extra; then: pytest -m slow tests/test_peers_torch.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import networks
from cnn_jax.layers import Layers

torch = pytest.importorskip("torch", reason="needs the `peers` extra: torch")
F = torch.nn.functional
pytestmark = pytest.mark.slow

CLASSES = 7


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

    def conv_bn_relu(self, x, layer, stride=1):
        size = self.get(f"{layer}/conv", "kernel").shape[-1]
        x = self.conv(x, f"{layer}/conv", stride, size // 2)
        if self.get(f"{layer}/bn", "scale") is not None:
            x = self.bn(x, f"{layer}/bn")
        return F.relu(x)

    def dense(self, x, layer):
        """After Flatten x is still [N, C, H, W]; our rows are in the order H, W, C."""
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


def alexnet(t, x, groups=2, padding=0, lrn=True):
    def norm(x):
        # torch divides alpha by the size: 5e-4 is the paper's 1e-4 times the sum.
        return F.local_response_norm(x, 5, alpha=5e-4, beta=0.75, k=2.0) if lrn else x
    x = F.max_pool2d(norm(F.relu(t.conv(x, "conv1", 4, padding))), 3, 2)
    x = F.max_pool2d(norm(F.relu(t.conv(x, "conv2", 1, 2, groups))), 3, 2)
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


OFF = {"dropout": 0.0}
# Ours, fields, theirs, its arguments, batch norm and its epsilon, sizes.
CASES = {
    "alexnet": ("alexnet", OFF, alexnet, {}, "torch", 1e-5, [(100, 132), (99, 127)]),
    "alexnet_one_tower": ("alexnet_one_tower", OFF, alexnet,
                          {"groups": 1, "padding": 2, "lrn": False}, "torch", 1e-5,
                          [(96, 128), (99, 127)]),
    "zfnet": ("zfnet", OFF, zfnet, {}, "torch", 1e-5, [(64, 100), (63, 97)]),
    "googlenet": ("googlenet", OFF | {"aux_dropout": 0.0}, googlenet, {}, "torch", 1e-5,
                  [(96, 112), (81, 97)]),
    "googlenet_torchvision": (
        "googlenet_torchvision", OFF | {"aux_dropout": 0.0}, googlenet,
        {"lrn": False, "last_pool": 2}, "torch_inception", 1e-3, [(96, 112), (81, 97)]),
    "resnet18": ("resnet18", {}, resnet,
                 {"blocks": (2, 2, 2, 2), "bottleneck": False}, "torch", 1e-5,
                 [(64, 80), (63, 81)]),
    "resnet50_v1_5": ("resnet50_v1_5", {}, resnet,
                      {"blocks": (3, 4, 6, 3), "bottleneck": True}, "torch", 1e-5,
                      [(64, 80), (63, 81)]),
}


def drawn(shapes):
    draw = np.random.default_rng(1)

    def value(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan = np.prod(leaf.shape[:-1])
            return draw.normal(0, np.sqrt(2 / fan), leaf.shape)
        if name in ("scale", "var"):
            return draw.uniform(0.5, 1.5, leaf.shape)
        return draw.normal(0, 0.1, leaf.shape)
    return jax.tree_util.tree_map_with_path(value, shapes)


def steps_of_ours(model, variables, batches, rate):
    def loss_of(logits, labels):
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
        return -picked.mean()

    @jax.jit
    def step(params, stats, images, labels):
        def loss(params):
            logits, after = model.apply(
                {"params": params, "batch_stats": stats}, images, train=True,
                mutable=["batch_stats", "aux_logits"])
            total = loss_of(logits, labels) + sum(
                0.3 * loss_of(aux, labels)
                for aux in jax.tree.leaves(after.get("aux_logits", {})))
            return total, after.get("batch_stats", {})
        grads, stats_after = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), stats_after

    params, stats = variables["params"], variables.get("batch_stats", {})
    for images, labels in batches:
        params, stats = step(params, stats, images, labels)
    return {"params": params, "batch_stats": stats} if stats else {"params": params}


def steps_of_torch(t, theirs, arguments, batches, rate):
    t.training = True
    optimizer = torch.optim.SGD(t.parameters(), lr=rate)
    for images, labels in batches:
        logits, auxiliary = theirs(t, nchw(images), **arguments)
        labels = torch.tensor(np.asarray(labels))
        loss = F.cross_entropy(logits, labels) + sum(
            0.3 * F.cross_entropy(aux, labels) for aux in auxiliary)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def nchw(images):
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
@pytest.mark.parametrize("case", CASES)
def test_logits_and_training_equal_torch(case, odd):
    name, fields, theirs, arguments, bn, epsilon, sizes = CASES[case]
    shape = (*sizes[odd], 3)
    with jax.enable_x64(True):
        model = networks.create(name, CLASSES, Layers(
            bn=bn, dtype="float64", conv="lax", pool="lax"), **fields)
        draw = np.random.default_rng(2)
        batches = [(jnp.asarray(draw.normal(0, 1, (4, *shape))),
                    jnp.asarray(draw.integers(0, CLASSES, 4))) for _ in range(3)]
        images = batches[0][0]
        shapes = jax.eval_shape(
            lambda: model.init(jax.random.key(0), images, train=False))
        variables = drawn(shapes)
        t = Tensors(variables, epsilon)
        ours = np.asarray(jax.jit(lambda v, x: model.apply(v, x, train=False))(
            variables, images))
        with torch.no_grad():
            expected = theirs(t, nchw(images), **arguments)[0].numpy()
        assert ours.dtype == expected.dtype == np.float64
        assert np.abs(ours - expected).max() <= 1e-9 * expected.std()
        if odd:
            return  # training is compared once, on the even size
        trained = steps_of_ours(model, variables, batches, 1e-4)
        steps_of_torch(t, theirs, arguments, batches, 1e-4)
        for path, value in jax.tree_util.tree_leaves_with_path(trained):
            key = tuple(part.key for part in path)
            reference = t.as_ours(key)
            where = "/".join(key)
            assert np.abs(value - reference).max() <= 1e-9 * max(
                1, np.abs(reference).max()), where
            before = variables
            for part in key:
                before = before[part]
            assert np.abs(reference - before).max() > 0, where
