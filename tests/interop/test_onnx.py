"""ONNX models compute the same as our networks, from pixels to probabilities."""

import gc
import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from tests.support.graph_networks import (FunctionsNetwork, LayersNetwork,
                                          random_variables)
from tests.support.quick_compile import quick_jit

import cnn_jax
from cnn_jax import networks
from cnn_jax.data.scaling import Scaling
from cnn_jax.errors import InputError
from cnn_jax.interop.onnx_file import to_onnx
from cnn_jax.interop.onnx_operators import ACTIVATIONS
from cnn_jax.interop.onnx_run import read_onnx, reference_evaluator
from cnn_jax.layers import ACTIVATIONS as OUR_ACTIVATIONS
from cnn_jax.layers import Layers
from cnn_jax.networks import CifarResNet, DenseNet, PreActResNet, ResNet
from cnn_jax.networks.graph import layer_graph
from cnn_jax.networks.graph.operations import BatchNorm

ONE, THREE = Scaling(120.5, 1 / 60), Scaling((120.0, 99.5, 101.0),
                                             (1 / 60, 1 / 61, 1 / 62))
SHAPE = (11, 13, 3)
SMALL = [("lenet5", (12, 9, 1)), ("lenet5_1998", (32, 32, 1)),
         ("shapes_fcn", (8, 12, 3)), ("ai_edu_colour_dnn", (6, 5, 3))]
EAGER = (ResNet, PreActResNet, CifarResNet, DenseNet)  # they compile for minutes


def pixels_of(shape, count=3):
    return np.random.default_rng(1).integers(0, 256, (count, *shape), np.uint8)


def logits_of(network, variables, pixels, scaling):
    """Computes the network's logits for pixels, in the dtype of its variables."""
    images = (pixels - np.asarray(scaling.offset)) * np.asarray(scaling.factor)

    def compute(variables):
        return network.apply(variables, images, train=False)
    eager = isinstance(network, EAGER)
    return np.asarray((compute if eager else quick_jit(compute))(variables))


def onnxruntime_output(model, pixels):
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    return session.run(None, {"images": pixels})[0]


def reference_output(model, pixels):
    output = reference_evaluator(model).run(None, {"images": pixels})[0]
    gc.collect()  # the evaluator has reference cycles that hold all weights
    return output


def checked(graph, scaling, output, **options):
    """Writes a model and runs ONNX's own checks on it, including shapes."""
    model = to_onnx(graph, scaling, output, **options)
    onnx.checker.check_model(model, full_check=True)
    return model


def check_equal(network, shape, variables):
    """Compares float64 logits of a network with those of its ONNX models.

    variables: float64. Batch norm is both folded and kept.
    """
    scaling = THREE if shape[-1] == 3 else ONE
    pixels = pixels_of(shape, 2)
    expected = logits_of(network, variables, pixels, scaling)
    assert expected.dtype == np.float64
    graph = layer_graph(network, variables, shape)
    size = expected.std()
    assert size > 1e-3
    normalizes = any(isinstance(node.operation, BatchNorm) for node in graph.nodes)
    for fold in (True, False) if normalizes else (True,):
        for dtype, output, tolerance in (("float64", reference_output, 1e-6),
                                         ("float32", onnxruntime_output, 1e-4)):
            got = output(checked(graph, scaling, "logits", fold=fold, dtype=dtype),
                         pixels)
            assert np.abs(got - expected).max() < tolerance * size, (fold, dtype)


@pytest.mark.parametrize("network", [
    LayersNetwork(1, Layers(dtype="float64")), FunctionsNetwork()],
    ids=["layers", "functions"])
def test_every_operation(network):
    with jax.enable_x64(True):
        check_equal(network, SHAPE, random_variables(network, SHAPE, np.float64))


def test_groups_of_a_transposed_convolution():
    """Only ONNX Runtime is compared: ONNX's evaluator (1.23) confuses the groups."""
    network = LayersNetwork(up_groups=2)
    variables = random_variables(network, SHAPE)
    graph, pixels = layer_graph(network, variables, SHAPE), pixels_of(SHAPE)
    expected = logits_of(network, variables, pixels, THREE)
    for fold in (True, False):
        got = onnxruntime_output(checked(graph, THREE, "logits", fold=fold), pixels)
        np.testing.assert_allclose(got, expected, atol=1e-4 * expected.std())


@pytest.mark.parametrize("name, shape", SMALL, ids=[name for name, _ in SMALL])
def test_small_networks(name, shape):
    check_registered(name, shape)


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_registered_network(name):
    check_registered(name, smaller_shape(name))


def smaller_shape(name):
    """Returns an image shape below the published one, with odd sides."""
    side, _, channels = networks.NETWORKS[name].input_shape
    large = name.startswith(("alexnet", "caffenet", "zfnet", "googlenet", "inception",
                             "xception"))
    return (min(side, 97 if large else 65),) * 2 + (channels,)


def check_registered(name, shape):
    network = networks.create(
        name, layers=Layers(conv="lax", pool="lax", dtype="float64"))
    with jax.enable_x64(True):
        try:
            variables = random_variables(network, shape, np.float64)
        except ValueError:  # too small for auxiliary heads, which only training needs
            variables = random_variables(
                network, networks.NETWORKS[name].input_shape, np.float64)
        check_equal(network, shape, variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lenet5", "shapes_fcn", "resnet18", "mobilenet_v2",
                                  "densenet121", "googlenet", "zfnet"])
def test_openvino_runs_the_same_file(name, tmp_path):
    openvino = pytest.importorskip("openvino")
    shape = smaller_shape(name)
    network = networks.create(name, layers=Layers(conv="lax", pool="lax"))
    graph = layer_graph(network, random_variables(network, shape), shape)
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(graph, (127.5, 1 / 127.5)), path)
    compiled = openvino.Core().compile_model(path, "CPU", {
        "INFERENCE_PRECISION_HINT": "f32"})
    pixels = pixels_of(shape)
    expected = onnxruntime_output(onnx.load(path), pixels)
    np.testing.assert_allclose(compiled(pixels)[0], expected,
                               atol=1e-4 * expected.max())


@pytest.fixture(scope="module")
def lenet():
    """Returns (graph, seven images, their logits) of LeNet-5 for 12 x 9 pixels."""
    network = networks.create("lenet5", 4, layers=Layers(conv="lax", pool="lax"))
    variables, pixels = random_variables(network, (12, 9, 1)), pixels_of((12, 9, 1), 7)
    return (layer_graph(network, variables, (12, 9, 1)), pixels,
            logits_of(network, variables, pixels, ONE))


def test_a_model_describes_itself(lenet):
    model = to_onnx(lenet[0], ONE, class_names=["a", "é", "c", "d"])
    assert (model.ir_version, model.opset_import[0].version) == (8, 17)
    assert (model.producer_name, model.producer_version) == (
        "cnn_jax", cnn_jax.__version__)
    properties = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(properties["class_names"]) == ["a", "é", "c", "d"]
    assert json.loads(properties["image_shape"]) == [12, 9, 1]
    assert (properties["network"], properties["output"]) == ("LeNet5", "softmax")
    image, = model.graph.input
    assert image.name == "images"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    sizes = image.type.tensor_type.shape.dim
    assert sizes[0].dim_param == "N" and [n.dim_value for n in sizes[1:]] == [12, 9, 1]
    assert {node.name for node in lenet[0].nodes} <= {
        node.name for node in model.graph.node}
    assert {"conv1/kernel", "conv1/bias", "head/kernel"} <= {
        tensor.name for tensor in model.graph.initializer}


@pytest.mark.parametrize("output, name, function", [
    ("softmax", "probabilities", jax.nn.softmax),
    ("sigmoid", "probabilities", jax.nn.sigmoid), ("logits", "logits", jnp.asarray)])
def test_outputs(lenet, output, name, function):
    graph, pixels, logits = lenet
    model = to_onnx(graph, ONE, output)
    assert [value.name for value in model.graph.output] == [name]
    np.testing.assert_allclose(onnxruntime_output(model, pixels), function(logits),
                               atol=2e-6)


@pytest.mark.parametrize("count", [0, 1, 5])
def test_the_number_of_images_is_free(lenet, count):
    model = to_onnx(lenet[0], ONE)
    pixels = pixels_of((12, 9, 1), count)
    assert onnxruntime_output(model, pixels).shape == (count, 4)


class Shared(nn.Module):
    """Calls one layer twice, and has a layer named 'logits'."""

    @nn.compact
    def __call__(self, x, train):
        conv = nn.Conv(1, (3, 3), name="conv")
        return nn.Dense(2, name="logits")(conv(conv(x)).reshape(len(x), -1))


def test_names_and_shared_parameters():
    network = Shared()
    graph = layer_graph(network, random_variables(network, (6, 6, 1)), (6, 6, 1))
    model = checked(graph, ONE, "logits")
    assert {"conv", "conv_2", "logits/layer", "logits"} <= {
        node.name for node in model.graph.node}
    assert {tensor.name for tensor in model.graph.initializer} == {
        "conv/kernel", "conv/bias", "logits/layer/kernel", "logits/layer/bias",
        "input/offset", "input/factor"}


class Functions(nn.Module):
    """Calls functions of JAX that are layers: ReLU and global average pooling."""

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(2)(jnp.maximum(nn.Conv(4, (3, 3))(x), 0).mean((1, 2)))


@pytest.mark.parametrize("fold, expected", [
    (True, {"Relu", "GlobalAveragePool"}), (False, {"Max", "ReduceSum"})])
def test_functions_become_layers(fold, expected):
    network, shape = Functions(), (6, 5, 3)
    graph = layer_graph(network, random_variables(network, shape), shape)
    model = checked(graph, THREE, "logits", fold=fold)
    operators = {node.op_type for node in model.graph.node}
    assert operators & {"Relu", "GlobalAveragePool", "Max", "ReduceSum"} == expected


def test_every_activation_has_operators():
    assert set(ACTIVATIONS) == set(OUR_ACTIVATIONS)


@pytest.mark.parametrize("scaling, output, fact", [
    (((1.0, 2.0), 1.0), "softmax", "1 channels"), (ONE, "probabilities", "sigmoid")])
def test_wrong_arguments(lenet, scaling, output, fact):
    with pytest.raises(InputError, match=fact):
        to_onnx(lenet[0], scaling, output)


@pytest.mark.parametrize("installed", [True, False])
def test_programs_of_files(lenet, tmp_path, monkeypatch, installed):
    graph, pixels, logits = lenet
    path = tmp_path / "model.onnx"
    onnx.save(to_onnx(graph, ONE), path)
    if not installed:
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    np.testing.assert_allclose(read_onnx(path)(pixels), jax.nn.softmax(logits),
                               atol=2e-6)
