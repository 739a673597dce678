"""Layers: batch norm presets, dropout keys, padding, concatenation, initializers."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import quick_jit

from cnn_jax import layers
from cnn_jax.layers import Layers
from cnn_jax.networks.blocks import ConvNormAct, SeparableConv
from cnn_jax.networks.lenet import SparseConv, Subsampling

pytestmark = pytest.mark.usefixtures("compiled_once")

RANDOM = np.random.default_rng(0)
IMAGES = np.float32(RANDOM.normal(3, 2, (4, 6, 5, 3)))


def run(module, *args, train=None, **rngs):
    """Initializes a module and calls it once; returns (output, variables after)."""
    kwargs = {} if train is None else {"train": train}

    @quick_jit
    def both(*args):
        variables = module.init(jax.random.key(0), *args, **kwargs)
        return module.apply(variables, *args, **kwargs, mutable=["batch_stats"],
                            rngs=rngs or None)
    return both(*args)


@pytest.mark.parametrize("bn, epsilon, momentum, unbiased", [
    ("flax", 1e-5, 0.99, False), ("keras", 1e-3, 0.99, False),
    ("keras_resnet", 1.001e-5, 0.99, False), ("torch", 1e-5, 0.9, True),
    ("torch_inception", 1e-3, 0.9, True), ("paper", 1e-5, 0.99, False)])
def test_batch_norm_presets(bn, epsilon, momentum, unbiased):
    # A small variance shows the epsilon.
    x = IMAGES / 100
    y, after = run(Layers(bn=bn).batch_norm(train=True), x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + epsilon), atol=2e-4)
    kept = x.var((0, 1, 2), ddof=1 if unbiased else 0)
    stats = after["batch_stats"]
    np.testing.assert_allclose(stats["mean"], (1 - momentum) * mean, rtol=1e-4)
    np.testing.assert_allclose(stats["var"], momentum + (1 - momentum) * kept,
                               rtol=1e-6)


@pytest.mark.parametrize("fields", [
    {}, {"use_scale": False}, {"use_bias": False}, {"momentum": 0.7, "epsilon": 1e-3},
    {"scale_init": nn.initializers.zeros}])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_batch_norm_equals_flax(fields, dtype):
    """Variables, output, statistics and gradients agree."""
    ours = layers.BatchNorm(False, dtype=dtype, **fields)
    theirs = nn.BatchNorm(False, dtype=dtype, **{"momentum": 0.99} | fields)
    variables = theirs.init(jax.random.key(0), IMAGES)
    jax.tree.map(np.testing.assert_array_equal,
                 ours.init(jax.random.key(0), IMAGES), variables)
    weights = RANDOM.normal(size=IMAGES.shape)

    def loss(params, x, module):
        y, after = module.apply(variables | {"params": params}, x,
                                mutable=["batch_stats"])
        return (y * weights).sum(), (y, after)
    params = variables.get("params", {})
    (grads, (y, after)), (expected, (y_theirs, after_theirs)) = (
        quick_jit(jax.grad(functools.partial(loss, module=module), (0, 1),
                           has_aux=True))(params, IMAGES)
        for module in (ours, theirs))
    assert y.dtype == y_theirs.dtype == dtype
    near = 1e-5 if dtype == "float32" else 3e-2
    for a, b in zip(jax.tree.leaves((y, after, grads)),
                    jax.tree.leaves((y_theirs, after_theirs, expected)), strict=True):
        a, b = (np.asarray(t, np.float64) for t in (a, b))
        np.testing.assert_allclose(a, b, atol=near * max(1, np.abs(b).max()))


def test_a_networks_own_batch_norm_holds_under_paper_only():
    settings = {"epsilon": 1e-3, "momentum": 0.9}
    paper = Layers(bn="paper").batch_norm(True, **settings)
    assert (paper.epsilon, paper.momentum, paper.unbiased) == (1e-3, 0.9, False)
    torch = Layers(bn="torch").batch_norm(True, 1e-3, 0.5)
    assert (torch.epsilon, torch.momentum, torch.unbiased) == (1e-5, 0.9, True)


@pytest.mark.parametrize("bn", ["flax", "torch"])
def test_batch_norm_over_devices_is_batch_norm_of_the_whole_batch(bn):
    whole = Layers(bn=bn).batch_norm(True)
    parts = Layers(bn=bn, axis_name="devices").batch_norm(True)
    variables = whole.init(jax.random.key(0), IMAGES)

    def apply(module, x):
        return module.apply(variables, x, mutable=["batch_stats"])
    y, after = apply(whole, IMAGES)
    split = IMAGES.reshape(2, 2, *IMAGES.shape[1:])
    y_parts, after_parts = jax.vmap(lambda x: apply(parts, x),
                                    axis_name="devices")(split)
    np.testing.assert_allclose(y_parts.reshape(y.shape), y, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-5),
                 after_parts, after)


def test_batch_norm_in_evaluation_uses_and_keeps_the_running_statistics():
    y, after = run(Layers(bn="torch").batch_norm(train=False), IMAGES)
    np.testing.assert_allclose(y, IMAGES / np.sqrt(1 + 1e-5), rtol=1e-6)
    np.testing.assert_array_equal(after["batch_stats"]["var"], np.ones(3))


def test_dropout_drops_the_same_elements_on_any_number_of_devices():
    x = np.ones((6, 50), np.float32)
    key = jax.random.key(3)

    def drop(x, axis_name=None):
        return layers.Dropout(0.4, axis_name).apply({}, x, True, rngs={"dropout": key})
    whole = np.asarray(quick_jit(drop)(x))
    assert set(np.unique(whole)) == {0, np.float32(1 / 0.6)}
    assert 0.5 < (whole > 0).mean() < 0.7
    assert (whole[0] != whole[1]).any()
    for devices in (2, 3):
        split = quick_jit(jax.vmap(functools.partial(drop, axis_name="d"),
                                   axis_name="d"))(x.reshape(devices, -1, 50))
        np.testing.assert_array_equal(split.reshape(x.shape), whole)
    for rate in (-0.1, 1.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match=f"rate {rate}.*below 1"):
            Layers().dropout(rate)
    assert layers.Dropout(0.4).apply({}, x, False) is x
    assert layers.Dropout(0.0).apply({}, x, True) is x


def test_symmetric_padding_and_same_differ_on_even_sizes_only():
    x = jnp.arange(16.0).reshape(1, 4, 4, 1)
    make = Layers()
    symmetric = make.max_pool((3, 3), (2, 2), "symmetric").apply({}, x)[0, :, :, 0]
    same = make.max_pool((3, 3), (2, 2), "SAME").apply({}, x)[0, :, :, 0]
    np.testing.assert_array_equal(symmetric, [[5, 7], [13, 15]])
    np.testing.assert_array_equal(same, [[10, 11], [14, 15]])
    odd = jnp.arange(25.0).reshape(1, 5, 5, 1)
    np.testing.assert_array_equal(
        make.max_pool((3, 3), (2, 2), "symmetric").apply({}, odd),
        make.max_pool((3, 3), (2, 2), "SAME").apply({}, odd))
    assert layers.pairs("symmetric", (7, 1)) == ((3, 3), (0, 0))
    assert layers.pairs("VALID", (7, 1)) == "VALID"


def test_a_window_larger_than_the_image():
    x = jnp.zeros((1, 2, 9, 1))
    make = Layers()
    for module in (make.max_pool((3, 3)), make.avg_pool((3, 3)),
                   make.convolution(4, (3, 3), padding="VALID")):
        with pytest.raises(layers.WindowError, match="3x3 .*2x9"):
            module.init(jax.random.key(0), x)


def test_adaptive_average_pool_by_hand():
    rows = jnp.asarray([[1.0, 2, 4, 8, 16]]).reshape(1, 1, 5, 1)
    # Windows 0-1, 1-3, 3-4; the only row is repeated.
    y, _ = run(layers.AdaptiveAvgPool(3), rows)
    np.testing.assert_allclose(y[0, :, :, 0], [[1.5, 14 / 3, 12]] * 3, 1e-6)
    halves, _ = run(layers.AdaptiveAvgPool(2), IMAGES[:, :, 1:])
    expected, _ = run(layers.AvgPool((3, 2), (3, 2)), IMAGES[:, :, 1:])
    np.testing.assert_allclose(halves, expected, 1e-6)


def test_concatenation_and_padding():
    a, b = np.arange(8.0).reshape(1, 2, 2, 2), np.ones((1, 2, 2, 1))
    np.testing.assert_array_equal(layers.Concat().apply({}, a, b)[0, 1, 0], [4, 5, 1])
    np.testing.assert_array_equal(layers.Add().apply({}, a, b)[0, 1, 0], [5, 6])
    np.testing.assert_array_equal(
        layers.ZeroPad(((1, 0), (0, 2))).apply({}, b)[0, :, :, 0],
        [[0, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]])
    c = np.arange(18.0).reshape(1, 3, 3, 2)
    np.testing.assert_array_equal(
        layers.Subsample(2, (1, 2)).apply({}, c)[0, 1],
        [[0, 12, 13, 0, 0], [0, 16, 17, 0, 0]])
    np.testing.assert_array_equal(layers.Flatten().apply({}, a)[0], np.arange(8.0))
    assert layers.Flatten().apply({}, a[:0]).shape == (0, 8)


def test_local_response_norm_conventions():
    x = jnp.array([[[[1.0, 100.0, 20.0]]]])
    paper = layers.LocalResponseNorm(3, k=2.0, alpha=0.3).apply({}, x)
    divided = layers.LocalResponseNorm(3, k=2.0, alpha=0.9,
                                       divide_by_size=True).apply({}, x)
    sums = np.array([1 + 1e4, 1 + 1e4 + 400, 1e4 + 400])
    expected = np.array([1, 100, 20]) / (2 + 0.3 * sums) ** 0.75
    np.testing.assert_allclose(paper[0, 0, 0], expected, rtol=1e-5)
    np.testing.assert_allclose(divided, paper, rtol=1e-6)


@pytest.mark.parametrize("init, bound, deviation", [
    ("keras", np.sqrt(6 / (9 * 8 + 9 * 16)), None),
    ("torch", 1 / np.sqrt(9 * 8), None),
    ("flax", None, 1 / np.sqrt(9 * 8)), ("lecun", None, 1 / np.sqrt(9 * 8)),
    ("he", None, np.sqrt(2 / (9 * 8))), ("gaussian", None, 0.01)])
def test_initializers(init, bound, deviation):
    conv = Layers(init=init).convolution(16, (3, 3))
    params = conv.init(jax.random.key(1), jnp.zeros((1, 4, 4, 8)))["params"]
    kernel = np.asarray(params["kernel"])
    if bound is not None:
        assert 0.97 * bound < np.abs(kernel).max() <= bound
        deviation = bound / np.sqrt(3)
    assert kernel.std() == pytest.approx(deviation, rel=0.08)
    assert init == "torch" or not params["bias"].any()


def test_shapes_without_drawing_are_those_of_the_initial_values():
    """The same function draws them afterwards."""
    module = Layers(init="torch", conv="lax").convolution(7, (3, 2))

    def init():
        return module.init(jax.random.key(0), IMAGES)
    shapes = layers.eval_shape(init)
    assert all(np.ptp(leaf) > 0 for leaf in jax.tree.leaves(quick_jit(init)()))
    assert shapes == jax.eval_shape(init)


@pytest.mark.parametrize("norm", ["torch", "group_norm", "layer_norm"])
def test_shapes_alone_are_those_of_the_values(norm):
    make = Layers(bn=norm, conv="lax", dtype="bfloat16")
    network = nn.Sequential([make.convolution(6, (3, 3), 2), make.batch_norm(False),
                             layers.Activation("relu"), make.dense(5)])

    def init():
        return network.init_with_output(jax.random.key(0), IMAGES)
    shapes = layers.eval_shape(init)
    assert shapes == jax.eval_shape(init) and shapes[0].dtype == jnp.bfloat16
    variables = quick_jit(init)()[1]
    assert layers.eval_shape(network.apply, variables, IMAGES) == shapes[0]
    with pytest.raises(ValueError, match="'relu7'"):
        layers.eval_shape(layers.Activation("relu7").apply, {}, IMAGES)


@pytest.mark.parametrize("layer, fan_in", [
    (Layers(init="torch").convolution(3000, (3, 2)), 6 * 8),
    (Layers(init="torch").convolution(3000, (3, 3), feature_group_count=4), 9 * 2),
    (Layers(init="torch").convolution(3000, (3, 3), feature_group_count=8), 9),
    (Layers(init="torch").dense(3000), 8),
    # For a transposed convolution, torch's fan-in counts the output features.
    (Layers(init="torch").conv_transpose(3000, (2, 2), 2, feature_group_count=8),
     4 * 375)])
def test_biases_of_torch(layer, fan_in):
    params = layer.init(jax.random.key(1), jnp.zeros((1, 4, 4, 8)))["params"]
    for leaf in params.values():
        values, bound = np.asarray(leaf), 1 / np.sqrt(fan_in)
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.99 * bound
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)
        assert abs(values.mean()) < 0.05 * bound
    other = layer.init(jax.random.key(2), jnp.zeros((1, 4, 4, 8)))["params"]
    assert (params["bias"] != other["bias"]).all()


def test_torch_adds_no_bias_where_batch_norm_follows():
    trees = [ConvNormAct(4, layers=Layers(init=init)).init(
        jax.random.key(0), IMAGES, train=False)["params"] for init in ("flax", "torch")]
    assert jax.tree.map(jnp.shape, trees[0]) == jax.tree.map(jnp.shape, trees[1])
    assert set(trees[1]["conv"]) == {"kernel"}
    assert not trees[1]["bn"]["bias"].any() and (trees[1]["bn"]["scale"] == 1).all()


@pytest.mark.parametrize("implementation", ["lax", "im2col", "auto"])
def test_transposed_convolution_is_the_input_gradient_of_a_convolution(implementation):
    make = Layers(conv=implementation)
    up = make.conv_transpose(6, (3, 4), (2, 3), feature_group_count=3)
    variables = up.init(jax.random.key(0), IMAGES)
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 4, 2, 3)
    y = up.apply({"params": {"kernel": kernel, "bias": jnp.arange(6.0)}}, IMAGES)
    assert y.shape == (4, 12, 15, 6)
    down = nn.Conv(3, (3, 4), (2, 3), feature_group_count=3, use_bias=False)
    _, pull = jax.vjp(lambda y: down.apply({"params": {"kernel": kernel}}, y),
                      jnp.zeros_like(y))
    np.testing.assert_allclose(y, np.asarray(pull(IMAGES)[0]) + np.arange(6), atol=1e-5)


def test_the_options_of_a_transposed_convolution():
    def out(padding="SAME", dtype="float32", **fields):
        up = Layers(dtype=dtype).conv_transpose(5, (3, 3), 2, padding, **fields)
        y, variables = jax.eval_shape(
            lambda: up.init_with_output(jax.random.key(0), IMAGES))
        assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {
            jnp.dtype("float32")}
        return y.shape[1:3], y.dtype, len(variables["params"])
    assert out() == ((12, 10), jnp.float32, 2)
    assert out("VALID", use_bias=False) == ((13, 11), jnp.float32, 1)
    # As torch's padding=1, output_padding=1.
    assert out("symmetric", output_padding=1, dtype="bfloat16") == (
        (12, 10), jnp.bfloat16, 2)
    assert out("VALID", kernel_dilation=2)[0] == (15, 13)
    with pytest.raises(ValueError, match="3 channels.*5 features.*2 groups"):
        out(feature_group_count=2)
    with pytest.raises(ValueError, match="'x'.*im2col"):
        Layers(conv="x").conv_transpose(4, (2, 2))


def test_separable_convolution_is_its_two_parts():
    module = SeparableConv(4, layers=Layers())
    variables = module.init(jax.random.key(0), IMAGES)
    params = jax.tree.map(lambda a: a + 0.1, variables["params"])
    assert jax.tree.map(jnp.shape, params) == {
        "depthwise": {"kernel": (3, 3, 1, 3)},
        "pointwise": {"kernel": (1, 1, 3, 4), "bias": (4,)}}
    # One convolution with the outer product of the two kernels gives the same.
    depth, point = params["depthwise"]["kernel"], params["pointwise"]["kernel"]
    full = depth[:, :, 0, :, None] * point
    y = nn.Conv(4, (3, 3)).apply(
        {"params": {"kernel": full, "bias": params["pointwise"]["bias"]}}, IMAGES)
    np.testing.assert_allclose(module.apply({"params": params}, IMAGES), y, atol=1e-4)


def test_sparse_convolution_reads_its_sources_only():
    module = SparseConv(2, ((0, 0), (2, 0), (1, 1)), (2, 2))
    variables = module.init(jax.random.key(0), IMAGES)
    assert jax.tree.map(jnp.shape, variables["params"]) == {
        "kernel": (2, 2, 3), "bias": (2,)}
    y = module.apply(variables, IMAGES)
    other = IMAGES.copy()
    other[..., 1] += 1
    changed = module.apply(variables, other)
    np.testing.assert_array_equal(changed[..., 0], y[..., 0])
    assert (changed[..., 1] != y[..., 1]).all()


def test_trainable_subsampling():
    x = np.arange(16.0, dtype=np.float32).reshape(1, 4, 4, 1)
    params = {"scale": jnp.array([0.5]), "bias": jnp.array([1.0])}
    y = Subsampling().apply({"params": params}, x)
    np.testing.assert_allclose(y[0, :, :, 0], [[6, 10], [22, 26]])
