"""One network of each class trains in bfloat16 and with every convolution algorithm.

test_networks_all.py trains every registered network, in both dtypes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.support.quick_compile import quick_jit

from cnn_jax import networks, ops
from cnn_jax.layers import Layers

pytestmark = pytest.mark.usefixtures("compiled_once")

# One network of each class, small if depth adds nothing, and an image size.
SMALL = {
    "lenet5": ({}, (28, 28, 1)),
    "lenet5_1998": ({}, (28, 28, 1)),
    "alexnet": ({"widths": (16, 16, 16, 16, 16)}, (67, 67, 3)),
    "zfnet": ({}, (63, 63, 3)),
    "vgg11_bn": ({}, (32, 32, 3)),
    "googlenet": ({}, (79, 79, 3)),
    "inception_v3": ({"aux": False}, (75, 75, 3)),
    "resnet18": ({"zero_gamma": True, "blocks": (1, 1, 1, 1)}, (17, 17, 3)),
    "resnet50_v2_keras": ({"blocks": (1, 1, 1, 1)}, (17, 17, 3)),
    "cifar_resnet20": ({"depth": 8}, (9, 9, 3)),
    "densenet121": ({"blocks": (2, 2, 2), "growth": 4, "dropout": 0.2}, (33, 33, 3)),
    "xception": ({"middle": 1}, (33, 33, 3)),
    "mobilenet_v1": ({"width": 0.25}, (33, 33, 3)),
    "mobilenet_v2": ({"width": 0.25}, (33, 33, 3)),
    "squeezenet1_1": ({"version": "1.1"}, (35, 35, 3)),
    "separable_cnn": ({}, (28, 28, 1)),
    "shapes_fcn": ({}, (12, 16, 3)),
    "baseline": ({}, (32, 32, 3)),
    "tf2_alexnet8": ({}, (32, 32, 3)),
    "tf2_inception10": ({"batch_statistics": True}, (32, 32, 3)),
    "ai_edu_colour_cnn": ({}, (28, 28, 3)),
    "ai_edu_fashion_dnn": ({}, (28, 28, 3)),
    "ai_edu_cifar_cnn": ({}, (32, 32, 3)),
}
# Checked with -m slow: many layers, all of kinds that the other networks have.
LARGE = {"densenet121", "googlenet", "inception_v3", "mobilenet_v1", "mobilenet_v2",
         "resnet50_v2_keras", "squeezenet1_1", "vgg11_bn", "xception"}


def drawn(shapes):
    """Draws values by NumPy, since initialization would compile for seconds."""
    draw = np.random.default_rng(0)

    def value(path, leaf):
        assert leaf.dtype == jnp.float32, jax.tree_util.keystr(path)
        if path[-1].key in ("scale", "var"):
            return np.ones(leaf.shape, np.float32)
        spread = np.sqrt(1 / max(1, np.prod(leaf.shape[:-1])))
        return np.float32(draw.normal(0, spread, leaf.shape))
    return jax.tree_util.tree_map_with_path(value, shapes)


def step_of(model):
    """Makes (variables, images, labels) -> (loss, variables after one step of SGD)."""
    def step(variables, images, labels):
        def loss(params):
            logits, after = model.apply(
                variables | {"params": params}, images, train=True,
                mutable=["batch_stats"], rngs={"dropout": jax.random.key(1)})
            # For segmentation, every pixel gets the label of its image.
            targets = labels.reshape(-1, *(1,) * (logits.ndim - 2))
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits.astype(jnp.float32),
                jnp.broadcast_to(targets, logits.shape[:-1]))
            return losses.mean(), (logits, after)
        (value, (logits, after)), grads = jax.value_and_grad(loss, has_aux=True)(
            variables["params"])
        params = jax.tree.map(lambda p, g: p - 0.01 * g, variables["params"], grads)
        return value, logits, variables | {"params": params} | after
    return step


def case(name, fields, shape, classes=3, **settings):
    model = networks.create(name, classes, Layers(**settings), **fields)
    images = np.random.default_rng(1).uniform(0, 1, (4, *shape)).astype(np.float32)
    shapes = networks.eval_shape(
        lambda: model.init(jax.random.key(0), images, train=False))
    return model, shapes, images, np.arange(4) % classes


def shape_of_logits(name):
    """Returns the shape of one example's logits, without the classes."""
    return SMALL[name][1][:2] if name == "shapes_fcn" else ()


def test_every_class_is_in_the_table():
    covered = {networks.NETWORKS[name].constructor for name in SMALL}
    assert covered == {row.constructor for row in networks.NETWORKS.values()}


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name
    for name in SMALL])
def test_a_step_in_bfloat16_keeps_every_shape_and_dtype(name):
    model, shapes, images, labels = case(name, *SMALL[name], dtype="bfloat16",
                                         conv="lax", pool="lax")
    loss, logits, after = jax.eval_shape(step_of(model), shapes, images, labels)
    assert logits.dtype == jnp.bfloat16
    assert logits.shape == (4, *shape_of_logits(name), 3)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), after) == jax.tree.map(
        lambda a: (a.shape, a.dtype), shapes)


# loops and numba are slow, so they get the smallest network. Winograd needs 3 x 3
# kernels of stride 1, and only the SELU network has nothing else.
FAST_CONVS = [conv for conv in ops.ALGORITHMS if conv not in ("loops", "lax", "numba")]
TRAINED_ALIKE = [("ai_edu_colour_cnn", "loops"), ("ai_edu_colour_cnn", "numba")] + [
    (name, conv) for name in ("lenet5", "selu_cnn", "separable_cnn", "tf2_inception10",
                              "shapes_fcn") for conv in FAST_CONVS]


@pytest.mark.slow
@pytest.mark.parametrize("name, conv", TRAINED_ALIKE)
def test_implementations_train_alike(name, conv):
    if conv == "numba":
        pytest.importorskip("numba")
    fields, _ = SMALL.get(name, ({}, None))
    shape = (12, 12, networks.NETWORKS[name].input_shape[2])

    def trained(implementation):
        # float64, since winograd rounds more than the others; parameters are float32.
        with jax.enable_x64(True):
            model, shapes, images, labels = case(name, fields, shape, dtype="float64",
                                                 conv=implementation)
            loss, _, after = quick_jit(step_of(model))(drawn(shapes), images, labels)
        return loss, after
    loss, after = trained("lax")
    if conv == "winograd" and name != "selu_cnn":
        with pytest.raises(ValueError, match="3 x 3 kernels"):
            trained(conv)
        return
    other_loss, other = trained(conv)
    np.testing.assert_allclose(other_loss, loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6),
                 other, after)


def test_dropout_acts_in_training_only_and_follows_its_key():
    model, shapes, images, _ = case("baseline", {}, (32, 32, 3))
    variables = drawn(shapes)

    @jax.jit
    def logits(key):
        return model.apply(variables, images, train=True, mutable=["batch_stats"],
                           rngs={"dropout": key})[0]
    first = logits(jax.random.key(0))
    np.testing.assert_array_equal(first, logits(jax.random.key(0)))
    assert (first != logits(jax.random.key(1))).any()


@pytest.mark.slow
def test_inception10_can_freeze_its_batch_statistics_as_the_course_did():
    model, shapes, images, _ = case("tf2_inception10", {"blocks": 1}, (8, 8, 3))
    variables = drawn(shapes)

    def statistics(model):
        return model.apply(variables, images, train=True,
                           mutable=["batch_stats"])[1]["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, statistics(model),
                 variables["batch_stats"])
    learns = statistics(model.clone(batch_statistics=True))
    assert (learns["stem"]["bn"]["var"] != 1).all()
