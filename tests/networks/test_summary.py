"""The layer table equals published tables and receptive fields, in three formats."""

import csv
import io
import json
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest

from cnn_jax import networks, ops
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.errors import InputError
from cnn_jax.networks.receptive_field import AxisField, union
from cnn_jax.networks import roofline
from cnn_jax.networks.summary import layer_table
from cnn_jax.networks.summary_files import (Summary, parts_of_table, plain_text,
                                            roofline_text, save_summary, short_text)
from cnn_jax.networks.trace import features
from cnn_jax.layers import Layers
from configs import default

pytestmark = pytest.mark.usefixtures("compiled_once")

PLAIN = Layers(conv="lax", pool="lax")


def table_of(name, shape=None, **fields):
    return layer_table(networks.create(name, layers=PLAIN, **fields),
                       shape or networks.NETWORKS[name].input_shape)


def with_parameters(table):
    return [row.params for row in table.rows if row.params]


def test_the_separable_table_of_the_tutorial():
    table = table_of("separable_cnn")
    assert with_parameters(table) == [
        320, 1_344, 2_400, 4_736, 8_896, 17_664, 147_584, 1_290]
    assert table.params == 184_234
    assert [row.shape for row in table.rows if row.kind.startswith("MaxPool")] == [
        (14, 14, 32), (7, 7, 64), (3, 3, 128)]
    assert [row.kind for row in table.rows][2] == "SeparableConv"


def test_the_tutorials_example_of_a_separable_convolution():
    # 3 x 3, 3 to 4 channels: 3*3*3*4 = 108 weights, or 27 depthwise + 12 pointwise.
    fields = {"groups": ((3, 4),), "dense": (), "activation": "relu"}
    full = table_of("selu_cnn", (8, 8, 3), **fields).rows[2]
    separable = table_of("separable_cnn", (8, 8, 3), **fields).rows[2]
    assert full.params == 108 + 4 and full.macs == 8 * 8 * 108
    assert separable.params == 27 + 12 + 4 and separable.macs == 8 * 8 * 39
    assert separable.field == full.field


@pytest.mark.parametrize("name, params", [
    ("selu_cnn", [320, 9_248, 18_496, 36_928, 73_856, 147_584, 147_584, 1_290]),
    ("mnist_cnn", [320, 18_496, 16_010]),
    ("monkey_cnn", [896, 9_248, 18_496, 36_928, 73_856, 147_584, 4_194_432, 1_290]),
    ("baseline", [456, 12, 196_736, 1_290]),
    ("tf2_lenet5", [456, 2_416, 48_120, 10_164, 850]),
    ("tf2_alexnet8", [2_688, 192, 221_440, 512, 885_120, 1_327_488, 884_992, 2_099_200,
                      4_196_352, 20_490]),
    ("ai_edu_colour_cnn", [8, 57, 3_488, 64, 198]),
    ("lenet5_1998", [156, 12, 1_516, 32, 48_120, 10_164])])
def test_parameters_layer_by_layer(name, params):
    assert with_parameters(table_of(name)) == params


def test_one_layer_by_hand():
    # conv1 of AlexNet: 96 kernels of 11 x 11 with stride 4 on 227 x 227 x 3, and bias.
    row = table_of("alexnet").rows[0]
    assert row[:7] == ("conv1", "Conv 11x11/4", (55, 55, 96), 11 * 11 * 3 * 96 + 96,
                       55 * 55 * 96 * 11 * 11 * 3, 55 * 55 * 96 * 4,
                       (AxisField(11, 4, 0), AxisField(11, 4, 0)))
    half = layer_table(networks.create("alexnet", layers=Layers(dtype="bfloat16")),
                       (227, 227, 3)).rows[0]
    assert half.memory == row.memory // 2 and half.params == row.params


@pytest.mark.parametrize("name, fields, size", [
    ("vgg16", {}, 212), ("alexnet_one_tower", {}, 195), ("alexnet", {}, 195),
    ("resnet50", {}, 483), ("mobilenet_v1", {}, 315),
    pytest.param("inception_v3", {"aux": False}, 1311, marks=pytest.mark.slow)])
def test_receptive_fields_of_the_literature(name, fields, size):
    images = [row for row in table_of(name, **fields).rows if len(row.shape) == 3]
    assert images[-1].field[0].size == images[-1].field[1].size == size
    assert images[-1].field[0].stride == 32


def positive(path, leaf):
    """Makes kernels average, and biases 0, so that every unit stays active."""
    if path[-1].key in ("mean", "bias"):
        return jnp.zeros(leaf.shape)
    return jnp.full(leaf.shape, 1 / math.prod(leaf.shape[:-1]))


def mean_pool(x, window, strides, padding, ceil_mode, dilation, implementation):
    """Replaces max pooling, whose output depends on only some pixels of a window."""
    return ops.avg_pool(x, window, strides, padding, ceil_mode=ceil_mode,
                        dilation=dilation)


@pytest.mark.parametrize("name, fields, shape, layer", [
    ("tf2_lenet5", {}, (40, 47, 1), "pool2"),
    ("selu_cnn", {}, (40, 33, 1), "group2_act2"),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("cifar_resnet20", {"depth": 8}, (33, 40, 1), "stage3_block1"),
        ("tf2_inception10", {}, (32, 41, 1), "block1_cell2"),
        ("tf2_alexnet8", {}, (40, 47, 1), "pool2"),
        ("selu_cnn", {}, (40, 33, 1), "group3_act2"),
        ("resnet18", {"padding": "SAME"}, (65, 80, 1), "stage2_block2"),
        ("separable_cnn", {"padding": "VALID"}, (40, 47, 1), "group2_act2"),
        ("cifar_resnet20", {}, (33, 48, 1), "stage3_block1"),
        ("densenet121", {"blocks": (2, 2), "growth": 4}, (64, 77, 1), "final_act"),
        ("mobilenet_v2", {"width": 0.25}, (64, 81, 1), "stage3_block2"),
        ("googlenet", {"aux": False}, (56, 63, 1), "stage3_3a"),
        ("resnet50_v2_keras", {}, (64, 81, 1), "stage1_block3")))])
def test_receptive_field_is_the_support_of_the_input_gradient(
        name, fields, shape, layer, monkeypatch):
    # With positive weights, and means instead of maxima, no path is blocked.
    monkeypatch.setattr("cnn_jax.ops.max_pool", mean_pool)
    with jax.enable_x64(True):
        model = networks.create(name, 2, Layers(dtype="float64", conv="lax"), **fields)
        images = jax.random.uniform(jax.random.key(1), (1, *shape), jnp.float64, 0.5, 1)
        shapes = networks.eval_shape(
            lambda: model.init(jax.random.key(0), images, train=False))
        variables = jax.tree_util.tree_map_with_path(positive, shapes)
        table = layer_table(model, shape)
        rows = [row for row in table.rows
                if row.name == layer or row.name.startswith(layer + "/")]
        height, width, _ = rows[-1].shape
        gradient_of = jax.jit(jax.grad(lambda images, p, q: features(
            model, variables, images)[layer][0, p, q].sum()))
        for p, q in ((0, 0), (height // 2, width // 2), (height - 1, width - 1)):
            gradient = gradient_of(images, p, q)
            support = np.argwhere(np.asarray(gradient)[0, :, :, 0])
            for axis, position in ((0, p), (1, q)):
                field = rows[-1].field[axis]
                first = position * field.stride + field.offset
                assert support[:, axis].min() == max(first, 0)
                assert support[:, axis].max() == min(
                    first + field.size, shape[axis]) - 1


def test_a_transposed_convolution_by_hand():
    # 4 x 4 with stride 2 from 8 x 8 x 64 to 16 x 16 x 32: each of the 64 pixels adds 64
    # products to 16 pixels of 32 features. The distance of units, 4 pixels, becomes 2.
    table = table_of("shapes_fcn")
    up, = [row for row in table.rows if row.name == "decoder_up1"]
    assert up[:7] == ("decoder_up1", "ConvTranspose 4x4/2", (16, 16, 32),
                      4 * 4 * 32 * 64 + 32, 64 * 64 * 16 * 32, 16 * 16 * 32 * 4,
                      (AxisField(18 + 3 * 2, 2, -7 - 2 * 2),) * 2)


def test_a_receptive_field_with_a_fractional_stride_is_blank():
    class Enlarge(nn.Module):
        @nn.compact
        def __call__(self, x, train):
            x = PLAIN.conv_transpose(2, (3, 5), (1, 2), name="up")(x)
            return PLAIN.convolution(1, (3, 3), name="head")(x)
    table = layer_table(Enlarge(), (6, 5, 1))
    assert [row.shape for row in table.rows] == [(6, 10, 2), (6, 10, 1)]
    assert [row.kind for row in table.rows] == ["ConvTranspose 3x5/1x2", "Conv 3x3"]
    assert [row.field for row in table.rows] == [None, None]
    assert [row.macs for row in table.rows] == [6 * 5 * 15 * 2, 60 * 9 * 2]
    assert "Conv 3x3" in plain_text(table) and "None" not in plain_text(table)


def test_receptive_field_after_transposed_convolutions(monkeypatch):
    # Every position sees at most the field, and some see its first and its last pixel.
    monkeypatch.setattr("cnn_jax.ops.max_pool", mean_pool)
    with jax.enable_x64(True):
        model = networks.create("shapes_fcn", 2, Layers(dtype="float64", conv="lax"))
        images = jax.random.uniform(jax.random.key(1), (1, 64, 48, 1), jnp.float64,
                                    0.5, 1)
        shapes = networks.eval_shape(
            lambda: model.init(jax.random.key(0), images, train=False))
        variables = jax.tree_util.tree_map_with_path(positive, shapes)
        for layer in ("decoder_up1", "head"):
            row, = [row for row in layer_table(model, (64, 48, 1)).rows
                    if row.name == layer]
            vertical, horizontal = row.field
            middle = row.shape[1] // 2
            gradients = jax.jit(jax.vmap(jax.grad(
                lambda images, p: features(model, variables, images)[layer][
                    0, p, middle].sum()), (None, 0)))(images, jnp.arange(row.shape[0]))
            slack = []
            for p, gradient in enumerate(np.asarray(gradients)[:, 0, :, :, 0]):
                rows, columns = np.nonzero(gradient)
                first = vertical.stride * p + vertical.offset
                last = first + vertical.size - 1
                assert first <= rows.min() and rows.max() <= last
                if first >= 0 and last < 64:
                    slack.append((rows.min() - first, last - rows.max()))
                left = horizontal.stride * middle + horizontal.offset
                assert left <= columns.min()
                assert columns.max() < left + horizontal.size
            assert np.min(slack, axis=0).tolist() == [0, 0], layer


def test_union_of_fields():
    assert union([AxisField(3, 2, -1), AxisField(7, 2, -2)]) == AxisField(7, 2, -2)
    assert union([AxisField(3, 2, -4), AxisField(3, 2, 1)]) == AxisField(8, 2, -4)
    assert union([AxisField(3, 2, 0), AxisField(3, 4, 0)]) is None


def test_csv_and_json_hold_the_same_rows(tmp_path):
    table = table_of("tf2_inception10")
    save_summary(table, tmp_path)
    *rows, total = csv.DictReader(io.StringIO((tmp_path / "summary.csv").read_text()))
    document = json.loads((tmp_path / "summary.json").read_text())
    assert msgspec.convert(document, Summary).layers[-1].layer == "head"
    assert total["layer"] == "total" and total["kind"] == ""
    for key in ("params", "macs", "memory_bytes"):
        assert total[key] == str(document[key])
    assert (tmp_path / "summary.txt").read_text() == plain_text(table)
    assert len(rows) == len(document["layers"]) == len(table.rows)
    assert document["params"] == table.params == sum(int(row["params"]) for row in rows)
    assert document["macs"] == sum(int(row["macs"]) for row in rows)
    for row, entry in zip(rows, document["layers"]):
        assert row == {key: "" if value is None else str(value)
                       for key, value in entry.items()}
    assert document["layers"][2]["field_size_vertical"] == 3


def test_the_table_names_the_algorithm_of_each_convolution(no_onednn):
    table = layer_table(networks.create("lenet5"), (28, 28, 1))
    assert [row.conv for row in table.rows if row.kind.startswith("Conv")] == [
        "banded / im2col / lax", "lax"]
    assert table.convolutions() == (
        "conv1 by banded / im2col / lax; conv2 by lax (forward / input gradient / "
        "weight gradient)")
    rows = table_of("tf2_resnet18").rows
    assert {row.conv for row in rows if "Conv" in row.kind} >= {"lax"}
    assert {row.conv for row in rows if "Conv" not in row.kind} == {""}
    assert table_of("ai_edu_mnist_dnn").convolutions() == "none"
    table = layer_table(networks.create("resnet50"), (224, 224, 3))
    assert table.convolutions().startswith("17 by lax; 36 by pointwise")
    assert table.by_algorithm()["lax"][:2] == ["stem_conv", "stage1_block1/conv2"]


def test_mode_summary_prints_and_writes(tmp_path, capsys):
    config = default.get_config()
    config.model.name = "mnist_cnn"
    folder = tmp_path / "new" / "summary"
    commands.run(Request("summary", config, folder))
    table, _, last = capsys.readouterr().out.rstrip("\n").rpartition("\n")
    assert table == (folder / "summary.txt").read_text()
    assert last.startswith("convolutions: ") and " by " in last
    assert {path.suffix for path in folder.iterdir()} == {".txt", ".csv", ".json"}
    (folder / "config.json").write_text("{}")
    with pytest.raises(InputError, match=f"{folder}.*--workdir"):
        commands.run(Request("summary", config, folder))


def test_the_log_lists_parts_of_a_long_table():
    short, long = (
        layer_table(networks.create(name), networks.NETWORKS[name].input_shape)
        for name in ("lenet5", "resnet50"))
    assert short_text(short) == plain_text(short)
    parts = parts_of_table(long)
    assert [row.name for row in parts.rows] == [
        "stem", "stage1", "stage2", "stage3", "stage4", "pool", "head"]
    assert (parts.macs, parts.memory) == (long.macs, long.memory)
    assert sum(row.params for row in parts.rows) == long.params
    assert parts.rows[1].shape == (56, 56, 256)
    assert parts.rows[1].field == next(
        row.field for row in long.rows[::-1] if row.name.startswith("stage1"))
    text = short_text(long)
    assert len(text.splitlines()) < 15 and f"{len(long.rows)} layers" in text


def test_arithmetic_intensity_by_hand():
    """A convolution of AlexNet reads input and kernel once, and writes its output."""
    table = layer_table(networks.create("alexnet", layers=PLAIN), (227, 227, 3), 2)
    row = table.rows[0]
    moved = 4 * (2 * (227 * 227 * 3 + 55 * 55 * 96) + 11 * 11 * 3 * 96 + 96)
    assert row.traffic(2) == moved
    assert row.intensity(2) == 2 * 2 * row.macs / moved
    pool = next(row for row in table.rows if row.kind.startswith("MaxPool"))
    assert pool.traffic(1) == pool.inputs + pool.memory and pool.intensity(1) == 0
    flat = next(row for row in table.rows if row.kind == "Flatten")
    assert flat.traffic(1) == 0


def test_roofline_is_the_slower_of_arithmetic_and_memory():
    peak = roofline.Peak(bfloat16=8.0, float32=2.0, bandwidth=4.0, memory=1.0)
    assert peak.seconds(16, 4) == 2 and peak.seconds(16, 4, "float32") == 8
    assert peak.seconds(16, 40) == 10
    table = table_of("lenet5")
    text = roofline_text(table, "x", peak, "float32")
    least = sum(max(2 * row.macs / 2, row.traffic(1) / 4) for row in table.rows)
    assert f"total {1e6 * least:,.2f} us" in text and "bound by arithmetic" in text
    with pytest.raises(ValueError, match="tpu-v5e"):
        roofline.peak_of("abacus")
    here = roofline.measure(side=64, numbers=4096, rounds=1)
    assert here.float32 > 0 and here.bandwidth > 0


def test_peaks_of_a_cpu_that_jax_platforms_leaves_out(monkeypatch):
    def devices(backend):
        raise RuntimeError(f"Unknown backend {backend}")
    monkeypatch.setattr(jax, "local_devices", devices)
    with pytest.raises(ValueError, match="JAX_PLATFORMS"):
        roofline.peak_of("cpu")
