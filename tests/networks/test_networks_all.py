"""Every registered network makes a training step and an evaluation in both dtypes.

Each network also has the same parameters with every convolution algorithm.

Compiling takes nearly all of the time. Networks of repeated blocks run eagerly: their
few operations, which the family shares, compile in seconds. One program of a thousand
layers would take many minutes.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import quick_jit

from cnn_jax import networks, ops
from cnn_jax.data.scaling import Scaling
from cnn_jax.layers import Layers
from cnn_jax.networks import CifarResNet, DenseNet, PreActResNet, ResNet
from cnn_jax.networks.inputs import smallest_size
from cnn_jax.training.recipe import abstract_state, create_recipe
from cnn_jax.training.steps import (Batch, Recipe, eval_step, predict_logits,
                                    train_step)
from cnn_jax.data.info import DataInfo
from configs import default

pytestmark = pytest.mark.slow

EXAMPLES, CLASSES = 4, 3
EAGER = (ResNet, PreActResNet, CifarResNet, DenseNet)
PER_PIXEL = {"shapes_fcn"}  # a label for every pixel


def recipe_of(name: str, shape: tuple[int, int, int], dtype: str) -> Recipe:
    """Makes the recipe of a run with the config `model.name=NAME`."""
    config = default.get_config()
    config.dtype, config.batch_size = dtype, EXAMPLES
    config.model.name, config.model.conv, config.model.pool = name, "lax", "lax"
    config.optimizer.name, config.optimizer.learning_rate = "sgd", 0.5
    parts = {"train": EXAMPLES, "validation": EXAMPLES, "test": EXAMPLES}
    return create_recipe(config, DataInfo("drawn", "here", shape, tuple("abc"),
                                          Scaling(127.5, 1 / 127.5), parts, ""))


def smallest_shape(name: str) -> tuple[int, int, int]:
    """Returns (H, W, C) of the smallest images that the network takes."""
    row = networks.NETWORKS[name]
    if name in PER_PIXEL:
        return 4, 4, row.input_shape[2]
    fields = {}
    if isinstance(row.fields.get("blocks"), tuple):  # repetitions keep the size
        fields["blocks"] = (1,) * len(row.fields["blocks"])
    model = networks.create(name, CLASSES, **fields)
    side = smallest_size(model, row.input_shape[2])
    return side, side, row.input_shape[2]


def drawn(shapes):
    """Draws parameters and statistics by NumPy: JAX would compile for each shape.

    Gammas are small so that a thousand residual blocks do not overflow in evaluation,
    where the running statistics do not yet fit.
    """
    draw = np.random.default_rng(0)

    def value(path, leaf):
        name, shape = path[-1].key, leaf.shape
        if name in ("scale", "var"):
            return np.full(shape, 0.3 if name == "scale" else 1, np.float32)
        spread = np.sqrt(1 / max(1, np.prod(shape[:-1])))
        return np.float32(draw.normal(0, spread, shape))
    return jax.tree_util.tree_map_with_path(value, shapes)


def described(tree):
    """Replaces every array of a tree by (shape, dtype)."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def both_steps(state, batch, recipe):
    """Trains a step and evaluates: (state after it, metrics, metrics, logits).

    It evaluates the state before the step: on one pixel behind fifty batch norms a
    gradient may be 1e5, and the state after it overflows.
    """
    after, metrics = train_step(state, batch, recipe)
    return (after, metrics, eval_step(state, batch, recipe),
            predict_logits(state, batch.image, recipe))


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_a_training_step_and_an_evaluation_in_both_dtypes(name):
    shape = smallest_shape(name)
    draw = np.random.default_rng(1)
    per_label = (EXAMPLES, *shape[:2]) if name in PER_PIXEL else (EXAMPLES,)
    batch = Batch(jnp.asarray(draw.integers(0, 256, (EXAMPLES, *shape)), jnp.uint8),
                  jnp.asarray(draw.integers(0, CLASSES, per_label)),
                  jnp.ones(EXAMPLES), jnp.arange(EXAMPLES))
    trees = []
    for dtype in ("float32", "bfloat16"):
        recipe = recipe_of(name, shape, dtype)
        state = abstract_state(recipe, shape)
        params = drawn(state.params)
        state = state.replace(
            step=jnp.zeros((), jnp.int32), params=params,
            batch_stats=drawn(state.batch_stats),
            opt_state=recipe.optimizer.init(params))
        steps = functools.partial(both_steps, recipe=recipe)
        if networks.NETWORKS[name].constructor not in EAGER:
            steps = quick_jit(steps)
        after, metrics, evaluated, logits = steps(state, batch)
        assert np.isfinite(metrics["loss"]) and metrics["count"] == EXAMPLES
        assert described(after) == described(state)
        for path, leaf in jax.tree_util.tree_leaves_with_path(after.params):
            assert leaf.dtype == jnp.float32, path
            assert np.isfinite(leaf).all(), path
        # A bias may stay the same: batch norm cancels it, and so its gradient.
        unchanged = [
            jax.tree_util.keystr(path) for (path, old), new in zip(
                jax.tree_util.tree_leaves_with_path(state.params),
                jax.tree.leaves(after.params))
            if path[-1].key != "bias" and (old == new).all()]
        assert not unchanged
        assert np.isfinite(evaluated["loss"]) and evaluated["count"] == EXAMPLES
        assert logits.shape == (*per_label, CLASSES) and logits.dtype == dtype
        assert np.isfinite(np.float32(logits)).all()
        trees.append(described(after))
    assert trees[0] == trees[1]


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_implementation_has_the_same_parameters_or_refuses_in_a_line(name):
    shape = (1, *smallest_shape(name))

    def tree(conv):
        model = networks.create(name, CLASSES, Layers(conv=conv, pool="lax"))
        return jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))
    expected = tree("lax")
    for conv in ops.ALGORITHMS:
        try:
            assert tree(conv) == expected, conv
        except ValueError as error:
            # Only winograd does not support every convolution.
            assert conv == "winograd", error
            assert "takes 3 x 3 kernels with stride 1" in str(error)
            assert "\n" not in str(error)
