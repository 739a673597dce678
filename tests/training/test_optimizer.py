"""Optimizers and schedules equal values worked by hand, and each optimizer learns."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cnn_jax import optimizers as optimizer
from configs import default


def config(**changes):
    """Makes the default config with dotted fields changed and ten epochs."""
    out = default.get_config()
    out.update_from_flattened_dict(
        {k.replace("__", "."): v for k, v in changes.items()})
    return out


def rates(steps_per_epoch: int, steps, **changes) -> list[float]:
    rate = optimizer.schedule(config(**changes), steps_per_epoch)
    return jax.jit(jax.vmap(rate))(np.asarray(steps)).tolist()


def test_constant_and_step():
    assert rates(5, [0, 49], optimizer__learning_rate=0.5) == [0.5, 0.5]
    got = rates(5, [0, 9, 10, 19, 20, 49], schedule__name="step",
                schedule__boundaries_epochs=(2.0, 4.0), schedule__factor=0.1,
                optimizer__learning_rate=1.0)
    np.testing.assert_allclose(got, [1, 1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)


def test_step_boundaries_count_from_the_start_of_the_run():
    got = rates(5, [0, 4, 5, 9, 10], schedule__name="step", schedule__warmup_epochs=1.0,
                schedule__boundaries_epochs=(2.0,), optimizer__learning_rate=6.0)
    np.testing.assert_allclose(got, [1, 5, 6, 6, 0.6], rtol=1e-6)


def test_cosine_is_half_a_cosine_to_the_final_factor():
    steps = np.array([0, 10, 25, 40, 50])
    got = rates(5, steps, schedule__name="cosine", schedule__final_factor=0.2,
                optimizer__learning_rate=2.0)
    want = 2 * (0.2 + 0.8 * (1 + np.cos(np.pi * steps / 50)) / 2)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_linear_is_a_straight_line_to_the_final_factor_after_the_warmup():
    got = rates(5, [4, 10, 30, 50], schedule__name="linear", schedule__final_factor=0.2,
                schedule__warmup_epochs=2.0, optimizer__learning_rate=2.2)
    np.testing.assert_allclose(got, [1.0, 2.2, 1.32, 0.44], rtol=1e-5)


def test_the_rate_is_scaled_with_the_images_of_an_update():
    scaled = {"optimizer__learning_rate": 0.1, "optimizer__base_batch_size": 256}
    assert rates(5, [0], batch_size=1024, **scaled) == [np.float32(0.4)]
    assert rates(5, [0], batch_size=64, **scaled) == [np.float32(0.025)]
    assert rates(5, [0], batch_size=64, optimizer__accumulate_steps=8,
                 **scaled) == [np.float32(0.2)]


def test_onecycle_rises_to_the_peak_and_falls():
    got = rates(10, range(100), schedule__name="onecycle", schedule__warmup_epochs=2.0,
                optimizer__learning_rate=1.0)
    assert np.argmax(got) == 20
    np.testing.assert_allclose([got[0], got[20]], [1 / 25, 1], rtol=1e-5)
    assert got[99] < 0.001


def test_inverse_is_keras_decay():
    got = rates(5, [0, 1, 40], schedule__name="inverse", schedule__decay=0.025,
                optimizer__learning_rate=0.2)
    np.testing.assert_allclose(got, [0.2, 0.2 / 1.025, 0.1], rtol=1e-6)


def test_accumulated_batches_make_one_update_of_the_schedule():
    """An epoch of 10 batches has 5 updates of two batches: 1.0 from update 10 on."""
    got = rates(10, [9, 10], schedule__name="step", optimizer__accumulate_steps=2,
                schedule__boundaries_epochs=(2.0,), optimizer__learning_rate=1.0)
    np.testing.assert_allclose(got, [1, 0.1], rtol=1e-6)


PARAMS = {"conv": {"kernel": jnp.linspace(-1, 1, 36).reshape(3, 3, 2, 2),
                   "bias": jnp.array([0.5, -0.5])},
          "dense": {"kernel": jnp.linspace(-1, 2, 6).reshape(3, 2)}}


def loss(params):
    return sum((leaf ** 2).sum() for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("name", optimizer.OPTIMIZERS)
def test_each_optimizer_minimizes_a_quadratic(name):
    settings = config(optimizer__name=name, optimizer__learning_rate=0.02)
    transform = optimizer.create(settings, lambda step: 0.02)
    params, state = PARAMS, transform.init(PARAMS)

    @jax.jit
    def step(params, state):
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(150):
        params, state = step(params, state)
    assert loss(params) < 0.5 * loss(PARAMS)


def update(params=PARAMS, grads=None, **changes):
    """Computes the first update of an optimizer with learning rate 1."""
    transform = optimizer.create(config(**changes), lambda step: 1.0)
    grads = jax.grad(loss)(params) if grads is None else grads
    return transform.update(grads, transform.init(params), params)[0]


def test_sgd_momentum_and_nesterov_by_hand():
    grads = jax.grad(loss)(PARAMS)
    for name, factor in (("sgd", 1), ("momentum", 1), ("nesterov", 1.9)):
        for got, grad in zip(jax.tree.leaves(update(optimizer__name=name)),
                             jax.tree.leaves(grads)):
            np.testing.assert_allclose(got, -factor * grad, rtol=1e-6)


def test_weight_decay_is_l2_on_kernels_only():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    got = update(grads=zero, optimizer__name="sgd", optimizer__weight_decay=0.1)
    np.testing.assert_allclose(got["dense"]["kernel"],
                               -0.1 * PARAMS["dense"]["kernel"], rtol=1e-6)
    assert not got["conv"]["bias"].any()


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_weight_decay_of_one_part_leaves_the_others(name):
    """Keras' l2(0.01) on the last layer adds 0.02 * kernel to its gradient."""
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    got = update(grads=zero, optimizer__name=name, optimizer__weight_decay=0.02,
                 optimizer__decay_parts="dense")
    np.testing.assert_allclose(got["dense"]["kernel"],
                               -0.02 * PARAMS["dense"]["kernel"], rtol=1e-6)
    assert not got["conv"]["kernel"].any() and not got["conv"]["bias"].any()


def test_decay_of_an_unknown_part_names_the_known_ones():
    with pytest.raises(ValueError, match="'haed'.*conv, dense"):
        update(optimizer__name="sgd", optimizer__weight_decay=0.1,
               optimizer__decay_parts="haed")


def test_adamw_decay_is_decoupled_from_the_gradient():
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    got = update(grads=zero, optimizer__name="adamw", optimizer__weight_decay=0.1)
    np.testing.assert_allclose(got["conv"]["kernel"], -0.1 * PARAMS["conv"]["kernel"],
                               rtol=1e-6)
    assert not got["conv"]["bias"].any()


def test_muon_orthogonalizes_convolution_kernels():
    """The update of HWIO as a (H*W*I) x O matrix has nearly equal singular values."""
    key = jax.random.key(0)
    grads = jax.tree.map(lambda leaf: jax.random.normal(key, leaf.shape), PARAMS)
    matrix = update(grads=grads, optimizer__name="muon")["conv"]["kernel"]
    values = np.linalg.svd(np.asarray(matrix).reshape(18, 2), compute_uv=False)
    raw = np.linalg.svd(np.asarray(grads["conv"]["kernel"]).reshape(18, 2),
                        compute_uv=False)
    assert values[0] / values[-1] < 1.5
    assert raw[0] / raw[-1] > values[0] / values[-1]


def test_clipping_bounds_the_global_norm():
    got = update(optimizer__name="sgd", optimizer__clip_norm=0.5)
    np.testing.assert_allclose(optax.tree.norm(got), 0.5, rtol=1e-5)


def test_accumulation_equals_the_mean_gradient():
    transform = optimizer.create(
        config(optimizer__name="sgd", optimizer__accumulate_steps=3), lambda step: 1.0)
    state, total = transform.init(PARAMS), None
    for k in range(3):
        grads = jax.tree.map(lambda leaf: (k + 1.0) * jnp.ones_like(leaf), PARAMS)
        updates, state = transform.update(grads, state, PARAMS)
        total = updates
        assert k == 2 or not any(leaf.any() for leaf in jax.tree.leaves(updates))
    for leaf in jax.tree.leaves(total):
        np.testing.assert_allclose(leaf, -2.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_each_part_before_the_head_has_a_lower_rate(name):
    params = {"head": {"kernel": jnp.full((2, 2), 2.0)},
              "stage1_conv1": {"kernel": jnp.full((2, 2), 2.0)},
              "stage1_conv2": {"kernel": jnp.full((2, 2), 2.0)},
              "stem_conv": {"kernel": jnp.full((2, 2), 2.0)}}
    settings = config(optimizer__name=name, optimizer__depth_decay=0.5,
                      optimizer__weight_decay=0.1)
    made = optimizer.create(settings, optax.constant_schedule(0.1),
                            ["stem", "stage1", "head"])
    updates, _ = made.update(params, made.init(params), params)
    whole = -0.1 * {"sgd": 2 + 0.1 * 2, "adamw": 1 + 0.1 * 2}[name]
    for layer, factor in (("head", 1), ("stage1_conv1", 0.5), ("stage1_conv2", 0.5),
                          ("stem_conv", 0.25)):
        np.testing.assert_allclose(updates[layer]["kernel"], whole * factor, rtol=1e-5)
