"""The networks of Keras, timm and torch that ours equal, as cases of their tests.

tests/networks/test_peers_keras.py and test_peers_torch.py run the cases; the book's
reference of the networks lists them. This module imports none of these libraries.
"""

from typing import Any, NamedTuple

Sizes = tuple[tuple[int, int], tuple[int, int]]  # (H, W) of even and of odd images


class KerasCase(NamedTuple):
    """One of our networks, which equals a network of keras.applications."""

    name: str
    bn: str
    sizes: Sizes
    fields: dict[str, Any] = {}
    arguments: dict[str, Any] = {}  # of Keras' function
    trained: bool = True            # whether three steps are compared, not only logits


class TorchCase(NamedTuple):
    """One of our networks, which equals a function of torch_forms or timm_forms."""

    name: str
    theirs: str  # 'torch FUNCTION' or 'timm FUNCTION'
    sizes: Sizes
    fields: dict[str, Any] = {}
    arguments: dict[str, Any] = {}  # of that function
    bn: str = "torch"
    epsilon: float = 1e-5
    examples: int = 4
    trained: bool = True


OFF = {"dropout": 0.0}
LARGE, WIDE, SMALL = ((48, 48), (45, 39)), ((32, 48), (45, 39)), ((16, 20), (15, 17))
PHOTOS, ALEXNET = ((64, 80), (63, 81)), ((96, 128), (99, 127))

# {function of keras.applications: case}. Deeper variants of networks whose training is
# compared are compared by their logits.
KERAS = {
    "VGG16": KerasCase("vgg16", "keras", ((32, 32), (35, 45)), OFF),
    "ResNet50": KerasCase("resnet50_keras", "keras_resnet", LARGE),
    "ResNet50V2": KerasCase("resnet50_v2_keras", "keras_resnet", LARGE),
    **{f"ResNet{depth}": KerasCase(f"resnet{depth}_keras", "keras_resnet", WIDE,
                                   trained=False) for depth in (101, 152)},
    **{f"ResNet{depth}V2": KerasCase(f"resnet{depth}_v2_keras", "keras_resnet", WIDE,
                                     trained=False) for depth in (101, 152)},
    **{f"DenseNet{depth}": KerasCase(f"densenet{depth}", "keras_resnet", WIDE,
                                     trained=False) for depth in (169, 201)},
    "DenseNet121": KerasCase("densenet121", "keras_resnet", LARGE),
    "InceptionV3": KerasCase("inception_v3_keras", "keras", ((108, 112), (75, 87))),
    "Xception": KerasCase("xception", "keras", ((72, 76), (71, 83)), OFF),
    "MobileNet": KerasCase("mobilenet_v1", "keras", LARGE, OFF | {
        "activation": "relu6", "padding": "keras"}, OFF),
    "MobileNetV2": KerasCase("mobilenet_v2", "keras_mobilenet_v2", LARGE, OFF),
}

# {case: what it compares}. Only the padding of MobileNetV2 and Xception differs from
# Keras, with which their training is compared.
TORCH = {
    "alexnet": TorchCase("alexnet", "torch alexnet", ALEXNET, OFF),
    "alexnet_one_tower": TorchCase("alexnet_one_tower", "torch alexnet", ALEXNET, OFF, {
        "groups": 1, "padding": 2, "lrn": False}),
    "caffenet": TorchCase("caffenet", "torch alexnet", ALEXNET, OFF, {"caffe": True}),
    "zfnet": TorchCase("zfnet", "torch zfnet", ((64, 100), (63, 97)), OFF),
    "googlenet": TorchCase("googlenet", "torch googlenet", ((96, 112), (81, 97)),
                           OFF | {"aux_dropout": 0.0}),
    "googlenet_torchvision": TorchCase(
        "googlenet_torchvision", "torch googlenet", ((96, 112), (81, 97)),
        OFF | {"aux_dropout": 0.0, "aux_adaptive": False},
        {"lrn": False, "last_pool": 2}, "torch_inception", 1e-3),
    "inception_v3": TorchCase(
        "inception_v3", "torch inception_v3", ((300, 302), (299, 305)),
        OFF | {"count_include_pad": True}, {}, "torch_inception", 1e-3, examples=2),
    "resnet18": TorchCase("resnet18", "torch resnet", PHOTOS, {}, {
        "blocks": (2, 2, 2, 2), "bottleneck": False}),
    "resnet50_v1_5": TorchCase("resnet50_v1_5", "torch resnet", PHOTOS, {}, {
        "blocks": (3, 4, 6, 3), "bottleneck": True}),
    "resnet18_v2": TorchCase("resnet18_v2", "torch resnet_v2", PHOTOS, {}, {
        "blocks": (2, 2, 2, 2), "bottleneck": False}),
    "resnet18_v2_stem_activation": TorchCase(
        "resnet18_v2", "torch resnet_v2", PHOTOS, {"stem_activation": True},
        {"blocks": (2, 2, 2, 2), "bottleneck": False}),
    "resnet50_v2": TorchCase("resnet50_v2", "torch resnet_v2", PHOTOS, {}, {
        "blocks": (3, 4, 6, 3), "bottleneck": True}),
    # The stride of the authors, with fewer of the same blocks.
    "resnet50_v2_1x1": TorchCase(
        "resnet50_v2", "torch resnet_v2", PHOTOS,
        {"stride_in": "1x1", "blocks": (1, 2, 1)},
        {"stride_in": "1x1", "blocks": (1, 2, 1), "bottleneck": True}),
    **{f"timm_resnet{depth}_v2": TorchCase(
        f"resnet{depth}_v2", "timm resnet_v2", PHOTOS, {},
        {"model": f"resnetv2_{depth}"}) for depth in (18, 50)},
    "timm_mobilenet_v2": TorchCase("mobilenet_v2", "timm mobilenet_v2", PHOTOS, OFF | {
        "padding": "symmetric"}, trained=False),
    "timm_xception": TorchCase(
        "xception", "timm xception", ((72, 98), (71, 99)),
        OFF | {"padding": "symmetric"}, trained=False),
    "cifar_resnet20": TorchCase("cifar_resnet20", "torch cifar_resnet", SMALL, {}, {
        "depth": 20}),
    "cifar_resnet20_both": TorchCase(
        "cifar_resnet20", "torch cifar_resnet", SMALL, {"shortcut": "A_both"},
        {"depth": 20, "zeros": "both"}),
    "cifar_resnet20_b": TorchCase("cifar_resnet20", "torch cifar_resnet", SMALL, {
        "shortcut": "B"}, {"depth": 20}),
    # The pre-activated networks, with fewer of the same blocks.
    "cifar_resnet110_preact": TorchCase(
        "cifar_resnet110_preact", "torch cifar_resnet", SMALL, {"depth": 20},
        {"depth": 20, "preact": True}),
    "cifar_resnet110_preact_stem_activation": TorchCase(
        "cifar_resnet110_preact", "torch cifar_resnet", SMALL,
        {"depth": 20, "stem_activation": True}, {"depth": 20, "preact": True}),
    "cifar_resnet164_preact": TorchCase(
        "cifar_resnet164_preact", "torch cifar_resnet", SMALL, {"depth": 29},
        {"depth": 29, "preact": True, "bottleneck": True}),
    "cifar_densenet40_k12": TorchCase(
        "cifar_densenet40_k12", "torch cifar_densenet", SMALL, {},
        {"blocks": (12, 12, 12), "bottleneck": False}),
    "cifar_densenet_bc100_k12": TorchCase(
        "cifar_densenet_bc100_k12", "torch cifar_densenet", SMALL,
        {"blocks": (6, 6, 6)}, {"blocks": (6, 6, 6), "bottleneck": True}),
}
