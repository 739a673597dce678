"""A compiled network computes the outputs of the network."""

import concurrent.futures
import gc
import os
import subprocess
import sys
import threading

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.graph_networks import (FunctionsNetwork, LayersNetwork,
                                          random_variables)
from tests.support.quick_compile import quick_jit

from cnn_jax import inference, networks
from cnn_jax.inference import program
from cnn_jax.inference.compiled import Compiled
from cnn_jax.inference.fuse import Fused, Join, Sum, fuse
from cnn_jax.inference.program import NativeSubgraph
from cnn_jax.layers import Activation, Layers
from cnn_jax.native import cost, library
from cnn_jax.networks.graph import layer_graph, run
from cnn_jax.networks.graph.nodes import Node
from cnn_jax.networks.inputs import smallest_size

needs_library = pytest.mark.skipif(library.load_onednn() is None,
                                   reason=f"without oneDNN: {library.describe()}")

# Upper bound of the largest difference from float64 / the outputs' standard deviation.
ERROR = 1e-5
# One network of each family at its smallest size, and sizes that blocks do not divide.
FEW = {"lenet5": (32, 32, 1), "alexnet": (67, 71, 3), "resnet18_v2": (33, 31, 3),
       "cifar_resnet20": (15, 16, 3), "squeezenet1_0": (32, 29, 3),
       "selu_cnn": (28, 28, 1), "separable_cnn": (28, 28, 1),
       "shapes_fcn": (32, 32, 3), "tf2_lenet5": (32, 32, 1)}
# Their operations are the others'.
AGAIN = {"alexnet", "cifar_resnet20", "resnet18_v2", "selu_cnn"}
SHORT = {"blocks": (2, 1, 2, 1)}  # a DenseNet
MANY = 1000  # operations: each on its own is faster than compiling them together


def pixels(count, shape, dtype=np.float32, seed=1):
    return np.random.default_rng(seed).normal(size=(count, *shape)).astype(dtype)


def exactly(graph, images):
    """Runs the graph in float64."""
    def compute(images, params):
        return run(graph, images, params)
    if len(graph.nodes) < MANY:
        compute = quick_jit(compute)
    with jax.enable_x64(True):
        return np.asarray(compute(images.astype(np.float64), jax.tree.map(
            lambda array: np.asarray(array, np.float64), graph.params)))


def drawn(name, shape=None, **fields):
    """Makes (network, variables, graph) of a registered network."""
    row = networks.NETWORKS[name]
    network = networks.create(name, 7, **fields)
    if shape is None:
        side = smallest_size(network, row.input_shape[2])
        shape = (side, side, row.input_shape[2])
    variables = random_variables(network, shape)
    return network, variables, layer_graph(network, variables, shape)


def check(network, variables, graph, counts=(1, 2, 3)):
    compiled = inference.compile(network, variables, graph.image_shape)
    images = pixels(max(counts), graph.image_shape)
    expected = exactly(graph, images)
    for count in counts:
        actual = np.asarray(compiled(images[:count]))
        assert actual.dtype == np.float32 and actual.shape == expected[:count].shape
        error = np.abs(actual - expected[:count]).max() / expected.std()
        assert error <= ERROR, (graph.network, count, error)
    return compiled


@pytest.mark.parametrize("network, shape", [
    (LayersNetwork(), (13, 12, 3)), (FunctionsNetwork(), (11, 13, 3))])
def test_fused_operations_equal_the_graph(network, shape):
    variables = random_variables(network, shape, np.float64)
    with jax.enable_x64(True):
        graph = layer_graph(network, variables, shape)
        fused, images = fuse(graph), pixels(2, shape, np.float64)
        expected, actual = (np.asarray(quick_jit(
            lambda images, params: run(which, images, params))(images, which.params))
            for which in (graph, fused))
        np.testing.assert_allclose(actual, expected, atol=1e-12 * expected.std())
    assert len(fused.nodes) < len(graph.nodes)


@pytest.mark.parametrize("name, fields, kinds", [
    ("resnet18", {}, {Fused: 21, Sum: 0, Join: 0}),
    # A batch norm after a convolution of its block is folded. The others, with their
    # ReLU, read concatenated features: before 6 layers, in 3 transitions, at the end.
    pytest.param("densenet121", SHORT, {Fused: 17, Sum: 0, Join: 10},
                 marks=pytest.mark.slow)])
def test_operations_of_a_fused_network(name, fields, kinds):
    """Convolutions and the head remain; sums and activations are fused into them."""
    operations = [type(node.operation)
                  for node in fuse(drawn(name, **fields)[2]).nodes]
    assert {kind: operations.count(kind) for kind in kinds} == kinds


@needs_library
def test_repeated_concatenations():
    check(*drawn("densenet121", (32, 35, 3), **SHORT))


@needs_library
@pytest.mark.parametrize("network, shape", [
    (LayersNetwork(), (13, 12, 3)), (FunctionsNetwork(), (11, 13, 3))])
def test_networks_of_all_operations(network, shape):
    """XLA computes some of their layers."""
    variables = random_variables(network, shape)
    compiled = check(network, variables, layer_graph(network, variables, shape))
    assert {type(subgraph) for subgraph in compiled.subgraphs} == {NativeSubgraph, Node}


@needs_library
@pytest.mark.parametrize("name, shape", [
    pytest.param(*case, marks=[pytest.mark.slow] * (case[0] in AGAIN))
    for case in FEW.items()], ids=FEW)
def test_registered_networks(name, shape):
    compiled = check(*drawn(name, shape))
    # shapes_fcn has transposed convolutions.
    assert (len(compiled.subgraphs) == 1) == (name != "shapes_fcn")


@needs_library
@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in networks.NETWORKS
                                  if name != "shapes_fcn"])  # it is in FEW
def test_every_registered_network(name):
    check(*drawn(name), counts=(3,))


def choose(monkeypatch, tile):
    """Lets F(tile x tile, 3 x 3), or oneDNN, compute the convolutions that it can.

    Returns a list, to which each later choice is appended.
    """
    chosen, tiles = [], program.tiles
    monkeypatch.setattr(cost, "COSTS", {
        tile or 4: cost.Cost(0, 0, 0, 0) if tile else cost.Cost(1e9, 0, 0, 0)})
    monkeypatch.setattr(program, "tiles",
                        lambda *of: chosen.append(tiles(*of)) or chosen[-1])
    return chosen


TILES = pytest.mark.parametrize("tile", [0, 2, 4])


class AddsItsInput(nn.Module):
    """Computes act(x + conv(x)): the convolution reads what its result is added to."""

    activation: str = "relu"

    @nn.compact
    def __call__(self, x, train=False):
        x = Activation(self.activation)(nn.Conv(16, (3, 3))(x))
        x = Activation(self.activation)(x + nn.Conv(16, (3, 3))(x))
        return Activation(self.activation)(nn.Conv(48, (3, 3))(x)).mean((1, 2))


@needs_library
@TILES
@pytest.mark.parametrize("activation", sorted(set(program.FUNCTIONS) - {None}))
def test_a_sum_with_its_own_input_and_any_activation(tile, activation, monkeypatch):
    chosen = choose(monkeypatch, tile)
    network, shape = AddsItsInput(activation), (12, 13, 3)
    variables = random_variables(network, shape)
    compiled = check(network, variables, layer_graph(network, variables, shape))
    assert len(compiled.subgraphs) == 1
    assert chosen[1:] == [[tile] * 7] * 2


class Joins(nn.Module):
    """Joins convolutions; another layer reads one of them, and one is not limited."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Conv(16, (1, 1))(x))
        a, b = nn.relu6(nn.Conv(32, (3, 3))(x)), nn.relu(nn.Conv(19, (1, 1))(x))
        c, d = nn.tanh(nn.Conv(16, (3, 3))(x)), nn.relu(nn.Conv(16, (3, 3))(x))
        joined = jnp.concatenate([a, b, c, d], -1)
        all_tiles = jnp.concatenate([nn.Conv(16, (3, 3))(joined[..., :32]),
                                     nn.relu(nn.Conv(48, (3, 3))(x))], -1)
        return jnp.concatenate([nn.max_pool(values, (3, 3), (2, 2))
                                for values in (joined, d, all_tiles)], -1)


@needs_library
@TILES
def test_joined_convolutions(tile, monkeypatch):
    """Winograd's method writes where the concatenation puts them."""
    chosen = choose(monkeypatch, tile)
    variables = random_variables(Joins(), (9, 11, 5))
    check(Joins(), variables, layer_graph(Joins(), variables, (9, 11, 5)), (1, 5))
    assert chosen.count([tile] * 7) >= 5


class DenseLayers(nn.Module):
    """Panels and pieces of a kernel that are not full; sums of many inputs."""

    @nn.compact
    def __call__(self, x, train=False):
        x = nn.relu(nn.Dense(700)(x.reshape(len(x), -1)))
        x = nn.tanh(nn.Dense(40)(x))
        return nn.Dense(33)(jnp.concatenate([nn.relu6(nn.Dense(1)(x)),
                                             nn.relu(nn.Dense(7)(x))], -1))


@needs_library
def test_dense_layers_of_few_and_many_rows():
    shape = (7, 9, 30)
    variables = random_variables(DenseLayers(), shape)
    check(DenseLayers(), variables, layer_graph(DenseLayers(), variables, shape),
          (1, 2, 3, 4, 5, 9))


@needs_library
def test_an_empty_batch():
    network, variables, _ = drawn("lenet5", (32, 32, 1))
    compiled = inference.compile(network, variables, (32, 32, 1))
    assert compiled(np.zeros((0, 32, 32, 1), np.float32)).shape == (0, 7)


@needs_library
def test_any_number_of_images():
    """Threads share them, compute a few at a time, and the dense layers take all."""
    check(*drawn("lenet5", (32, 32, 1)), (1, 2, 3, 4, 7, 16, 33))


@needs_library
@pytest.mark.parametrize("tile", [2, 4])
def test_convolutions_by_winograds_method(tile, monkeypatch):
    """They include sums and activations; 2 threads share 5 images as 2 + 2 + 1."""
    network, variables, graph = drawn("resnet18", (45, 50, 3), blocks=(2, 1, 1))
    chosen = choose(monkeypatch, tile)
    check(network, variables, graph, (1, 5))
    assert chosen.count([tile] * 7) == 6


@needs_library
def test_selu_networks_use_winograds_method():
    """As training does: the activation is a step of its own."""
    _, _, graph = drawn("selu_cnn", (28, 28, 1))
    shapes = {node.name: node.shape for node in graph.nodes}
    steps = [program.step_of(node, shapes[node.inputs[0]])
             for node in fuse(graph).nodes[1:]]
    assert any(step.kind == program.CONVOLUTION and step.numbers[11] == 3
               and cost.WINOGRAD_4 in step.numbers[12:] for step in steps)


@needs_library
def test_weights_are_arguments():
    """One program serves all weights of a network, inside `jit` too."""
    shape = 28, 28, 1
    network, variables, graph = drawn("ai_edu_mnist_cnn", shape)
    others = jax.tree.map(lambda array: array * 1.1, variables)
    first, second = (inference.compile(network, v, shape)
                     for v in (variables, others))
    images = pixels(2, shape)
    apply = jax.jit(first.apply)
    for compiled in (first, second, first):
        actual = apply(compiled.variables, images)
        assert np.array_equal(actual, compiled(images))
    assert not np.array_equal(first(images), second(images))
    with pytest.raises(ValueError, match="train"):
        first.apply(first.variables, images, train=True)


@needs_library
def test_it_may_be_deleted_while_it_computes():
    network, variables, graph = drawn("selu_cnn", (28, 28, 1))
    images = pixels(64, (28, 28, 1))
    expected = exactly(graph, images)
    for _ in range(2):
        actual = inference.compile(network, variables, (28, 28, 1))(images)
        gc.collect()
        np.testing.assert_allclose(actual, expected, atol=ERROR * expected.std())


@needs_library
def test_threads_may_call_it_at_once():
    network, variables, _ = drawn("separable_cnn", (28, 28, 1))
    compiled = inference.compile(network, variables, (28, 28, 1))
    images = [pixels(count, (28, 28, 1), seed=count) for count in (1, 2, 3, 4)]
    expected = [np.asarray(compiled(batch)) for batch in images]
    start = threading.Barrier(4)

    def call(number):
        start.wait()
        return [np.asarray(compiled(images[number])) for _ in range(10)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for number, results in enumerate(pool.map(call, range(4))):
            for actual in results:
                np.testing.assert_array_equal(actual, expected[number])


def test_without_the_library(no_onednn):
    network, variables, graph = drawn("lenet5", (32, 32, 1))
    compiled = check(network, variables, graph, (2,))
    assert all(isinstance(subgraph, Node) for subgraph in compiled.subgraphs)


@needs_library
def test_fastest_chooses_the_compiled_network():
    shape = 28, 28, 1
    for layers, devices, is_compiled in (
            (Layers(), 1, True), (Layers(), 2, False),
            (Layers(conv="im2col"), 1, False), (Layers(dtype="bfloat16"), 1, False)):
        network = networks.create("ai_edu_mnist_cnn", 7, layers)
        variables = random_variables(network, shape)
        actual, weights = inference.fastest(network, variables, shape, devices)
        assert isinstance(actual, Compiled) == is_compiled
        assert (weights is variables) != is_compiled


@needs_library
@pytest.mark.slow
def test_without_avx_512(tmp_path):
    """The code with vectors of 8 numbers, which other processors run, is correct."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-k",
         "convolutions or any_activation or dense", __file__],
        env=os.environ | {"CXX": "g++ -mno-avx512f", "ONEDNN_MAX_CPU_ISA": "AVX2",
                          "CNN_JAX_CACHE": str(tmp_path)},
        capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
