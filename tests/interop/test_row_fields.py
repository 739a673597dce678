"""The fields of `PRETRAINED` rows have the effects worked out by hand.

The layers are taken out of the rows' networks. Each convolution has a kernel with a
single 1, so it only moves the picture: the position of a pixel shows the padding.
"""

import functools

import jax
import numpy as np
import pytest

from cnn_jax import networks
from cnn_jax.interop.pretrained import PRETRAINED, network_of
from cnn_jax.layers import BatchNorm, Layers
from cnn_jax.networks.trace import trace_shapes

PLAIN = Layers(conv="lax", pool="lax")


@functools.cache
def calls_of(source, side=96):
    """Lists the calls of a row's network on an image of side x side, by shapes alone.

    Stages are shortened, but keep a first, a middle and a last block.
    """
    row = PRETRAINED[source]
    fields = networks.variant_fields(row.network) | row.fields
    changes = {"aux": False} if "aux" in fields else {}
    if isinstance(fields.get("blocks"), tuple):
        changes["blocks"] = tuple(min(count, 3) for count in fields["blocks"])
    network = network_of(row._replace(fields=row.fields | changes), PLAIN)
    return {call.name: call for call in trace_shapes(network, None, (side, side, 3))}


def layer(source, name, side=96):
    """Takes a layer out of a row's network."""
    return calls_of(source, side)[name].module.clone(parent=None, name=None)


def numbered(side):
    """Numbers the pixels: 1, 2, ... in rows, [1, side, side, 1]."""
    return np.arange(1, side**2 + 1, dtype=np.float32).reshape(1, side, side, 1)


def one(size, row, column):
    """Makes a kernel [size, size, 1, 1] whose element [row, column] is 1."""
    kernel = np.zeros((size, size, 1, 1), np.float32)
    kernel[row, column] = 1
    return {"params": {"kernel": kernel}}


BEFORE = [[0, 0], [0, 6]]                  # a row and a column of zeros before
AFTER = [[1, 3], [9, 11]]                  # after
BOTH = [[0, 0, 0], [0, 7, 9], [0, 17, 19]]  # on both sides of 5 x 5 pixels


@pytest.mark.parametrize("source, even, odd", [
    ("torchvision:mobilenet_v2", BEFORE, BOTH),
    ("timm:mobilenetv1_100.ra4_e3600_r224_in1k", BEFORE, BOTH),
    ("keras:mobilenet_v2", AFTER, BOTH),
    ("keras:mobilenet", AFTER, [[1, 3], [11, 13]])])
def test_padding_of_strided_convolutions(source, even, odd):
    conv = layer(source, "stem/conv").clone(features=1)
    for side, expected in ((4, even), (5, odd)):
        actual = conv.apply(one(3, 0, 0), numbered(side))
        assert actual[0, ..., 0].tolist() == expected


@pytest.mark.parametrize("source, name, size, position, side, expected", [
    # 7 x 7 with stride 2, three zeros before; the 1 reads the pixel two to the left.
    ("torchvision:resnet18", "stem_conv", 7, (1, 1), 4, [[0, 0], [0, 1]]),
    # 11 x 11 of stride 4, two zeros before: pixel 25 is in the third row and column.
    ("torchvision:alexnet", "conv1", 11, (0, 0), 11, [[0, 0], [0, 25]]),
    # 7 x 7 with stride 2 without padding: 9 pixels give two positions.
    ("torchvision:squeezenet1_0", "conv1", 7, (0, 0), 9, [[1, 3], [19, 21]])])
def test_padding_of_first_convolutions(source, name, size, position, side, expected):
    conv = layer(source, name).clone(features=1, use_bias=False)
    actual = conv.apply(one(size, *position), numbered(side))
    assert actual[0, ..., 0].tolist() == expected


@pytest.mark.parametrize("source, names, sign, expected", [
    # 3 x 3 of stride 2 on 4 x 4 pixels.
    ("keras:xception", ["entry_block1/pool"], 1, [[11, 12], [15, 16]]),
    ("timm:legacy_xception.tf_in1k", ["entry_block1/pool"], 1, [[6, 8], [14, 16]]),
    # Zeros around negative pixels would be the maximum; -inf would not.
    ("torchvision:resnet50", ["stem_pool"], -1, [[-1, -2], [-5, -6]]),
    ("timm:resnetv2_50.a1h_in1k", ["stem_pool"], -1, [[-1, -2], [-5, -6]]),
    ("keras:resnet50v2", ["stem_pad", "stem_pool"], -1, [[0, 0], [0, -6]]),
    # 3 x 3 with stride 2 that rounds up, and torchvision's last pool of 2 x 2.
    ("torchvision:squeezenet1_1", ["conv1_pool"], 1, [[11, 12], [15, 16]]),
    ("torchvision:googlenet", ["stage4_pool"], 1, [[6, 8], [14, 16]])])
def test_max_pools(source, names, sign, expected):
    x = sign * numbered(4)
    for name in names:
        x = layer(source, name).apply({}, x)
    assert x[0, ..., 0].tolist() == expected


@pytest.mark.parametrize("source, expected", [
    ("torchvision:inception_v3", [[4, 6, 4], [6, 9, 6], [4, 6, 4]]),
    ("timm:inception_v3.tv_in1k", [[4, 6, 4], [6, 9, 6], [4, 6, 4]]),
    ("keras:inception_v3", [[9, 9, 9]] * 3)])
def test_average_pools_with_or_without_the_zeros_of_the_border(source, expected):
    pool = layer(source, "stage5_b/d1")
    actual = pool.apply({}, np.full((1, 3, 3, 1), 9, np.float32))
    np.testing.assert_allclose(actual[0, ..., 0], expected, rtol=1e-6)


@pytest.mark.parametrize("source, epsilon", [
    ("torchvision:resnet18", 1e-5), ("torchvision:mobilenet_v2", 1e-5),
    ("torchvision:googlenet", 1e-3), ("torchvision:inception_v3", 1e-3),
    ("timm:legacy_xception.tf_in1k", 1e-5),
    ("timm:mobilenetv1_100.ra4_e3600_r224_in1k", 1e-5),
    ("keras:resnet50", 1.001e-5), ("keras:resnet50v2", 1.001e-5),
    ("keras:inception_v3", 1e-3), ("keras:xception", 1e-3), ("keras:mobilenet", 1e-3),
    ("keras:mobilenet_v2", 1e-3),
    # No other test here traces these.
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("timm:inception_v3.tf_in1k", 1e-3), ("torchvision:vgg11_bn", 1e-5),
        ("torchvision:densenet121", 1e-5),
        ("timm:resnetv2_18.ra4_e3600_r224_in1k", 1e-5),
        ("timm:mobilenetv2_100.ra_in1k", 1e-5), ("keras:densenet121", 1.001e-5)))])
def test_epsilon_of_batch_norm(source, epsilon):
    """With variance 0, a value of sqrt(epsilon) becomes 1."""
    norms = [call for call in calls_of(source).values()
             if isinstance(call.module, BatchNorm)]
    assert {call.module.epsilon for call in norms} == {epsilon}
    norm = norms[0].module.clone(parent=None, name=None)
    x = np.full((1, 1, 1, 1), epsilon**0.5, np.float32)
    variables = norm.init(jax.random.key(0), x)
    variables["batch_stats"]["var"] *= 0
    np.testing.assert_allclose(norm.apply(variables, x), [[[[1]]]], rtol=1e-5)


@pytest.mark.parametrize("source, sides", [
    # Image 96, stem 48, pool 24, second stage 12.
    ("torchvision:resnet50", {"stage2_block1/conv1": 24, "stage2_block1/conv2": 12}),
    ("keras:resnet50", {"stage2_block1/conv1": 12, "stage2_block1/conv2": 12}),
    ("timm:resnetv2_50.a1h_in1k", {
        "stage1_block3/conv2": 24, "stage2_block1/conv1": 24,
        "stage2_block1/conv2": 12}),
    ("keras:resnet50v2", {
        "stage1_block3/conv1": 24, "stage1_block3/conv2": 12,
        "stage2_block1/conv1": 12})])
def test_place_of_the_stride(source, sides):
    calls = calls_of(source)
    assert {name: calls[name].output.shape[1] for name in sides} == sides


@pytest.mark.parametrize("source, side, size, first", [
    # Maps of twice the size: each value is the mean of 2 x 2 neighbours.
    ("torchvision:vgg11", 448, 14, (1 + 2 + 15 + 16) / 4),
    ("torchvision:alexnet", 415, 12, (1 + 2 + 13 + 14) / 4)])
def test_maps_are_averaged_before_the_dense_layers(source, side, size, first):
    call = calls_of(source, side)["flatten_pool"]
    assert call.inputs[0].shape[1:3] == (size, size)
    actual = layer(source, "flatten_pool", side).apply({}, numbered(size))[0, ..., 0]
    assert actual.shape == (size // 2, size // 2)
    np.testing.assert_allclose([actual[0, 0], actual[0, 1]], [first, first + 2])


def test_activations_are_clipped_at_6():
    for source in ("keras:mobilenet", "timm:mobilenetv1_125.ra4_e3600_r224_in1k",
                   "keras:mobilenet_v2"):
        act = layer(source, "stem/act")
        assert act.apply({}, np.float32([-1, 3, 7])).tolist() == [0, 3, 6]


@pytest.mark.parametrize("source, name, expected", [
    ("torchvision:googlenet", "stage3_3a/c2/conv", {"kernel": (3, 3, 16, 32)}),
    ("keras:resnet50", "stage1_block1/conv1",
     {"kernel": (1, 1, 64, 64), "bias": (64,)}),
    ("torchvision:resnet50", "stage1_block1/conv1", {"kernel": (1, 1, 64, 64)}),
    ("torchvision:resnext50_32x4d", "stage1_block1/conv2", {"kernel": (3, 3, 4, 128)}),
    ("torchvision:wide_resnet50_2", "stage1_block1/conv2",
     {"kernel": (3, 3, 128, 128)}),
    ("keras:mobilenet_0.25", "stem/conv", {"kernel": (3, 3, 3, 8)}),
    ("timm:mobilenetv1_125.ra4_e3600_r224_in1k", "stem/conv",
     {"kernel": (3, 3, 3, 40)}),
    # 32 * 0.35 = 11.2: the nearest multiple of 8 is 8, but that is over 10 % smaller.
    ("keras:mobilenet_v2_0.35", "stem/conv", {"kernel": (3, 3, 3, 16)}),
    ("keras:inception_v3", "stem_conv1/bn", {"bias": (32,)}),
    ("timm:inception_v3.tf_in1k", "stem_conv1/bn", {"scale": (32,), "bias": (32,)})])
def test_parameters_that_fields_add_or_change(source, name, expected):
    params = calls_of(source)[name].params
    assert {leaf: array.shape for leaf, array in params.items()} == expected


@pytest.mark.parametrize("source, pixel, expected", [
    # (255 / 255 - 0.485) / 0.229, (0 - 0.456) / 0.224, (51 / 255 - 0.406) / 0.225
    ("torchvision:resnet50", (255, 0, 51), (2.248908, -2.035714, -0.915556)),
    ("torchvision:googlenet", (255, 0, 51), (1, -1, -0.6)),
    ("timm:resnetv2_50.a1h_in1k", (255, 0, 51), (1, -1, -0.6)),
    # Blue, green, red minus 103.939, 116.779, 123.68; here in the order RGB.
    ("keras:vgg16", (255, 0, 51), (131.32, -116.779, -52.939)),
    ("keras:mobilenet", (255, 0, 51), (1, -1, -0.6)),
    ("keras:densenet121", (255, 0, 51), (2.248908, -2.035714, -0.915556))])
def test_scaling(source, pixel, expected):
    offset, factor = PRETRAINED[source].scaling
    actual = (np.array(pixel) - offset) * np.array(factor)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_every_field_of_the_rows_has_a_case():
    """A new field needs a case here, unless it has no effect on logits."""
    fields = {name for row in PRETRAINED.values() for name in row.fields}
    assert fields == {"flatten_size", "dropout", "count_include_pad", "padding", "aux",
                      "activation", "width"}
