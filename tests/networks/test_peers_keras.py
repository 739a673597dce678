"""Networks equal keras.applications in float64, before and after three steps.

Keras runs on its JAX backend; logits, parameters and running statistics are compared.

Needs the `peers` extra; then: pytest -m slow tests/networks/test_peers_keras.py
"""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.keras_float64 import keras_float64, randomize_keras
from tests.support.peer_networks import KERAS
from tests.support.quick_compile import mean_loss, quick_jit, sgd_steps

from cnn_jax import networks
from cnn_jax.interop.mapping import mapping_of, variables_from
from cnn_jax.layers import Layers

os.environ.setdefault("KERAS_BACKEND", "jax")
keras = pytest.importorskip("keras", reason="needs the `peers` extra: keras")
pytestmark = pytest.mark.slow

CLASSES = 7


@pytest.fixture(autouse=True)
def float64():
    with keras_float64():
        yield


def carried(mapping, peer):
    """Converts the peer's variables to ours."""
    variables = variables_from(mapping, {
        f"{layer.name}/{weight.name}": np.asarray(weight)
        for layer in peer.layers for weight in layer.weights})
    return jax.tree.map(jnp.asarray, {
        kind: tree for kind, tree in variables.items() if tree})


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
@pytest.mark.parametrize("peer_name", KERAS)
def test_logits_and_training_equal_keras(peer_name, odd):
    case = KERAS[peer_name]
    shape = (*case.sizes[odd], 3)
    keras.backend.clear_session()
    peer = getattr(keras.applications, peer_name)(
        weights=None, classes=CLASSES, input_shape=shape, classifier_activation=None,
        **case.arguments)
    randomize_keras(peer)
    model = networks.create(case.name, CLASSES, Layers(
        bn=case.bn, dtype="float64", conv="lax", pool="lax"), **case.fields)
    draw = np.random.default_rng(2)
    batches = [(jnp.asarray(draw.normal(0, 1, (4, *shape))),
                jnp.asarray(draw.integers(0, CLASSES, 4))) for _ in range(3)]
    images = batches[0][0]
    mapping = mapping_of("keras", model, shape)
    variables = carried(mapping, peer)

    ours = np.asarray(quick_jit(lambda v, x: model.apply(v, x, train=False))(
        variables, images))
    theirs = np.asarray(quick_jit(lambda x: peer(x, training=False))(images))
    assert ours.dtype == theirs.dtype == np.float64
    assert np.abs(ours - theirs).max() <= 1e-9 * theirs.std()
    if odd or not case.trained:
        return  # training is compared once, on the even size
    trained = sgd_steps(model, variables, batches, 1e-4)
    three_steps_keras(peer, batches, 1e-4)
    expected = carried(mapping, peer)
    for (path, a), b, before in zip(
            jax.tree_util.tree_leaves_with_path(trained), jax.tree.leaves(expected),
            jax.tree.leaves(variables)):
        where = jax.tree_util.keystr(path)
        assert np.abs(a - b).max() <= 1e-9 * max(1, np.abs(b).max()), where
        # It did train. (A bias before batch norm has no gradient.)
        assert np.abs(b - before).max() > 0 or path[-1].key == "bias", where
