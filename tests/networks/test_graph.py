"""A layer graph computes the same as its network, and names its operations."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.graph_networks import (FunctionsNetwork, LayersNetwork,
                                          random_variables)
from tests.support.quick_compile import quick_jit

from cnn_jax import networks
from cnn_jax.errors import InputError
from cnn_jax.layers import Layers
from cnn_jax.networks.graph import fold_batch_norm, layer_graph, run
from cnn_jax.networks.graph.operations import (Activation, AvgPool, BatchNorm, Conv,
                                               ConvTranspose, Dense, Elementwise, Input,
                                               Pad, Reshape)

SHAPE = (11, 13, 3)


@pytest.mark.parametrize("network", [LayersNetwork(), FunctionsNetwork()],
                         ids=["layers", "functions"])
def test_graphs_compute_what_networks_compute(network):
    variables = random_variables(network, SHAPE)
    graph = layer_graph(network, variables, SHAPE)
    folded = fold_batch_norm(graph)
    images = np.random.default_rng(1).normal(size=(2, *SHAPE)).astype(np.float32)
    expected, *others = quick_jit(lambda variables, params, folded_params: (
        network.apply(variables, images, train=False), run(graph, images, params),
        run(folded, images, folded_params)))(variables, graph.params, folded.params)
    size = np.ptp(expected)
    assert size > 0.1
    for other in others:
        np.testing.assert_allclose(other, expected, atol=1e-5 * size, rtol=0)


def test_nodes_of_lenet():
    network = networks.create("lenet5")
    variables = random_variables(network, (28, 28, 1))
    graph = layer_graph(network, variables, (28, 28, 1))
    assert graph.network == "LeNet5" and graph.image_shape == (28, 28, 1)
    assert [(node.name, type(node.operation), node.shape) for node in graph.nodes] == [
        ("input", Input, (28, 28, 1)), ("centre", Pad, (32, 32, 1)),
        ("conv1", Conv, (28, 28, 6)), ("act1", Activation, (28, 28, 6)),
        ("pool1", AvgPool, (14, 14, 6)), ("conv2", Conv, (10, 10, 16)),
        ("act2", Activation, (10, 10, 16)), ("pool2", AvgPool, (5, 5, 16)),
        ("flatten", Reshape, (400,)), ("fc1", Dense, (120,)),
        ("act3", Activation, (120,)), ("fc2", Dense, (84,)),
        ("act4", Activation, (84,)), ("head", Dense, (10,))]
    assert [node.inputs for node in graph.nodes[1:]] == [
        (node.name,) for node in graph.nodes[:-1]]
    by_name = {node.name: node for node in graph.nodes}
    kernel = variables["params"]["conv1"]["kernel"]
    assert by_name["conv1"].params["kernel"] is kernel  # no copy
    assert by_name["conv1"].operation == Conv((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert by_name["centre"].operation == Pad(((2, 2), (2, 2), (0, 0)))


def test_nodes_between_layers_have_their_names():
    network = networks.create("cifar_resnet20")
    graph = layer_graph(network, random_variables(network, (8, 8, 3)), (8, 8, 3))
    by_name = {node.name: node for node in graph.nodes}
    block = [node for node in graph.nodes if node.name.startswith("stage2_block1/")]
    assert [node.name.partition("/")[2] for node in block] == [
        "conv1", "bn1", "act1", "conv2", "bn2", "shortcut/slice", "shortcut", "add",
        "act"]
    assert by_name["stage2_block1/add"].operation == Elementwise("add")
    assert by_name["stage2_block1/add"].inputs == ("stage2_block1/bn2",
                                                   "stage2_block1/shortcut")
    assert by_name["stage2_block1/shortcut/slice"].inputs == ("stage1_block3/act",)
    assert len(graph.consumers()["stage1_block3/act"]) == 2


def test_shapes_give_a_graph_without_arrays():
    network = networks.create("lenet5_1998")
    variables = random_variables(network, (32, 32, 1))
    shapes = jax.eval_shape(lambda: variables)
    graphs = [layer_graph(network, values, (32, 32, 1)) for values in (
        variables, shapes)]
    first, second = ([(node.name, node.operation, node.inputs, node.shape)
                      for node in graph.nodes] for graph in graphs)
    assert first == second


def test_the_compute_dtype_does_not_matter():
    variables = random_variables(networks.create("lenet5"), (32, 32, 1))
    first, second = (
        [node.operation for node in layer_graph(
            networks.create("lenet5", layers=Layers(dtype=dtype)), variables,
            (32, 32, 1)).nodes] for dtype in ("float32", "bfloat16"))
    assert first == second


def test_batch_norm_is_folded_where_a_kernel_precedes_it():
    network = LayersNetwork()
    graph = layer_graph(network, random_variables(network, SHAPE), SHAPE)
    folded = fold_batch_norm(graph)
    assert [node.name for node in folded.nodes
            if isinstance(node.operation, BatchNorm)] == ["bn_kept"]
    gone = {node.name for node in graph.nodes} - {node.name for node in folded.nodes}
    assert gone == {"bn_folded", "bn_up", "bn_dense"}
    up = next(node for node in folded.nodes if node.name == "up")
    assert isinstance(up.operation, ConvTranspose) and "bias" in up.params


class Reader(nn.Module):
    """Reads its convolution twice, once through batch norm."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(3, (1, 1))(x)
        return x + nn.BatchNorm(use_running_average=True)(x)


def test_batch_norm_is_not_folded_if_others_read_its_input():
    network = Reader()
    graph = layer_graph(network, random_variables(network, SHAPE), SHAPE)
    assert len(fold_batch_norm(graph).nodes) == len(graph.nodes) == 4


class Shared(nn.Module):
    """Calls one layer twice."""

    @nn.compact
    def __call__(self, x, train):
        dense = nn.Dense(3, name="dense")
        return nn.Dense(3, name="dense_2")(dense(dense(x)))


def test_a_layer_that_is_called_twice_shares_its_parameters():
    network = Shared()
    graph = layer_graph(network, random_variables(network, SHAPE), SHAPE)
    _, first, second, third = graph.nodes
    assert (first.name, second.name, third.name) == ("dense", "dense_3", "dense_2")
    assert first.params["kernel"] is second.params["kernel"]


class Unknown(nn.Module):
    """Applies a function in a layer named `odd`."""

    function: object

    @nn.compact
    def __call__(self, x, train):
        return Odd(self.function, name="odd")(nn.Conv(4, (1, 1))(x))


class Odd(nn.Module):
    function: object

    @nn.compact
    def __call__(self, x):
        return self.function(x)


@pytest.mark.parametrize("function, primitive", [
    (lambda x: jnp.sort(x, 1), "sort"),
    (lambda x: x - x.mean(), "reduce_sum"),  # over all images
    (lambda x: x[::-1], "rev"),
    (lambda x: x.transpose(1, 0, 2, 3), "transpose"),
    (lambda x: x.reshape(-1, 4), "reshape"),
    (lambda x: jnp.einsum("nhwc,nhwd->ncd", x, x), "dot_general"),
    (lambda x: jnp.concatenate([x, jnp.zeros_like(x)], 1), "concatenate"),
    (lambda x: jax.lax.scan(lambda c, y: (c, y + c), x[:, 0], x.swapaxes(0, 1))[1],
     "transpose"),
], ids=["sort", "batch mean", "reverse", "axes", "reshape", "gram", "zeros", "scan"])
def test_operations_that_a_graph_does_not_support(function, primitive):
    network = Unknown(function)
    variables = random_variables(network, SHAPE)
    with pytest.raises(InputError) as error:
        layer_graph(network, variables, SHAPE)
    message = str(error.value)
    assert "odd of Unknown" in message and primitive in message
    assert "\n" not in message


class TwoOutputs(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x, nn.Dense(2)(x)


def test_a_network_has_one_output():
    network = TwoOutputs()
    with pytest.raises(InputError, match="2 arrays"):
        layer_graph(network, random_variables(network, SHAPE), SHAPE)


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_registered_network_has_a_graph(name):
    shape = networks.NETWORKS[name].input_shape
    network = networks.create(name, layers=Layers(conv="lax", pool="lax"))
    variables = jax.eval_shape(lambda: network.init(
        jax.random.key(0), jnp.zeros((1, *shape)), train=False))
    graph = layer_graph(network, variables, shape)
    logits = jax.eval_shape(lambda variables, images: network.apply(
        variables, images, train=False), variables, jnp.zeros((1, *shape)))
    assert graph.nodes[-1].shape == logits.shape[1:]
    layers = {node.name.partition("/")[0] for node in graph.nodes
              if isinstance(node.operation, (Conv, Dense, ConvTranspose))}
    assert "head" in layers or name == "lenet5_1998"
