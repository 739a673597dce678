"""Networks equal keras.applications in float64: logits, values after three steps.

Keras runs on its JAX backend; all parameters and running statistics are compared.

Needs the `peers` extra; then: pytest -m slow tests/networks/test_peers_keras.py
"""

import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import mean_loss, quick_jit, sgd_steps

from cnn_jax import networks
from cnn_jax.layers import Layers

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="needs the `peers` extra: keras")
pytestmark = pytest.mark.slow

CLASSES = 7


def by_rules(*rules):
    """Makes a function, our path -> keras' name, from (pattern, template) pairs."""
    def name(path):
        for pattern, template in rules:
            if match := re.fullmatch(pattern, path):
                return (template(*match.groups()) if callable(template)
                        else match.expand(template))
        raise KeyError(path)
    return name


def later(template):
    """Adds 1 to a stage: keras counts the stem as stage 1, so our stage 1 is conv2."""
    return lambda stage, *rest: template.format(int(stage) + 1, *rest)


RESNET = by_rules(
    ("stem_(conv|bn)", r"conv1_\1"),
    (r"stage(\d)_block(\d+)/(conv|bn)(\d)", lambda i, j, kind, k:
     f"conv{int(i) + 1}_block{j}_{k}_{kind}"),
    (r"stage(\d)_block(\d+)/shortcut_(conv|bn)", later("conv{}_block{}_0_{}")),
    ("head", "predictions"))
RESNET_V2 = by_rules(
    ("stem_conv", "conv1_conv"), ("final_bn", "post_bn"), ("head", "predictions"),
    (r"stage(\d)_block(\d+)/bn1", later("conv{}_block{}_preact_bn")),
    (r"stage(\d)_block(\d+)/bn(\d)", lambda i, j, k:
     f"conv{int(i) + 1}_block{j}_{int(k) - 1}_bn"),
    (r"stage(\d)_block(\d+)/conv(\d)", later("conv{}_block{}_{}_conv")),
    (r"stage(\d)_block(\d+)/shortcut_conv", later("conv{}_block{}_0_conv")))
DENSENET = by_rules(
    ("stem_(conv|bn)", r"conv1_\1"), ("final_bn", "bn"), ("head", "predictions"),
    (r"block(\d)_layer(\d+)/neck_bn", later("conv{}_block{}_0_bn")),
    (r"block(\d)_layer(\d+)/neck_conv", later("conv{}_block{}_1_conv")),
    (r"block(\d)_layer(\d+)/bn", later("conv{}_block{}_1_bn")),
    (r"block(\d)_layer(\d+)/conv", later("conv{}_block{}_2_conv")),
    (r"transition(\d)/(conv|bn)", later("pool{}_{}")))
VGG = by_rules((r"stage(\d)_conv(\d)", r"block\1_conv\2"), ("head", "predictions"),
               (r"fc(\d)", r"fc\1"))
MOBILENET = by_rules(
    ("stem/conv", "conv1"), ("stem/bn", "conv1_bn"), ("head", "conv_preds"),
    (r"stage\d_layer(\d+)_depthwise/conv", r"conv_dw_\1"),
    (r"stage\d_layer(\d+)_depthwise/bn", r"conv_dw_\1_bn"),
    (r"stage\d_layer(\d+)_pointwise/conv", r"conv_pw_\1"),
    (r"stage\d_layer(\d+)_pointwise/bn", r"conv_pw_\1_bn"))
XCEPTION = by_rules(
    (r"stem_conv(\d)/conv", r"block1_conv\1"),
    (r"stem_conv(\d)/bn", r"block1_conv\1_bn"),
    (r"entry_block(\d)/shortcut/conv", lambda i: numbered("conv2d", int(i) - 1)),
    (r"entry_block(\d)/shortcut/bn",
     lambda i: numbered("batch_normalization", int(i) - 1)),
    ("exit_block1/shortcut/conv", "conv2d_3"),
    ("exit_block1/shortcut/bn", "batch_normalization_3"),
    (r"entry_block(\d)/conv(\d).*", lambda i, j: f"block{int(i) + 1}_sepconv{j}"),
    (r"entry_block(\d)/bn(\d)", lambda i, j: f"block{int(i) + 1}_sepconv{j}_bn"),
    (r"middle_block(\d)/conv(\d).*", lambda i, j: f"block{int(i) + 4}_sepconv{j}"),
    (r"middle_block(\d)/bn(\d)", lambda i, j: f"block{int(i) + 4}_sepconv{j}_bn"),
    (r"exit_block1/conv(\d).*", r"block13_sepconv\1"),
    (r"exit_block1/bn(\d)", r"block13_sepconv\1_bn"),
    (r"exit_conv(\d).*", r"block14_sepconv\1"),
    (r"exit_bn(\d)", r"block14_sepconv\1_bn"),
    ("head", "predictions"))


def numbered(name, i):
    return name if i == 0 else f"{name}_{i}"


def mobilenet_v2(path):
    """Maps our path; keras numbers blocks over all stages, the first is unexpanded."""
    fixed = {"stem/conv": "Conv1", "stem/bn": "bn_Conv1", "final/conv": "Conv_1",
             "final/bn": "Conv_1_bn", "head": "predictions"}
    if path in fixed:
        return fixed[path]
    stage, block, part, kind = re.fullmatch(
        r"stage(\d)_block(\d)/(\w+)/(\w+)", path).groups()
    number = sum((1, 2, 3, 4, 3, 3, 1)[:int(stage) - 1]) + int(block) - 1
    name = f"block_{number}_{part}" if number else f"expanded_conv_{part}"
    return name + ("_BN" if kind == "bn" else "")


def inception(path):
    """Numbers the convolutions in the order of creation, as keras does."""
    if path == "head":
        return "predictions"
    layer, kind = path.rsplit("/", 1)
    return numbered("conv2d" if kind == "conv" else "batch_normalization",
                    INCEPTION_ORDER.index(layer))


INCEPTION_ORDER = [
    *(f"stem_conv{i}" for i in range(1, 6)),
    *(f"stage{cell}/{step}" for cell, steps in (
        *((f"5_{c}", "a1 b1 b2 c1 c2 c3 d2") for c in "bcd"),
        ("6_a", "a1 b1 b2 b3"),
        *((f"6_{c}", "a1 b1 b2 b3 c1 c2 c3 c4 c5 d2") for c in "bcde"),
        ("7_a", "a1 a2 b1 b2 b3 b4"),
        *((f"7_{c}", "a1 b1 b2x b2y c1 c2 c3x c3y d2") for c in "bc"))
      for step in steps.split())]

# Ours, its fields, keras' and its arguments, batch norm, names, image sizes.
CASES = {
    "VGG16": ("vgg16", {"dropout": 0.0}, {}, "keras", VGG, [(32, 32), (35, 45)]),
    "ResNet50": ("resnet50_keras", {}, {}, "keras_resnet", RESNET,
                 [(48, 48), (45, 39)]),
    "ResNet50V2": ("resnet50_v2_keras", {}, {}, "keras_resnet", RESNET_V2,
                   [(48, 48), (45, 39)]),
    **{f"ResNet{depth}": (f"resnet{depth}_keras", {}, {}, "keras_resnet", RESNET,
                          [(32, 48), (45, 39)]) for depth in (101, 152)},
    **{f"ResNet{depth}V2": (f"resnet{depth}_v2_keras", {}, {}, "keras_resnet",
                            RESNET_V2, [(32, 48), (45, 39)]) for depth in (101, 152)},
    **{f"DenseNet{depth}": (f"densenet{depth}", {}, {}, "keras_resnet", DENSENET,
                            [(32, 48), (45, 39)]) for depth in (169, 201)},
    "DenseNet121": ("densenet121", {}, {}, "keras_resnet", DENSENET,
                    [(48, 48), (45, 39)]),
    "InceptionV3": ("inception_v3_keras", {}, {}, "keras", inception,
                    [(108, 112), (75, 87)]),
    "Xception": ("xception", {"dropout": 0.0}, {}, "keras", XCEPTION,
                 [(72, 76), (71, 83)]),
    "MobileNet": ("mobilenet_v1", {"activation": "relu6", "padding": "keras",
                                   "dropout": 0.0},
                  {"dropout": 0.0}, "keras", MOBILENET, [(48, 48), (45, 39)]),
    "MobileNetV2": ("mobilenet_v2", {"dropout": 0.0}, {}, "keras_mobilenet_v2",
                    mobilenet_v2, [(48, 48), (45, 39)]),
}
# Deeper forms of networks whose training is compared above; only logits here.
LOGITS_ALONE = {"ResNet101", "ResNet152", "ResNet101V2", "ResNet152V2", "DenseNet169",
                "DenseNet201"}


@pytest.fixture(autouse=True)
def float64(monkeypatch):
    keras.config.set_floatx("float64")
    # On its JAX backend keras computes batch norm and means in float32 even so, which
    # would hide differences below 1e-7.
    from keras.src.backend.common import dtypes
    monkeypatch.setitem(dtypes.BIT64_TO_BIT32_DTYPE, "float64", "float64")
    with jax.enable_x64(True):
        yield
    keras.config.set_floatx("float32")


def keras_weight(peer, name, path):
    """Returns the keras variable of our leaf, and its shape in our tree."""
    keys = [key.key for key in path][1:]
    layer = peer.get_layer(name("/".join(keys[:-1])))
    leaf = keys[-1]
    if leaf == "kernel" and keys[-2] == "pointwise":
        return layer.pointwise_kernel
    if leaf == "kernel" and hasattr(layer, "depthwise_kernel"):
        return layer.depthwise_kernel
    if leaf == "kernel" and isinstance(layer, keras.layers.DepthwiseConv2D):
        return layer.kernel
    if isinstance(layer, keras.layers.BatchNormalization):
        leaf = {"scale": "gamma", "bias": "beta", "mean": "moving_mean",
                "var": "moving_variance"}[leaf]
    return getattr(layer, leaf)


def randomise(peer):
    draw = np.random.default_rng(1)
    for variable in peer.weights:
        shape, what = variable.shape, variable.name
        if "kernel" in what:
            fan = np.prod(shape[:2]) if "depthwise" in what else np.prod(shape[:-1])
            value = draw.normal(0, np.sqrt(2 / fan), shape)
        elif what in ("gamma", "moving_variance"):
            value = draw.uniform(0.5, 1.5, shape)
        else:
            value = draw.normal(0, 0.1, shape)
        variable.assign(value)


def carried(shapes, peer, name):
    """Fills our variables with the peer's."""
    def take(path, leaf):
        value = np.asarray(keras_weight(peer, name, path))
        return jnp.asarray(value.reshape(leaf.shape))  # depthwise: (h, w, C, 1)
    return jax.tree_util.tree_map_with_path(take, shapes)


def three_steps_keras(peer, batches, rate):
    @quick_jit
    def step(trainable, rest, images, labels):
        def loss(trainable):
            logits, after = peer.stateless_call(trainable, rest, images, training=True)
            return mean_loss(logits, labels), after
        grads, after = jax.grad(loss, has_aux=True)(trainable)
        return [p - rate * g for p, g in zip(trainable, grads)], after

    trainable = [jnp.asarray(v.value) for v in peer.trainable_variables]
    rest = [jnp.asarray(v.value) for v in peer.non_trainable_variables]
    for images, labels in batches:
        trainable, rest = step(trainable, rest, images, labels)
    for variable, value in zip(peer.trainable_variables, trainable):
        variable.assign(value)
    for variable, value in zip(peer.non_trainable_variables, rest):
        variable.assign(value)


@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
@pytest.mark.parametrize("peer_name", CASES)
def test_logits_and_training_equal_keras(peer_name, odd):
    name, fields, arguments, bn, layer_name, sizes = CASES[peer_name]
    shape = (*sizes[odd], 3)
    keras.backend.clear_session()
    peer = getattr(keras.applications, peer_name)(
        weights=None, classes=CLASSES, input_shape=shape, classifier_activation=None,
        **arguments)
    randomise(peer)
    model = networks.create(name, CLASSES, Layers(bn=bn, dtype="float64", conv="lax",
                                                  pool="lax"), **fields)
    draw = np.random.default_rng(2)
    batches = [(jnp.asarray(draw.normal(0, 1, (4, *shape))),
                jnp.asarray(draw.integers(0, CLASSES, 4))) for _ in range(3)]
    images = batches[0][0]
    shapes = jax.eval_shape(
        lambda: model.init(jax.random.key(0), images, train=False))
    variables = carried(shapes, peer, layer_name)
    assert len(jax.tree.leaves(variables)) == len(peer.weights)

    ours = np.asarray(quick_jit(lambda v, x: model.apply(v, x, train=False))(
        variables, images))
    theirs = np.asarray(quick_jit(lambda x: peer(x, training=False))(images))
    assert ours.dtype == theirs.dtype == np.float64
    assert np.abs(ours - theirs).max() <= 1e-9 * theirs.std()
    if odd or peer_name in LOGITS_ALONE:
        return  # training is compared once, on the even size
    trained = sgd_steps(model, variables, batches, 1e-4)
    three_steps_keras(peer, batches, 1e-4)
    expected = carried(shapes, peer, layer_name)
    for (path, a), b, before in zip(
            jax.tree_util.tree_leaves_with_path(trained), jax.tree.leaves(expected),
            jax.tree.leaves(variables)):
        where = jax.tree_util.keystr(path)
        assert np.abs(a - b).max() <= 1e-9 * max(1, np.abs(b).max()), where
        # It did train. (A bias that batch norm takes away again has no gradient.)
        assert np.abs(b - before).max() > 0 or path[-1].key == "bias", where
