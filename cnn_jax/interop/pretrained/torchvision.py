"""Lists torchvision's weights; source of all facts: metadata of torchvision 0.29."""

from typing import Any

from cnn_jax.interop.pretrained.row import IMAGENET, SIGNED, Pretrained, centre_crop

URL = "https://download.pytorch.org/models/{}.pth"

# Their network -> ours, if the names differ.
NETWORKS = {"alexnet": "alexnet_one_tower", "googlenet": "googlenet_torchvision",
            **{f"resnet{depth}": f"resnet{depth}_v1_5" for depth in (50, 101, 152)}}
FIELDS: dict[str, dict[str, Any]] = {
    "alexnet": {"flatten_size": 6},
    **{f"vgg{depth}{norm}": {"flatten_size": 7}
       for depth in (11, 13, 16, 19) for norm in ("", "_bn")},
    "googlenet": {"dropout": 0.2},
    "inception_v3": {"count_include_pad": True, "dropout": 0.5},
    "mobilenet_v2": {"padding": "symmetric"},
}
INCEPTIONS = ("googlenet", "inception_v3")

# Network:weights -> (file, top-1 in percent). The hexadecimal digits at the end of a
# file's name are the first of its SHA-256. A network alone means IMAGENET1K_V1.
FILES = {
    "alexnet": ("alexnet-owt-7be5be79", 56.522),
    "vgg11": ("vgg11-8a719046", 69.020),
    "vgg11_bn": ("vgg11_bn-6002323d", 70.370),
    "vgg13": ("vgg13-19584684", 69.928),
    "vgg13_bn": ("vgg13_bn-abd245e5", 71.586),
    "vgg16": ("vgg16-397923af", 71.592),
    "vgg16_bn": ("vgg16_bn-6c64b313", 73.360),
    "vgg19": ("vgg19-dcbb9e9d", 72.376),
    "vgg19_bn": ("vgg19_bn-c79401a0", 74.218),
    "googlenet": ("googlenet-1378be20", 69.778),
    "inception_v3": ("inception_v3_google-0cc3c7bd", 77.294),
    "squeezenet1_0": ("squeezenet1_0-b66bff10", 58.092),
    "squeezenet1_1": ("squeezenet1_1-b8a52dc0", 58.178),
    "resnet18": ("resnet18-f37072fd", 69.758),
    "resnet34": ("resnet34-b627a593", 73.314),
    "resnet50": ("resnet50-0676ba61", 76.130),
    "resnet101": ("resnet101-63fe2227", 77.374),
    "resnet152": ("resnet152-394f9c45", 78.312),
    "resnext50_32x4d": ("resnext50_32x4d-7cdf4587", 77.618),
    "resnext101_32x8d": ("resnext101_32x8d-8ba56ff5", 79.312),
    "resnext101_64x4d": ("resnext101_64x4d-173b62eb", 83.246),
    "wide_resnet50_2": ("wide_resnet50_2-95faca4d", 78.468),
    "wide_resnet101_2": ("wide_resnet101_2-32ee1156", 78.848),
    "densenet121": ("densenet121-a639ec97", 74.434),
    "densenet161": ("densenet161-8d451a50", 77.138),
    "densenet169": ("densenet169-b2777c0a", 75.600),
    "densenet201": ("densenet201-c1103571", 76.896),
    "mobilenet_v2": ("mobilenet_v2-b0353104", 71.878),
    "resnet50:IMAGENET1K_V2": ("resnet50-11ad3fa6", 80.858),
    "resnet101:IMAGENET1K_V2": ("resnet101-cd907fc2", 81.886),
    "resnet152:IMAGENET1K_V2": ("resnet152-f82ba261", 82.284),
    "resnext50_32x4d:IMAGENET1K_V2": ("resnext50_32x4d-1a0047aa", 81.198),
    "resnext101_32x8d:IMAGENET1K_V2": ("resnext101_32x8d-110c445d", 82.834),
    "wide_resnet50_2:IMAGENET1K_V2": ("wide_resnet50_2-9ba9bcbe", 81.602),
    "wide_resnet101_2:IMAGENET1K_V2": ("wide_resnet101_2-d733dc28", 82.510),
    "mobilenet_v2:IMAGENET1K_V2": ("mobilenet_v2-7ebf99e0", 72.154),
}
WHOLE_SHA256 = {"resnet18-f37072fd":
                "f37072fd47e89c5e827621c5baffa7500819f7896bbacec160b1a16c560e07ec"}
# Trained by the second recipe, though it is the first set of weights.
SECOND_RECIPE = ("resnext101_64x4d",)


def row(name: str, file: str, top1: float) -> Pretrained:
    """Makes the row of a network and its weights."""
    network, _, weights = name.partition(":")
    second = weights == "IMAGENET1K_V2" or network in SECOND_RECIPE
    size, shorter_side = 224, 232 if second else 256
    if network == "inception_v3":
        size, shorter_side = 299, 342
    return Pretrained(
        NETWORKS.get(network, network), "torchvision", URL.format(file),
        ("sha256", WHOLE_SHA256.get(file, file.rpartition("-")[2])),
        centre_crop(size, shorter_side, "bilinear"),
        # These two networks rescale the usual input to this one: `transform_input`.
        SIGNED if network in INCEPTIONS else IMAGENET, top1,
        FIELDS.get(network, {}),
        "torch_inception" if network in INCEPTIONS else "torch")


ROWS = {f"torchvision:{name}": row(name, *facts) for name, facts in FILES.items()}
