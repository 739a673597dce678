"""A whole network on oneDNN and on XLA: where their gradients differ, and why.

Both round in their own order, by 1e-6 of a gradient. A difference of 1e-5 and more is a
decision that rounding turned: which of four pixels is the maximum of a pool, or on
which side of zero the input of SELU lies, whose slope jumps there from 1.76 to 1.05.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import layers, networks
from cnn_jax.native import library

pytestmark = [pytest.mark.slow, pytest.mark.skipif(
    library.load() is None, reason=library.describe())]

SCALE, ALPHA = 1.0507009873554805, 1.6732632423543772  # of SELU


def pool(x, chosen):
    """2 x 2 max pool -> (y, the place of each maximum); places given are obeyed."""
    n, h, w, c = x.shape
    x = x[:, :h // 2 * 2, :w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    windows = x.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)
    places = windows.argmax(-1)
    used = places if chosen is None else chosen
    return (windows * jax.nn.one_hot(used, 4)).sum(-1), places


def selu(x, chosen):
    positive = x > 0
    used = positive if chosen is None else chosen
    negative = ALPHA * jnp.expm1(jnp.where(used, 0., x))
    return SCALE * jnp.where(used, x, negative), positive


def gradients(conv, images, labels, params, decisions):
    """(gradients, decisions made) of the SELU network; `decisions` given are obeyed."""
    net = networks.create("selu_cnn", 10, layers.Layers(conv=conv))

    @jax.jit
    def run(params, decisions):
        def loss(params):
            made = []

            def decide(call, args, kwargs, context):
                kinds = {layers.MaxPool: pool, layers.Activation: selu}
                f = kinds.get(type(context.module))
                if f is None or context.method_name != "__call__":
                    return call(*args, **kwargs)
                y, decision = f(args[0], decisions and decisions[len(made)])
                made.append(decision)
                return y
            with nn.intercept_methods(decide):
                logits = net.apply({"params": params}, images, train=False)
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels).mean(), made
        return jax.grad(loss, has_aux=True)(params)
    return run(params, decisions)


def distance(ours, theirs) -> float:
    """|ours - theirs| / |theirs|, over all parameters."""
    ours, theirs = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
                    for tree in (ours, theirs))
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize("seed", [0, 6, 7, 10])
def test_gradients_differ_by_turned_decisions_alone(seed):
    """Seeds 6, 7 and 10 turn 1, 2 and 2 of them on a Zen 4, of 3.1 million."""
    rng = np.random.default_rng(seed)
    images = jnp.asarray(rng.normal(size=(32, 28, 28, 1)), jnp.float32)
    labels = jnp.asarray(rng.integers(0, 10, 32))
    params = networks.create("selu_cnn", 10).init(
        jax.random.key(seed), images[:1], train=False)["params"]
    args = images, labels, params
    by_lax, decisions = gradients("lax", *args, None)
    by_onednn, others = gradients("onednn", *args, None)
    turned = sum(int((a != b).sum()) for a, b in zip(decisions, others))
    assert len(decisions) == 10 and turned <= 20
    free = distance(by_onednn, by_lax)
    assert free <= 3e-6 or turned, free
    obeying, _ = gradients("onednn", *args, decisions)
    assert distance(obeying, by_lax) <= 3e-6
    print(f"seed {seed}: {turned} decisions turned, gradients differ by {free:.1e}")
