"""Lists timm's weights on the Hugging Face hub.

Sources: timm 1.0.31 (sets of weights, preprocessing, licenses), and its
results/results-imagenet.csv and README (accuracies). The preprocessing is that of those
accuracies: `test_input_size` and `test_crop_pct` if timm has them, which are often
larger than in training.
"""

from typing import Any

from cnn_jax.data.scaling import Scaling
from cnn_jax.interop.pretrained.row import IMAGENET, SIGNED, Pretrained, centre_crop

URL = "https://huggingface.co/timm/{}/resolve/main/model.safetensors"
URLS = {"legacy_xception.tf_in1k": "https://github.com/rwightman/pytorch-image-models/"
        "releases/download/v0.1-cadene/xception-43020ad28.pth"}
APACHE, BSD, NON_COMMERCIAL = "Apache-2.0", "BSD-3-Clause", "CC-BY-NC-4.0"

# Their network -> ours, if the names differ.
NETWORKS = {**{f"resnet{depth}": f"resnet{depth}_v1_5" for depth in (50, 101, 152)},
            **{f"resnetv2_{depth}": f"resnet{depth}_v2"
               for depth in (18, 34, 50, 101, 152)},
            "legacy_xception": "xception",
            **{f"mobilenetv1_{width}": "mobilenet_v1" for width in ("100", "125")},
            **{f"mobilenetv2_{width}": "mobilenet_v2"
               for width in ("050", "100", "140")}}
FIELDS: dict[str, dict[str, Any]] = {
    "inception_v3": {"count_include_pad": True, "aux": False},
    "legacy_xception": {"padding": "symmetric"},
    **{f"mobilenetv1_{width}": {"activation": "relu6", "padding": "symmetric",
                                "width": int(width) / 100} for width in ("100", "125")},
    **{f"mobilenetv2_{width}": {"padding": "symmetric", "width": int(width) / 100}
       for width in ("050", "100", "140")},
}

# (Size of the crop, shorter side before it, interpolation), scaling, license
# -> weights -> top-1 in percent.
Prepared = tuple[tuple[int, int, str], Scaling, str]
WEIGHTS: dict[Prepared, dict[str, float | None]] = {
    ((288, 288, "bicubic"), IMAGENET, APACHE): {
        "resnet18.a1_in1k": 73.158, "resnet18.a2_in1k": 72.372,
        "resnet34.a1_in1k": 77.918, "resnet34.a2_in1k": 77.158,
        "resnet50.a1_in1k": 81.214, "resnet50.a2_in1k": 80.772,
        "resnet50.b1k_in1k": 80.706, "resnet50.b2k_in1k": 80.454,
        "resnet50.c1_in1k": 80.912, "resnet50.c2_in1k": 80.870,
        "resnet50.d_in1k": 80.972, "resnet101.a1_in1k": 82.322,
        "resnet101.a1h_in1k": 82.778, "resnet101.a2_in1k": 82.236,
        "resnet152.a1_in1k": 82.732, "resnet152.a1h_in1k": 83.450,
        "resnet152.a2_in1k": 82.608, "resnext50_32x4d.a1_in1k": 81.466,
        "resnext50_32x4d.a1h_in1k": 82.014, "resnext50_32x4d.a2_in1k": 81.304,
        "resnext101_64x4d.c1_in1k": 83.156},
    ((224, 256, "bilinear"), IMAGENET, BSD): {
        "resnet18.tv_in1k": 69.760, "resnet34.tv_in1k": None,
        "resnet50.tv_in1k": 76.130, "resnet101.tv_in1k": 77.376,
        "resnet152.tv_in1k": 78.322, "resnext50_32x4d.tv_in1k": 77.618,
        "resnext101_32x8d.tv_in1k": 79.310, "resnext101_64x4d.tv_in1k": 82.992,
        "vgg11.tv_in1k": 69.022, "vgg11_bn.tv_in1k": 70.382, "vgg13.tv_in1k": 69.932,
        "vgg13_bn.tv_in1k": 71.588, "vgg16.tv_in1k": 71.592, "vgg16_bn.tv_in1k": 73.370,
        "vgg19.tv_in1k": 72.378, "vgg19_bn.tv_in1k": 74.216,
        "wide_resnet50_2.tv_in1k": 78.480, "wide_resnet101_2.tv_in1k": 78.838},
    ((224, 256, "bicubic"), IMAGENET, APACHE): {
        "densenet121.tv_in1k": 74.764, "densenet161.tv_in1k": 77.358,
        "densenet169.tv_in1k": 75.900, "densenet201.tv_in1k": 77.286,
        "mobilenetv2_050.lamb_in1k": 65.950, "mobilenetv2_100.ra_in1k": 72.976,
        "mobilenetv2_140.ra_in1k": 76.520, "resnet18.gluon_in1k": 70.838,
        "resnet34.gluon_in1k": 74.578, "resnet50.am_in1k": 78.998,
        "resnet50.gluon_in1k": 77.580, "resnet101.gluon_in1k": 79.310,
        "resnet152.gluon_in1k": 79.694, "resnext50_32x4d.gluon_in1k": 79.360,
        "resnext101_64x4d.gluon_in1k": 80.600},
    ((224, 256, "bilinear"), IMAGENET, NON_COMMERCIAL): {
        "resnet18.fb_ssl_yfcc100m_ft_in1k": 72.594,
        "resnet18.fb_swsl_ig1b_ft_in1k": 73.282,
        "resnet50.fb_ssl_yfcc100m_ft_in1k": 79.234,
        "resnet50.fb_swsl_ig1b_ft_in1k": 81.182,
        "resnext50_32x4d.fb_ssl_yfcc100m_ft_in1k": 80.338,
        "resnext50_32x4d.fb_swsl_ig1b_ft_in1k": 82.174,
        "resnext101_32x8d.fb_ssl_yfcc100m_ft_in1k": 81.606,
        "resnext101_32x8d.fb_swsl_ig1b_ft_in1k": 84.302,
        "resnext101_32x8d.fb_wsl_ig1b_ft_in1k": 82.698},
    ((288, 303, "bicubic"), IMAGENET, APACHE): {
        "densenet121.ra_in1k": 76.500, "resnet34.bt_in1k": 76.480,
        "resnet50.bt_in1k": 79.640, "resnet50.ra_in1k": 79.836,
        "resnet50.ram_in1k": 79.976, "resnext50_32x4d.ra_in1k": 80.698,
        "wide_resnet50_2.racm_in1k": 82.280},
    ((224, 232, "bilinear"), IMAGENET, BSD): {
        "resnet50.tv2_in1k": 80.850, "resnet101.tv2_in1k": 81.890,
        "resnet152.tv2_in1k": 82.288, "resnext50_32x4d.tv2_in1k": 81.182,
        "resnext101_32x8d.tv2_in1k": 82.832, "wide_resnet50_2.tv2_in1k": 81.606,
        "wide_resnet101_2.tv2_in1k": 82.498},
    ((224, 235, "bicubic"), IMAGENET, APACHE): {
        "resnet18.a3_in1k": 68.254, "resnet34.a3_in1k": 72.970,
        "resnet50.a3_in1k": 78.048, "resnet101.a3_in1k": 79.814,
        "resnet152.a3_in1k": 80.546, "resnext50_32x4d.a3_in1k": 79.268},
    ((288, 288, "bicubic"), SIGNED, APACHE): {
        "resnet34.ra4_e3600_r224_in1k": None, "resnetv2_18.ra4_e3600_r224_in1k": None,
        "resnetv2_34.ra4_e3600_r224_in1k": None, "resnetv2_50.a1h_in1k": 81.398,
        "resnetv2_101.a1h_in1k": 83.002},
    ((299, 341, "bicubic"), SIGNED, APACHE): {
        "inception_v3.tf_adv_in1k": 77.592, "inception_v3.tf_in1k": 77.862,
        "inception_v3.tv_in1k": 77.434},
    ((299, 341, "bicubic"), IMAGENET, APACHE): {
        "inception_v3.gluon_in1k": 78.806},
    ((299, 333, "bicubic"), SIGNED, APACHE): {
        "legacy_xception.tf_in1k": 79.040},
    ((256, 269, "bicubic"), SIGNED, APACHE): {
        "mobilenetv1_100.ra4_e3600_r224_in1k": 76.094},
    ((256, 256, "bicubic"), SIGNED, APACHE): {
        "mobilenetv1_125.ra4_e3600_r224_in1k": 77.600},
    ((224, 224, "bicubic"), IMAGENET, APACHE): {
        "resnet50.a1h_in1k": 80.676}}


def row(name: str, prepared: Prepared, top1: float | None) -> Pretrained:
    """Makes the row of one set of weights."""
    network = name.partition(".")[0]
    crop, scaling, license = prepared
    return Pretrained(
        NETWORKS.get(network, network), "timm", URLS.get(name, URL.format(name)), None,
        centre_crop(*crop), scaling, top1, FIELDS.get(network, {}),
        "torch_inception" if network == "inception_v3" else "torch", license=license)


ROWS = {f"timm:{name}": row(name, prepared, top1)
        for prepared, weights in WEIGHTS.items() for name, top1 in weights.items()}
