"""Networks equal torch in float64: logits, and all variables after three steps.

AlexNet, GoogLeNet, Inception v3 with its auxiliary head, ResNets and DenseNets are
written with torch's functions; ResNet v2, MobileNetV2 and Xception are timm's own.

Needs the `peers` extra; then: pytest -m slow tests/networks/test_peers_torch.py
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import quick_jit, sgd_steps

from cnn_jax import networks
from cnn_jax.layers import Layers

torch = pytest.importorskip("torch", reason="needs the `peers` extra: torch")
forms = pytest.importorskip("tests.support.torch_forms")
timm_forms = pytest.importorskip("tests.support.timm_forms")
F = torch.nn.functional
pytestmark = pytest.mark.slow

CLASSES = 7
OFF = {"dropout": 0.0}


class Case(NamedTuple):
    """One of our networks and its form in torch."""

    name: str
    fields: dict[str, Any]
    theirs: Callable
    arguments: dict[str, Any]
    sizes: list[tuple[int, int]]  # (H, W), even and odd
    bn: str = "torch"
    epsilon: float = 1e-5
    examples: int = 4


NO_DROPOUT_GOOGLENET = OFF | {"aux_dropout": 0.0}
EVEN_ODD = [(16, 20), (15, 17)]
CASES = {
    "alexnet": Case("alexnet", OFF, forms.alexnet, {}, [(96, 128), (99, 127)]),
    "alexnet_one_tower": Case(
        "alexnet_one_tower", OFF, forms.alexnet,
        {"groups": 1, "padding": 2, "lrn": False}, [(96, 128), (99, 127)]),
    "caffenet": Case("caffenet", OFF, forms.alexnet, {"caffe": True},
                     [(96, 128), (99, 127)]),
    "zfnet": Case("zfnet", OFF, forms.zfnet, {}, [(64, 100), (63, 97)]),
    "googlenet": Case("googlenet", NO_DROPOUT_GOOGLENET, forms.googlenet, {},
                      [(96, 112), (81, 97)]),
    "googlenet_torchvision": Case(
        "googlenet_torchvision", NO_DROPOUT_GOOGLENET | {"aux_adaptive": False},
        forms.googlenet, {"lrn": False, "last_pool": 2}, [(96, 112), (81, 97)],
        "torch_inception", 1e-3),
    "inception_v3": Case(
        "inception_v3", OFF | {"count_include_pad": True}, forms.inception_v3, {},
        [(300, 302), (299, 305)], "torch_inception", 1e-3, examples=2),
    "resnet18": Case("resnet18", {}, forms.resnet,
                     {"blocks": (2, 2, 2, 2), "bottleneck": False},
                     [(64, 80), (63, 81)]),
    "resnet50_v1_5": Case("resnet50_v1_5", {}, forms.resnet,
                          {"blocks": (3, 4, 6, 3), "bottleneck": True},
                          [(64, 80), (63, 81)]),
    "resnet18_v2": Case("resnet18_v2", {}, forms.resnet_v2,
                        {"blocks": (2, 2, 2, 2), "bottleneck": False},
                        [(64, 80), (63, 81)]),
    "resnet18_v2_stem_activation": Case(
        "resnet18_v2", {"stem_activation": True}, forms.resnet_v2,
        {"blocks": (2, 2, 2, 2), "bottleneck": False}, [(64, 80), (63, 81)]),
    "resnet50_v2": Case("resnet50_v2", {}, forms.resnet_v2,
                        {"blocks": (3, 4, 6, 3), "bottleneck": True},
                        [(64, 80), (63, 81)]),
    # The stride of the authors, with fewer of the same blocks.
    "resnet50_v2_1x1": Case(
        "resnet50_v2", {"stride_in": "1x1", "blocks": (1, 2, 1)}, forms.resnet_v2,
        {"blocks": (1, 2, 1), "bottleneck": True, "stride_in": "1x1"},
        [(64, 80), (63, 81)]),
    **{f"timm_resnet{depth}_v2": Case(
        f"resnet{depth}_v2", {}, timm_forms.resnet_v2, {"model": f"resnetv2_{depth}"},
        [(64, 80), (63, 81)]) for depth in (18, 50)},
    "timm_mobilenet_v2": Case("mobilenet_v2", OFF | {"padding": "symmetric"},
                              timm_forms.mobilenet_v2, {}, [(64, 80), (63, 81)]),
    "timm_xception": Case("xception", OFF | {"padding": "symmetric"},
                          timm_forms.xception, {}, [(72, 98), (71, 99)]),
    "cifar_resnet20": Case("cifar_resnet20", {}, forms.cifar_resnet, {"depth": 20},
                           EVEN_ODD),
    "cifar_resnet20_both": Case(
        "cifar_resnet20", {"shortcut": "A_both"}, forms.cifar_resnet,
        {"depth": 20, "zeros": "both"}, EVEN_ODD),
    "cifar_resnet20_b": Case("cifar_resnet20", {"shortcut": "B"}, forms.cifar_resnet,
                             {"depth": 20}, EVEN_ODD),
    # The pre-activated networks, with fewer of the same blocks.
    "cifar_resnet110_preact": Case(
        "cifar_resnet110_preact", {"depth": 20}, forms.cifar_resnet,
        {"depth": 20, "preact": True}, EVEN_ODD),
    "cifar_resnet110_preact_stem_activation": Case(
        "cifar_resnet110_preact", {"depth": 20, "stem_activation": True},
        forms.cifar_resnet, {"depth": 20, "preact": True}, EVEN_ODD),
    "cifar_resnet164_preact": Case(
        "cifar_resnet164_preact", {"depth": 29}, forms.cifar_resnet,
        {"depth": 29, "preact": True, "bottleneck": True}, EVEN_ODD),
    "cifar_densenet40_k12": Case(
        "cifar_densenet40_k12", {}, forms.cifar_densenet,
        {"blocks": (12, 12, 12), "bottleneck": False}, EVEN_ODD),
    "cifar_densenet_bc100_k12": Case(
        "cifar_densenet_bc100_k12", {"blocks": (6, 6, 6)}, forms.cifar_densenet,
        {"blocks": (6, 6, 6), "bottleneck": True}, EVEN_ODD),
}

# Their training is compared with Keras; in torch only the padding differs.
LOGITS_ALONE = {"timm_mobilenet_v2", "timm_xception"}


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
    name, fields, theirs, arguments, sizes, bn, epsilon, examples = CASES[case]
    shape = (*sizes[odd], 3)
    with jax.enable_x64(True):
        model = networks.create(name, CLASSES, Layers(
            bn=bn, dtype="float64", conv="lax", pool="lax"), **fields)
        draw = np.random.default_rng(2)
        batches = [(jnp.asarray(draw.normal(0, 1, (examples, *shape))),
                    jnp.asarray(draw.integers(0, CLASSES, examples))) for _ in range(3)]
        images = batches[0][0]
        shapes = jax.eval_shape(
            lambda: model.init(jax.random.key(0), images, train=False))
        variables = drawn(shapes)
        t = forms.Tensors(variables, epsilon)
        ours = np.asarray(quick_jit(lambda v, x: model.apply(v, x, train=False))(
            variables, images))
        with torch.no_grad():
            expected = theirs(t, nchw(images), **arguments)[0].numpy()
        assert ours.dtype == expected.dtype == np.float64
        assert np.abs(ours - expected).max() <= 1e-9 * expected.std()
        if odd or case in LOGITS_ALONE:
            return  # training is compared once, on the even size
        trained = sgd_steps(model, variables, batches, 1e-4)
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
