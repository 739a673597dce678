"""`Layers(remat=True)` recomputes blocks for the gradient; nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.networks.test_networks_training import SMALL, case, drawn, step_of
from tests.support.quick_compile import FUSED, QUICK

from cnn_jax import networks, ops
from cnn_jax.config import check
from cnn_jax.errors import InputError
from configs import default

pytestmark = pytest.mark.usefixtures("compiled_once")
BLOCKS = [name for name in SMALL if networks.has_blocks(name)]
FAST = ("resnet18", "densenet121")


def test_every_class_with_blocks_is_tested():
    assert {networks.NETWORKS[name].constructor for name in BLOCKS} == {
        *networks.WITH_BLOCKS}


@pytest.mark.parametrize("name", ["shapes_fcn", *(
    name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
    for name in BLOCKS)])
def test_only_training_is_rematerialized_and_parameters_keep_their_names(name):
    fields, shape = SMALL[name]
    model, shapes, images, _ = case(name, fields, shape, conv="lax", pool="lax",
                                    remat=True)
    plain = case(name, fields, shape, conv="lax", pool="lax")[1]
    assert shapes == plain

    def blocks(train):
        traced = jax.make_jaxpr(lambda variables, x: model.apply(
            variables, x, train=train, mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)}))(shapes, images)
        return [equation for equation in traced.eqns
                if "prevent_cse" in equation.params]  # of jax.checkpoint
    assert bool(blocks(True)) == networks.has_blocks(name)
    assert not blocks(False)


# DenseNet's dropout must draw the same numbers when it is recomputed.
@pytest.mark.parametrize("name, fields, shape", [
    pytest.param(*case, marks=pytest.mark.slow) for case in (
        ("densenet121", {"blocks": (1,), "growth": 2, "dropout": 0.5}, (9, 9, 3)),
        *((name, *SMALL[name]) for name in BLOCKS))])
def test_a_step_equals_that_without_remat(name, fields, shape):
    """Loss, new parameters and running statistics are compared."""
    results = []
    for remat in (False, True):
        model, shapes, images, labels = case(name, fields, shape, remat=remat)
        step = jax.jit(step_of(model), compiler_options=QUICK | FUSED)
        loss, _, after = step(drawn(shapes), images, labels)
        results.append((loss, after))
    (loss, plain), (other_loss, other) = results
    assert loss == other_loss
    jax.tree.map(lambda a, b: np.testing.assert_allclose(
        b, a, rtol=0, atol=1e-5 * max(1e-3, float(jnp.abs(a).max()))), plain, other)


def test_it_is_refused_for_a_network_without_blocks():
    config = default.get_config()
    config.model.remat = True
    with pytest.raises(InputError) as error:
        check(config)
    assert "model.remat" in str(error.value) and "lenet5" in str(error.value)
    config.model.name = "mobilenet_v2"
    check(config)


def test_the_compiler_option_makes_checkpoints_save_memory_on_this_machine():
    def block(w, x):
        for _ in range(6):
            x = jnp.tanh(x @ w)
        return x

    def working_bytes(remat):
        f = jax.checkpoint(block) if remat else block

        def loss(w, x):
            for _ in range(6):
                x = f(w, x)
            return x.sum()
        program = jax.jit(jax.grad(loss)).lower(
            jnp.ones((20, 20)), jnp.ones((500, 20))).compile(
                compiler_options=ops.compiler_options(remat))
        return program.memory_analysis().temp_size_in_bytes
    assert working_bytes(True) < 0.5 * working_bytes(False)
