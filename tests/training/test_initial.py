"""Initial values that are drawn one by one equal those of one compiled program."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import networks
from cnn_jax.layers import INITIALIZERS
from cnn_jax.training import initial

KINDS = ("lecun", "glorot", "torch", "gaussian", "ai_edu_msra", "ai_edu_xavier")


def check(function, tolerance=0.0):
    """Compares both ways; tolerance 0 compares all bits."""
    program = initial.trace(function)
    actual, expected = program.run(), jax.jit(function)()
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(actual), jax.tree.leaves(expected)):
        assert isinstance(a, np.ndarray) and a.dtype == b.dtype
        np.testing.assert_allclose(a, b, rtol=tolerance)
    assert jax.tree.map(jnp.shape, actual) == jax.tree.map(
        lambda leaf: leaf.shape, program.shapes)
    return actual


def test_every_initializer_draws_the_same_bits():
    def draw():
        drawn = []
        for i, init in enumerate(INITIALIZERS[kind] for kind in KINDS):
            keys = jax.random.split(jax.random.fold_in(jax.random.key(3), i), 3)
            drawn += [init.kernel(keys[0], (3, 3, 5, 7)),
                      init.kernel(keys[1], (90, 40)),
                      init.bias(25)(keys[2], (16,)) if init.bias else jnp.zeros(16)]
        return drawn
    check(draw)


@pytest.mark.parametrize("name", ["lenet5", *(
    pytest.param(name, marks=pytest.mark.slow)
    for name in ("resnet50", "densenet121", "mobilenet_v1"))])
def test_networks_begin_with_the_same_bits(name):
    """Among them are draws of more values than LARGEST."""
    images = jnp.zeros((1, *networks.NETWORKS[name].input_shape))
    check(functools.partial(networks.create(name, 1000).init, jax.random.key(0), images,
                            train=False))


def test_any_other_computation():
    """They are draws of unknown kinds, computed from others, or used twice."""
    def draw():
        key, other = jax.random.split(jax.random.key(0))
        x = jax.random.normal(key, (4, 3))
        return (x, 2 * x, x.T @ x, jax.random.randint(other, (5,), 0, 9), jnp.arange(3),
                jax.random.normal(key, (6,), jnp.bfloat16), jnp.zeros((0, 2)),
                jax.random.normal(key, (0, 2)))
    check(draw, 1e-5)  # if a draw is used twice, XLA may round the two differently


def test_keys_whose_draws_depend_on_the_size():
    check(lambda: jax.random.uniform(jax.random.key(1, impl="rbg"), (5, 3)))


def test_large_draws_have_their_own_size(monkeypatch):
    monkeypatch.setattr(initial, "LARGEST", 100)
    assert [initial.rounded_up(size) for size in (0, 1, 100, 101)] == [
        1024, 1024, 1024, 101]
    check(lambda: jax.random.uniform(jax.random.key(1), (20, 6)))


def test_initialization_does_not_compute_the_network():
    net = networks.create("lenet5", 10)
    program = initial.trace(functools.partial(
        net.init, jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False))
    names = {equation.primitive.name for equation in initial.needed(program.code.jaxpr)}
    assert "dot_general" not in names and "random_fold_in" in names
