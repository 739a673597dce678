"""Rows of pretrained networks: names, shapes and layouts, converted in both ways.

test_peers_pretrained.py compares the networks with those of the libraries.
"""

import functools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from cnn_jax import networks
from cnn_jax.errors import InputError
from cnn_jax.interop import mapping as carrying
from cnn_jax.interop.imagenet import imagenet_classes
from cnn_jax.interop.mapping import (arrays_from, classes_of, find_mapping, left_out,
                                     mapping_of, variables_from)
from cnn_jax.interop.names import layouts
from cnn_jax.interop.names.keras_order import in_keras_order
from cnn_jax.interop.pretrained import PRETRAINED, find_row, mapping_of_row, table
from cnn_jax.interop.pretrained.form import differences
from cnn_jax.layers import BATCH_NORM, Layers

PLAIN = Layers(conv="lax", pool="lax")
# {source: [[key, shape], ...]} as the library lists them.
STORED = json.loads((Path(__file__).parent / "published_shapes.json").read_text())
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "pretrained.md"
MOST_VALUES = 2**20  # larger arrays are not drawn


@pytest.fixture(scope="module", autouse=True)
def shapes_once():
    """Lists the arrays of a network once for all batch norms and libraries."""
    listed = functools.cache(carrying.shapes_of)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(carrying, "shapes_of", lambda network, image_shape: dict(
            listed(network.clone(layers=PLAIN), image_shape)))
        yield


@functools.cache
def mapping_of_source(source):
    return mapping_of_row(PRETRAINED[source])


def architectures():
    """Lists one source for each network and its fields, of each library.

    Only the first of each family is fast; the others differ in depth and width.
    """
    seen, families = {}, set()
    for source, row in PRETRAINED.items():
        key = row.library, row.network, str(row.fields)
        family = row.library, networks.NETWORKS[row.network].constructor
        if key not in seen:
            seen[key] = (pytest.param(source, marks=pytest.mark.slow)
                         if family in families else source)
        families.add(family)
    return seen.values()


def arrays_of(source):
    """Draws arrays of the stored shapes."""
    draw = np.random.default_rng(0)
    return {key: draw.standard_normal(shape, np.float32) for key, shape in
            STORED[source]}


@pytest.mark.parametrize("source", architectures())
def test_every_array_maps_to_one_key_and_back(source):
    mapping = mapping_of_source(source)
    keys = [leaf.key for leaf in mapping.leaves.values()]
    assert len(set(keys)) == len(keys)
    draw = np.random.default_rng(0)
    for _, layout in mapping.leaves.values():
        size = math.prod(layout.ours)
        assert size == math.prod(layout.shape) == math.prod(layout.split)
        assert sorted(layout.axes) == list(range(len(layout.split)))
        if size <= MOST_VALUES:
            ours = draw.integers(0, 2**31, layout.ours)
            theirs = layout.to_theirs(ours)
            assert theirs.shape == layout.shape
            assert (layout.to_ours(theirs) == ours).all()
    assert sum(layout.reverse for _, layout in mapping.leaves.values()) == (
        PRETRAINED[source].bgr)


@pytest.mark.parametrize("source", STORED)
def test_keys_and_shapes_are_those_of_the_library(source):
    mapping = mapping_of_source(source)
    assert {leaf.key: list(leaf.layout.shape) for leaf in mapping.leaves.values()
            } == dict(STORED[source])
    if source.startswith("keras:"):  # .h5 files are matched by the order of layers
        assert [leaf.key for leaf in mapping.leaves.values()] == [
            key for key, _ in STORED[source]]


def test_layouts_by_hand():
    dense = np.arange(12).reshape(6, 2)  # two pixels of three channels -> two features
    flattened = layouts.torch_flattened(dense.shape, channels=3)
    assert flattened.to_theirs(dense).tolist() == [[0, 6, 2, 8, 4, 10],
                                                   [1, 7, 3, 9, 5, 11]]
    kernel = np.arange(12).reshape(1, 2, 3, 2)  # [h, w, in, out]
    theirs = layouts.torch_kernel(kernel.shape).to_theirs(kernel)
    assert theirs.shape == (2, 3, 1, 2)
    assert theirs[1, 2, 0, 1] == kernel[0, 1, 2, 1]
    bgr = layouts.same(kernel.shape)._replace(reverse=True)
    assert bgr.to_theirs(kernel)[0, 1].tolist() == [[10, 11], [8, 9], [6, 7]]
    wide = layouts.torch_window((8, 3), channels=2)
    assert wide.shape == (3, 2, 2, 2)
    theirs = wide.to_theirs(np.arange(24).reshape(8, 3))
    assert theirs[1, 1, 1, 0] == 3 * (2 * 2 + 1) + 1


def test_rows_name_what_exists():
    for source, row in PRETRAINED.items():
        assert source.partition(":")[0] == row.library
        assert set(row.fields) <= set(networks.variant_fields(row.network))
        assert row.bn in BATCH_NORM
        assert row.url.startswith("https://")
        if row.checksum:
            algorithm, digits = row.checksum
            assert algorithm in ("sha256", "md5") and int(digits, 16)
        assert row.preprocessing.size[0] <= row.preprocessing.shorter_side
        assert row.top1 is None or 50 < row.top1 < 90


def test_unknown_sources_name_the_nearest():
    with pytest.raises(InputError, match="torchvision:resnet50"):
        find_row("torchvision:resnet5O")
    with pytest.raises(InputError, match="timm:vgg16.tv_in1k"):
        find_row("timm:vgg16")


def test_keys_that_do_not_fit_are_named_in_one_line():
    arrays = arrays_of("torchvision:resnet50")
    arrays["extra.weight"] = arrays.pop("layer1.0.conv1.weight")
    arrays["fc.bias"] = np.zeros(37)
    mapping = mapping_of_source("torchvision:resnet50")
    with pytest.raises(InputError) as error:
        variables_from(mapping, arrays, "x.pth")
    text = str(error.value)
    for fact in ("x.pth", "layer1.0.conv1.weight", "params/stage1_block1/conv1/kernel",
                 "extra.weight", "fc.bias", "(37,)", "(1000,)", "params/head/bias"):
        assert fact in text
    assert "\n" not in text and "conv2" not in text


def test_variables_of_another_network_are_refused():
    mapping = mapping_of_source("torchvision:resnet50")
    variables = variables_from(mapping, arrays_of("torchvision:resnet50"))
    del variables["params"]["head"]
    with pytest.raises(InputError, match="params/head/kernel"):
        arrays_from(mapping, variables)


def test_round_trip_with_names_of_older_files():
    """They are DenseNet's names of 2017, files without counters, wrapped networks."""
    arrays = arrays_of("torchvision:densenet121")
    mapping = mapping_of_source("torchvision:densenet121")
    variables = variables_from(mapping, arrays)
    back = arrays_from(mapping, variables)
    assert list(back) and back.keys() == arrays.keys()
    assert all((back[key] == arrays[key]).all() for key in arrays)

    def year_2017(key):
        parts = key.split(".")
        if "denselayer" in key:  # norm1 -> norm.1
            parts[3] = f"{parts[3][:-1]}.{parts[3][-1]}"
        return "module." + ".".join(parts)
    old = {year_2017(key): array for key, array in arrays.items()}
    assert "module.features.denseblock1.denselayer1.norm.1.running_mean" in old
    old["module.features.norm0.num_batches_tracked"] = np.int64(7)
    again = variables_from(mapping, old)
    first = again["params"]["block1_layer1"]["neck_conv"]["kernel"]
    assert (first == variables["params"]["block1_layer1"]["neck_conv"]["kernel"]).all()


def test_half_precision_becomes_float32():
    arrays = {key: array.astype(np.float16)
              for key, array in arrays_of("torchvision:resnet50").items()}
    arrays["fc.bias"] = arrays["fc.bias"].astype(np.float64)
    head = variables_from(mapping_of_source("torchvision:resnet50"),
                          arrays)["params"]["head"]
    assert (head["kernel"].dtype, head["bias"].dtype) == (np.float32, np.float64)


def test_auxiliary_heads_that_we_lack_are_left_out():
    arrays = arrays_of("torchvision:inception_v3")
    assert any(key.startswith("AuxLogits") for key in arrays)
    assert not left_out(mapping_of_source("torchvision:inception_v3"), arrays)
    mapping = mapping_of_source("timm:inception_v3.tv_in1k")
    assert variables_from(mapping, arrays)["params"].keys() >= {"head", "stage7_c"}
    out = left_out(mapping, arrays)
    assert len(out) == 12 and all(key.startswith("AuxLogits.") for key in out)


def test_keras_layers_are_matched_by_order():
    """Published files number unnamed layers differently from today's Keras."""
    source = "keras:inception_v3"
    arrays, mapping = arrays_of(source), mapping_of_source(source)

    def number(key, shift):
        layer, weight = key.split("/")
        name, _, count = layer.rpartition("_")
        if not count.isdigit():
            name, count = layer, 0
        return f"{name}_{int(count) + shift}/{weight}"
    old = {number(key, 1): array for key, array in arrays.items()}
    assert "conv2d_94/kernel" in old and "conv2d/kernel" not in old
    by_name, by_order = (variables_from(mapping, a) for a in (arrays, old))
    for kind in ("params", "batch_stats"):
        assert all(np.array_equal(a, b) for a, b in zip(
            flat(by_name[kind]), flat(by_order[kind])))
    # In another order, names are used, as for .weights.h5 files, which only number the
    # weights of a batch norm without gamma.
    sorted_ = {key.replace("/beta", "/vars/0"): array
               for key, array in sorted(arrays.items())}
    assert "batch_normalization_93/vars/0" in sorted_
    shapes = {leaf.key: leaf.layout.shape for leaf in mapping.leaves.values()}
    assert in_keras_order(shapes, sorted_) is None
    again = variables_from(mapping, sorted_)
    assert np.array_equal(again["params"]["stage7_c"]["d2"]["conv"]["kernel"],
                          by_name["params"]["stage7_c"]["d2"]["conv"]["kernel"])


def test_keras_layers_are_matched_by_order_within_their_class():
    """This is for .keras and .weights.h5 files, whose numbers depend on the process."""
    source = "keras:inception_v3"
    arrays, mapping = arrays_of(source), mapping_of_source(source)
    layers = {"conv2d": [], "batch_normalization": [], "predictions": []}
    for key in arrays:
        layer = key.partition("/")[0]
        kind = re.sub(r"_\d+$", "", layer)
        if layer not in layers[kind]:
            layers[kind].append(layer)
    numbered = {}  # class by class, like such files; without the name of beta
    for kind in ("batch_normalization", "conv2d", "predictions"):
        for number, layer in enumerate(layers[kind], 94):
            for key, array in arrays.items():
                if key.startswith(f"{layer}/"):
                    weight = key.partition("/")[2].replace("beta", "vars/0")
                    numbered[f"{kind}_{number}/{weight}"] = array
    assert "conv2d_187/kernel" in numbered and len(numbered) == len(arrays)
    again, expected = (variables_from(mapping, a) for a in (numbered, arrays))
    assert all(np.array_equal(a, b) for kind in expected for a, b in zip(
        flat(again[kind]), flat(expected[kind]), strict=True))
    network = networks.create("inception_v3_keras", 1000, PLAIN)
    numbered["predictions_94/kernel"] = np.zeros((2048, 7), np.float32)
    numbered["predictions_94/bias"] = np.zeros(7, np.float32)
    assert classes_of(network, (299, 299, 3), numbered) == 7
    del numbered["batch_normalization_100/moving_mean"]
    with pytest.raises(InputError, match="missing conv2d/kernel"):
        variables_from(mapping, numbered)


def flat(tree):
    return [tree] if isinstance(tree, np.ndarray) else [
        leaf for value in tree.values() for leaf in flat(value)]


def test_bgr_networks_read_rgb():
    """The sum over channels of kernel times pixel is the same in either order."""
    mapping = mapping_of_source("keras:resnet50")
    theirs = arrays_of("keras:resnet50")["conv1_conv/kernel"]
    key, layout = mapping.leaves["params/stem_conv/kernel"]
    ours, pixel = layout.to_ours(theirs), np.float32([1, 2, 3])
    np.testing.assert_allclose(np.einsum("hwio,i->hwo", ours, pixel),
                               np.einsum("hwio,i->hwo", theirs, pixel[::-1]),
                               atol=1e-4)


@pytest.mark.parametrize("source, library", [
    ("torchvision:resnet50", "torchvision"), ("keras:resnet50", "keras"),
    ("timm:mobilenetv2_100.ra_in1k", "timm")])
def test_the_library_of_a_file_is_found_by_its_keys(source, library):
    row = PRETRAINED[source]
    network = networks.create(row.network, None, PLAIN, **row.fields)
    mapping = find_mapping(network, (224, 224, 3), arrays_of(source))
    assert mapping.library == library
    ours = mapping_of("cnn_jax", network, (224, 224, 3))
    variables = variables_from(mapping, arrays_of(source))
    assert find_mapping(network, (224, 224, 3),
                        arrays_from(ours, variables)).library == "cnn_jax"


def test_a_file_of_no_library_is_compared_with_the_nearest():
    arrays = arrays_of("torchvision:resnet50")
    del arrays["fc.weight"]
    network = networks.create("resnet50_v1_5", None, PLAIN)
    with pytest.raises(InputError, match="x.pth.*torchvision.*fc.weight"):
        find_mapping(network, (224, 224, 3), arrays, "x.pth")


def test_a_library_without_the_network_says_what_it_has():
    with pytest.raises(InputError, match="keras.*SqueezeNet.*VGG"):
        mapping_of("keras", networks.create("squeezenet1_1"), (224, 224, 3))


@pytest.mark.parametrize("library, name, layer", [
    ("keras", "vgg16_bn", "stage1_bn1"), ("keras", "inception_v3", "aux/conv1/conv")])
def test_a_library_without_a_layer_says_so(library, name, layer):
    with pytest.raises(InputError, match=f"{library}.*{layer}"):
        mapping_of(library, networks.create(name, layers=PLAIN), (299, 299, 3))


@pytest.mark.parametrize("library, name, bn, different", [
    ("torchvision", "resnet50", "paper", ["stride_in='1x1' instead of '3x3'"]),
    ("torchvision", "resnet50_v1_5", "paper", []),
    ("torchvision", "resnet18", "torch", []),
    ("keras", "mobilenet_v2", "keras", []),
    ("timm", "mobilenet_v2", "keras", [
        "padding='SAME' instead of 'symmetric'",
        "epsilon of batch norm=0.001 instead of 1e-05"]),
    ("torchvision", "vgg11_bn", "keras", [
        "epsilon of batch norm=0.001 instead of 1e-05"]),
    ("cnn_jax", "vgg11_bn", "keras", [])])
def test_variants_with_equal_arrays_are_told_apart(library, name, bn, different):
    network = networks.create(name, layers=Layers("lax", "lax", bn=bn))
    assert differences(library, network, (64, 64, 3)) == different


def test_the_classes_of_imagenet():
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert [names[i] for i in (0, 281, 999)] == ["tench", "tabby", "toilet tissue"]


def test_the_tables_have_every_row():
    listed = table.tables(lambda row: 7)
    assert re.findall(r"^\| `([^`]+)` \|", listed, re.M) == list(PRETRAINED)
    row = next(line for line in listed.splitlines() if "`timm:inception_v3.tv" in line)
    assert re.search(r"`inception_v3`, .* \| 7 \| 299 of \d+, bicubic \|", row)


def test_the_example_of_the_reference():
    namespace = {}
    example, = re.findall(r"```python\n(.+?)```", PAGE.read_text(), re.S)
    exec(example, namespace)
    assert "params/head/kernel" in namespace["mapping"].leaves
