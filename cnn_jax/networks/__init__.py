"""Every network by name. One file per family; one row here per network."""

import dataclasses
import math
import numbers
import sys
from typing import Any, NamedTuple

import flax.linen as nn
from ml_collections import ConfigDict

from cnn_jax.layers import Layers, eval_shape, lookup
from cnn_jax.networks import densenet, resnet, vgg
from cnn_jax.networks.ai_edu import AiEduCifar, AiEduCNN, AiEduDNN
from cnn_jax.networks.alexnet import AlexNet, ZFNet
from cnn_jax.networks.cifar_resnet import CifarResNet
from cnn_jax.networks.densenet import DenseNet
from cnn_jax.networks.fcn import FCN
from cnn_jax.networks.googlenet import GoogLeNet
from cnn_jax.networks.inception_v3 import InceptionV3
from cnn_jax.networks.lenet import LeNet5, LeNet5Published
from cnn_jax.networks.mobilenet import MobileNetV1, MobileNetV2
from cnn_jax.networks.parts import (apply_head, freeze_mask, frozen_parts,
                                    frozen_statistics, is_head, part_of, parts_mask,
                                    parts_of, transfer)
from cnn_jax.networks.resnet import PreActResNet, ResNet
from cnn_jax.networks.squeezenet import SqueezeNet
from cnn_jax.networks.stacked import StackedCNN
from cnn_jax.networks.tf2_course import AlexNet8, CBAPDNet, Inception10
from cnn_jax.networks.user_network import check_class, import_network
from cnn_jax.networks.vgg import VGG
from cnn_jax.networks.xception import Xception
from cnn_jax.ops import is_integer
from cnn_jax.user_code import is_reference

__all__ = [
    "NETWORKS", "Network", "create", "find", "from_config", "register", "transfer",
    "variant_fields"]


class Network(NamedTuple):
    """A row of `NETWORKS`."""

    constructor: type[nn.Module]
    input_shape: tuple[int, int, int]  # (H, W, C) of the publication
    fields: dict[str, Any] = {}        # where this variant differs from the class
    bn: str = "paper"                  # replaces `Layers.bn` where that is "paper"


GREY_28, GREY_32 = (28, 28, 1), (32, 32, 1)
COLOUR_28, COLOUR_32, COLOUR_128 = (28, 28, 3), (32, 32, 3), (128, 128, 3)
COLOUR_224, COLOUR_227, COLOUR_299 = (224, 224, 3), (227, 227, 3), (299, 299, 3)

TOWER = {"widths": (64, 192, 384, 256, 256), "groups": 1, "padding": 2, "lrn": "",
         "dropout_first": True}
GOOGLENET_BN = {"norm": True, "lrn": ""}
V2_KERAS = {"stride_in": "last", "bias": True, "stem_pool": "zero"}
BC = {"num_classes": 10, "stem": "3x3"}
PLAIN_DENSE = BC | {"bottleneck": False, "compression": 1.0}
KERAS_MNIST = {"groups": ((32,), (64,)), "dense": (), "activation": "relu",
               "padding": "VALID"}
SHAPE_CONVS, MNIST_CONVS = ((8, 3, 1), (16, 3, 0)), ((8, 5, 0), (16, 5, 0))


def imagenet_resnet(depth: int, **fields: Any) -> dict[str, Any]:
    return {"blocks": resnet.DEPTHS[depth], "bottleneck": depth >= 50, **fields}


NETWORKS = {
    "lenet5": Network(LeNet5, GREY_32),
    "lenet5_1998": Network(LeNet5Published, GREY_32),
    "alexnet": Network(AlexNet, COLOUR_227),
    "alexnet_ungrouped": Network(AlexNet, COLOUR_227, {"groups": 1}),
    "alexnet_one_tower": Network(AlexNet, COLOUR_224, TOWER),
    "caffenet": Network(AlexNet, COLOUR_227, {"lrn": "caffe", "pool_first": True}),
    "zfnet": Network(ZFNet, COLOUR_224),
    **{f"vgg{depth}{'_bn' * norm}": Network(
        VGG, COLOUR_224, {"depths": vgg.DEPTHS[depth], "norm": norm})
       for depth in vgg.DEPTHS for norm in (False, True)},
    "googlenet": Network(GoogLeNet, COLOUR_224),
    "googlenet_bn": Network(GoogLeNet, COLOUR_224, GOOGLENET_BN),
    "googlenet_torchvision": Network(
        GoogLeNet, COLOUR_224, GOOGLENET_BN | {
            "five": 3, "last_pool": 2, "aux_adaptive": True}),
    "inception_v3": Network(InceptionV3, COLOUR_299),
    "inception_v3_keras": Network(
        InceptionV3, COLOUR_299, {"scale": False, "aux": False, "dropout": 0.0}),
    **{f"resnet{depth}": Network(ResNet, COLOUR_224, imagenet_resnet(depth))
       for depth in resnet.DEPTHS},
    **{f"resnet{depth}_v1_5": Network(
        ResNet, COLOUR_224, imagenet_resnet(depth, stride_in="3x3"))
       for depth in (50, 101, 152)},
    **{f"resnext{depth}_{name}": Network(ResNet, COLOUR_224, imagenet_resnet(
        depth, stride_in="3x3", groups=groups, width=width))
       for depth, name, groups, width in (
           (50, "32x4d", 32, 128), (101, "32x8d", 32, 256), (101, "64x4d", 64, 256))},
    **{f"wide_resnet{depth}_2": Network(
        ResNet, COLOUR_224, imagenet_resnet(depth, stride_in="3x3", width=128))
       for depth in (50, 101)},
    **{f"resnet{depth}_keras": Network(
        ResNet, COLOUR_224, imagenet_resnet(depth, bias=True))
       for depth in (50, 101, 152)},
    **{f"resnet{depth}_v2": Network(PreActResNet, COLOUR_224, imagenet_resnet(depth))
       for depth in resnet.DEPTHS},
    **{f"resnet{depth}_v2_keras": Network(
        PreActResNet, COLOUR_224, imagenet_resnet(depth, **V2_KERAS))
       for depth in (50, 101, 152)},
    **{f"cifar_resnet{depth}": Network(CifarResNet, COLOUR_32, {"depth": depth})
       for depth in (20, 32, 44, 56, 110, 1202)},
    "cifar_resnet110_preact": Network(
        CifarResNet, COLOUR_32, {"depth": 110, "preact": True}),
    **{f"cifar_resnet{depth}_preact": Network(
        CifarResNet, COLOUR_32,
        {"depth": depth, "preact": True, "bottleneck": True, "shortcut": "B"})
       for depth in (164, 1001)},
    **{f"densenet{depth}": Network(
        DenseNet, COLOUR_224, {"blocks": densenet.DEPTHS[depth]})
       for depth in densenet.DEPTHS},
    **{f"cifar_densenet{depth}_k12": Network(
        DenseNet, COLOUR_32,
        PLAIN_DENSE | {"blocks": ((depth - 4) // 3,) * 3, "growth": 12})
       for depth in (40, 100)},
    **{f"cifar_densenet_bc{depth}_k{growth}": Network(
        DenseNet, COLOUR_32, BC | {"blocks": ((depth - 4) // 6,) * 3, "growth": growth})
       for depth, growth in ((100, 12), (250, 24), (190, 40))},
    "densenet161": Network(
        DenseNet, COLOUR_224, {"blocks": (6, 12, 36, 24), "growth": 48}),
    "xception": Network(Xception, COLOUR_299),
    "mobilenet_v1": Network(MobileNetV1, COLOUR_224),
    "mobilenet_v2": Network(MobileNetV2, COLOUR_224),
    **{f"squeezenet{version.replace('.', '_')}": Network(
        SqueezeNet, COLOUR_224, {"version": version}) for version in ("1.0", "1.1")},
    "selu_cnn": Network(StackedCNN, GREY_28),
    "separable_cnn": Network(StackedCNN, GREY_28, {"separable": True}),
    "mnist_cnn": Network(StackedCNN, GREY_28, KERAS_MNIST),
    "mnist_cnn_pytorch": Network(
        StackedCNN, GREY_28, KERAS_MNIST | {"kernels": (3, 2)}),
    "monkey_cnn": Network(StackedCNN, COLOUR_128, {"activation": "relu"}),
    "baseline": Network(CBAPDNet, COLOUR_32),
    "tf2_lenet5": Network(LeNet5, COLOUR_32, {"activation": "sigmoid", "pool": "max"}),
    "tf2_alexnet8": Network(AlexNet8, COLOUR_32),
    "tf2_vgg16": Network(CBAPDNet, COLOUR_32, {
        "groups": ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512,) * 3),
        "kernel": 3, "dense": (512, 512)}),
    "tf2_inception10": Network(Inception10, COLOUR_32),
    "tf2_resnet18": Network(
        ResNet, COLOUR_32, {"stem": "3x3", "padding": "SAME", "num_classes": 10},
        bn="keras"),
    "ai_edu_colour_cnn": Network(AiEduCNN, COLOUR_28),
    "ai_edu_colour_dnn": Network(AiEduDNN, COLOUR_28),
    "ai_edu_shape_cnn": Network(
        AiEduCNN, GREY_28, {"convs": SHAPE_CONVS, "num_classes": 5}),
    "ai_edu_shape_dnn": Network(AiEduDNN, GREY_28, {"num_classes": 5}),
    "ai_edu_shape_colour_cnn": Network(
        AiEduCNN, COLOUR_28, {"convs": SHAPE_CONVS, "num_classes": 9}),
    "ai_edu_shape_colour_dnn": Network(AiEduDNN, COLOUR_28, {"num_classes": 9}),
    "ai_edu_mnist_cnn": Network(
        AiEduCNN, GREY_28, {"convs": MNIST_CONVS, "num_classes": 10}),
    "ai_edu_mnist_dnn": Network(AiEduDNN, GREY_28, {
        "hidden": (64, 16), "activations": ("sigmoid", "tanh"), "num_classes": 10}),
    "ai_edu_fashion_cnn": Network(
        AiEduCNN, GREY_28, {"convs": ((32, 3, 0),), "dense": 128, "num_classes": 10}),
    "ai_edu_fashion_dnn": Network(AiEduDNN, GREY_28, {"norm": True, "num_classes": 10}),
    "ai_edu_cifar_cnn": Network(AiEduCifar, COLOUR_32),
    "shapes_fcn": Network(FCN, COLOUR_32),
}

PUBLISHED = frozenset(NETWORKS)

# The classes that make their blocks by `Layers.block`, so that model.remat has an
# effect.
WITH_BLOCKS = (ResNet, PreActResNet, CifarResNet, DenseNet, MobileNetV1, MobileNetV2,
               GoogLeNet, InceptionV3, Xception, Inception10)


def register(name: str, constructor: type[nn.Module],
             input_shape: tuple[int, int, int] = COLOUR_224) -> None:
    """Adds a network of your own to `NETWORKS`, for this process.

    Other processes can open a run of this network if they can import the class. A class
    of `__main__` must be registered there first.

    constructor: a Linen module with a field num_classes, whose `__call__(x, train)`
        returns logits [N, num_classes].
    Raises ValueError if another network has the name, or for another kind of class.
    """
    if name in NETWORKS and NETWORKS[name].constructor is not constructor:
        raise ValueError(f"network {name!r} exists already: choose another name")
    check_class(constructor)
    NETWORKS[name] = Network(constructor, input_shape)


def recorded_name(name: str) -> str:
    """Returns the name by which a config.json records a network.

    It is MODULE:CLASS for a registered class that can be imported. A class of the
    running program (`__main__`), or one defined in a function, cannot be imported: it
    keeps its name.
    """
    row = NETWORKS.get(name)
    if row is None or name in PUBLISHED or row != Network(*row[:2]):
        return name
    module, attribute = row.constructor.__module__, row.constructor.__qualname__
    path = f"{module}:{attribute}"
    imported = getattr(sys.modules.get(module), attribute, None)
    importable = (module != "__main__" and imported is row.constructor
                  and is_reference(path))
    return path if importable else name


def find(name: str) -> Network:
    """Finds a network: a name in `NETWORKS`, or MODULE:CLASS of a module of your own.

    Raises ValueError if there is none.
    """
    if is_reference(name):
        return Network(import_network(name), COLOUR_224)
    return lookup(NETWORKS, "network", name)


def has_layers(name: str) -> bool:
    """Tells whether a network makes its layers through `Layers`, as all of ours do."""
    return "layers" in find(name).constructor.__dataclass_fields__


def create(name: str, num_classes: int | None = None, layers: Layers = Layers(),
           dtype: str | None = None, **fields: Any) -> nn.Module:
    """Creates a network by its name, see `find`; it is not initialized yet.

        network = networks.create("resnet18", num_classes=5, dtype="bfloat16")
        variables = network.init(jax.random.key(0), images)  # float32 [N, 224, 224, 3]
        logits = network.apply(variables, images)            # [N, 5], as in evaluation

    In training, pass train=True, mutable=["batch_stats"], and rngs={"dropout": key}.

    num_classes: None: as published.
    layers: what all its layers share: algorithms, initializers, batch norm.
    dtype: of the computation, "float32" or "bfloat16"; None: that of `layers`.
        Parameters are always float32.
    fields: fields of the network's own class, such as `activation="relu"`.
    Raises ValueError for an unknown name or field, for a value whose type is not that
    of the field's default, and for num_classes < 1.
    """
    row = find(name)
    if num_classes is not None:
        if not is_integer(num_classes) or num_classes < 1:
            raise ValueError("num_classes must be a whole number and at least 1, not "
                             f"{num_classes!r}")
        fields["num_classes"] = int(num_classes)
    known = variant_fields(name) | {"num_classes": 1}
    for field, value in fields.items():
        default = lookup(known, f"field of network {name}", field)
        if not fits_default(value, default):
            raise ValueError(f"field {field} of network {name} must be of type "
                             f"{type(default).__name__}, like {default!r}, not "
                             f"{value!r}")
        fields[field] = as_tuples(value)
    if dtype is not None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be float32 or bfloat16, not {dtype!r}")
        if not has_layers(name):
            raise ValueError(f"{name} has no field 'layers', through which dtype = "
                             f"{dtype!r} would reach its layers: leave out dtype, or "
                             "add the field to the class")
        layers = dataclasses.replace(layers, dtype=dtype)
    if layers.bn == "paper":
        layers = dataclasses.replace(layers, bn=row.bn)
    if has_layers(name):
        fields["layers"] = layers
    return row.constructor(**(row.fields | fields))


def from_config(config: ConfigDict, num_classes: int | None = None,
                axis_name: str | None = None, devices: int = 1) -> nn.Module:
    """Creates the network of a config, not yet initialized.

    num_classes: of the data, used if the config sets none; None: as published.
    axis_name: the mapped axis of `pmap` in which its training steps run, else None.
    devices: number of devices that share a training batch.
    """
    model = config.model
    layers = Layers(conv=model.conv, pool=model.pool, dtype=config.dtype,
                    init=model.init, bn=model.bn, axis_name=axis_name,
                    bn_groups=batch_norm_groups(config, devices), remat=model.remat)
    return create(model.name, model.num_classes or num_classes, layers, **model.fields)


def batch_norm_groups(config: ConfigDict, devices: int) -> int:
    """Counts the groups of a training batch that batch norm normalizes separately."""
    sync = config.model.bn_sync
    if sync in ("all", "device"):
        return devices if sync == "device" else 1
    return config.batch_size // int(sync)


def has_blocks(name: str) -> bool:
    """Tells whether a network has blocks, so that `model.remat` has an effect."""
    return find(name).constructor in WITH_BLOCKS


def variant_fields(name: str) -> dict[str, Any]:
    """Lists the fields of a network that select a variant, with their defaults."""
    row = find(name)
    shared = {"num_classes", "layers", "parent", "name"}
    return {field.name: field.default
            for field in row.constructor.__dataclass_fields__.values()
            if field.name not in shared} | {
                name: value for name, value in row.fields.items()
                if name not in shared}


def as_tuples(value: Any) -> Any:
    """Turns the lists of JSON into tuples: the fields of modules must be hashable."""
    if isinstance(value, dict):
        return {key: as_tuples(item) for key, item in value.items()}
    return (tuple(map(as_tuples, value)) if isinstance(value, (list, tuple))
            else value)


def fits_default(value: Any, default: Any) -> bool:
    """Tells whether a field may have this value, by the type of its default.

    An integer may stand for a float, which must be finite, and a list for a tuple.
    """
    if isinstance(default, float):
        return (isinstance(value, numbers.Real) and not isinstance(value, bool)
                and math.isfinite(value))
    if isinstance(default, int) and not isinstance(default, bool):
        return is_integer(value)
    return isinstance(value, (tuple, list) if isinstance(default, tuple)
                      else type(default))
