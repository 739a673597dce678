"""Every registered network makes a training step and an evaluation in both dtypes.

Each network also has the same parameters with every convolution algorithm.

Compiling takes nearly all of the time.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import quick_jit

from cnn_jax import networks, ops
from cnn_jax.layers import Layers
from cnn_jax.training.steps import eval_step, predict_logits, train_step
from experiments.device.networks import (CLASSES, EXAMPLES, drawn_batch, drawn_state,
                                         recipe_of, smallest_shape)

pytestmark = pytest.mark.slow

# A program of a thousand layers would compile for more than ten minutes. Operation by
# operation, they share the programs of a few shapes.
EAGER = ("cifar_resnet1202", "cifar_resnet1001_preact")

# XLA compiles a step of these for more than ten minutes, and each of their layers has
# another shape. They are only traced; `cifar_densenet_bc100_k12` is the same code.
TRACED = ("cifar_densenet_bc250_k24", "cifar_densenet_bc190_k40")


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
    batch = drawn_batch(name, shape)
    per_label = batch.label.shape
    trees = []
    for dtype in ("float32", "bfloat16"):
        recipe = recipe_of(name, shape, dtype)
        state = drawn_state(recipe, shape)
        steps = functools.partial(both_steps, recipe=recipe)
        if name in TRACED:
            after, _, _, logits = jax.eval_shape(steps, state, batch)
            assert described(after) == described(state)
            assert described(logits) == ((*per_label, CLASSES), dtype)
            trees.append(described(after))
            continue
        if name not in EAGER:
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
            assert "3 x 3" in str(error) and "\n" not in str(error)
