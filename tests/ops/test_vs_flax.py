"""Every workload of the benchmark trains like Flax's own layers, in float64.

    pytest -m slow tests/ops/test_vs_flax.py     20 steps each, ten minutes
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import networks, ops
from cnn_jax.layers import Layers
from experiments.arms.plain_flax import PlainFlax
from tests.support.gradcheck import FAST_COMPILE, normal

# (network, batch, image) of the benchmark, with fewer and smaller images. VGG's last
# stages see 2 x 2 pixels, fewer than the kernel has.
WORKLOADS = {
    "lenet5": (4, (28, 28, 1)),
    "selu_cnn": (2, (28, 28, 1)),
    "separable_cnn": (2, (28, 28, 1)),
    "tf2_resnet18": (4, (16, 16, 3)),
    "monkey_cnn": (2, (32, 32, 3)),
    "tf2_vgg16": (4, (32, 32, 3)),
    "resnet50": (4, (64, 64, 3)),
}
# With 50 layers of batch norm over four images, rounding grows tenfold a step: the
# losses of ResNet-50 agree to 1e-12 for two steps, to 1e-7 for six.
STEPS = dict.fromkeys(WORKLOADS, 20) | {"resnet50": 2}


def losses(name: str, layers: Layers, options: dict) -> list[float]:
    batch, image = WORKLOADS[name]
    net = networks.create(name, 5, layers)
    images = jnp.asarray(normal(0, batch, *image))
    labels = jnp.arange(batch) % 5
    variables = jax.jit(functools.partial(net.init, train=False))(
        jax.random.key(0), images)
    variables = jax.tree.map(lambda v: v.astype(jnp.float64), variables)
    optimizer = optax.sgd(1e-3, momentum=.9)
    state = optimizer.init(variables["params"])

    @functools.partial(jax.jit, compiler_options=options)
    def step(variables, state, key):
        def loss(params):
            logits, updates = net.apply(
                variables | {"params": params}, images, train=True,
                rngs={"dropout": key}, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels).mean(), updates
        (value, updates), grads = jax.value_and_grad(loss, has_aux=True)(
            variables["params"])
        changes, state = optimizer.update(grads, state)
        params = optax.apply_updates(variables["params"], changes)
        return value, variables | {"params": params} | updates, state

    losses = []
    for i in range(STEPS[name]):
        value, variables, state = step(variables, state, jax.random.key(i))
        losses.append(float(value))
    return losses


def check(name: str, ours_options: dict, plain_options: dict) -> None:
    with jax.enable_x64(True):
        ours = losses(name, Layers(dtype="float64"), ours_options)
        plain = losses(name, PlainFlax(dtype="float64"), plain_options)
    assert abs(plain[-1] - plain[0]) > 1e-3
    np.testing.assert_allclose(ours, plain, rtol=1e-12)


@pytest.mark.slow
def test_lenet_trains_as_on_flax():
    check("lenet5", FAST_COMPILE, FAST_COMPILE)


@pytest.mark.slow
@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_train_as_on_flax(name):
    check(name, ops.compiler_options(), {})
