"""The pure steps: losses equal NumPy, settings have their effects, determinism."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tests.support.quick_compile import quick_jit

from cnn_jax import networks
from cnn_jax.data.augment import augment
from cnn_jax.data.scaling import SCALINGS, Scaling, scale
from cnn_jax.layers import Layers
from cnn_jax.rng import draw_key
from cnn_jax.tasks import TASKS
from cnn_jax.training import steps
from configs import default

pytestmark = pytest.mark.usefixtures("compiled_once")

RNG = np.random.default_rng(3)
SHAPE = (8, 8, 1)


def make_recipe(network: str = "baseline", dtype: str = "float32",
                **fields) -> steps.Recipe:
    model = networks.create(network, 3, Layers(conv="lax", dtype=dtype))
    return dataclasses.replace(steps.Recipe(
        task=TASKS["classify"], model=model,
        optimizer=optax.sgd(0.1), schedule=lambda step: 0.1,
        scale=functools.partial(scale, scaling=Scaling(0.0, 1 / 255)), seed=0,
        augment=functools.partial(augment, settings=default.get_config().augment)),
        **fields)


def batch(n: int = 6) -> steps.Batch:
    return steps.Batch(
        RNG.integers(0, 256, (n, *SHAPE), dtype=np.uint8),
        RNG.integers(0, 3, n).astype(np.int32), jnp.ones(n), jnp.arange(n))


@functools.cache
def compiled(step, recipe):
    """Compiles a step of a recipe once."""
    return quick_jit(functools.partial(step, recipe=recipe))


def train(state, data, recipe):
    return compiled(steps.train_step, recipe)(state, data)


def evaluate(state, data, recipe):
    return compiled(steps.eval_step, recipe)(state, data)


def init(recipe):
    return quick_jit(lambda: steps.create_state(recipe, SHAPE))()


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_a_step_descends_along_the_gradient():
    recipe, data = make_recipe("lenet5"), batch()
    state = init(recipe)

    def loss(params):
        logits = recipe.model.apply({"params": params}, recipe.scale(data.image),
                                  train=False)
        return recipe.task.losses(logits, data.label).mean()

    after, metrics = train(state, data, recipe)
    before, grads = quick_jit(jax.value_and_grad(loss))(state.params)
    for new, old, grad in zip(*map(jax.tree.leaves,
                                   (after.params, state.params, grads))):
        np.testing.assert_allclose(new, old - 0.1 * grad, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(metrics["loss"], 6 * before, rtol=1e-5)
    assert after.step == 1 and metrics["count"] == 6


def test_a_step_is_a_function_of_its_arguments_and_draws_anew_each_step():
    recipe, data = make_recipe(), batch()
    state = init(recipe)
    losses = [float(train(s, data, recipe)[1]["loss"]) for s in
              (state, state, state.replace(step=state.step + 1))]
    assert losses[0] == losses[1] != losses[2]


def test_training_uses_dropout_and_updates_statistics_evaluation_does_not():
    recipe, data = make_recipe(), batch()
    state = init(recipe)
    after, _ = train(state, data, recipe)
    changed = [(a != b).any() for a, b in zip(jax.tree.leaves(after.batch_stats),
                                              jax.tree.leaves(state.batch_stats))]
    assert changed and all(changed)
    first, second = (evaluate(state, data, recipe) for _ in range(2))
    assert first == second


def test_evaluation_does_not_count_masked_examples():
    recipe, data = make_recipe(), batch(6)
    state = init(recipe)
    mask = jnp.array([1., 1, 0, 1, 0, 0])
    masked = evaluate(state, data._replace(mask=mask), recipe)
    kept = steps.Batch(*(np.asarray(field)[[0, 1, 3]] for field in data))
    alone = evaluate(state, kept, recipe)
    assert masked["count"] == 3
    np.testing.assert_allclose(masked["loss"], alone["loss"], rtol=1e-5)
    assert masked["correct"] == alone["correct"]


def test_average_moves_with_the_updates_not_with_the_batches_between():
    twos = optax.MultiSteps(optax.sgd(0.1), 2).gradient_transformation()
    recipe = make_recipe("lenet5", ema_decay=0.5, accumulate_steps=2, optimizer=twos)
    first = init(recipe)
    second, _ = train(first, batch(), recipe)
    third, _ = train(second, batch(), recipe)
    for a, b, c, params in zip(*map(jax.tree.leaves, (
            first.ema_params, second.ema_params, third.ema_params, third.params))):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_allclose(c, (b + params) / 2, rtol=1e-5, atol=1e-7)


def test_an_even_average_begins_with_its_first_update():
    """Before it, the average is the newest value. Every second step is an update."""
    recipe = make_recipe("lenet5", swa_from=2, accumulate_steps=2)
    values, averages = [3.0, 5.0, 7.0, 12.0, 2.0], []
    state = steps.TrainState(jnp.int32(0), {"w": jnp.zeros(1)}, {}, {},
                             {"w": jnp.zeros(1)}, {})
    for step in range(10):
        params = {"w": jnp.full(1, values[step // 2])}
        average, _ = steps.moving_averages(state, params, {}, recipe)
        averages.append(float(average["w"][0]))
        state = state.replace(step=state.step + 1, ema_params=average)
    assert averages[::2] == [0.0, *averages[1:-1:2]]  # between updates nothing moves
    np.testing.assert_allclose(averages[1::2], [3, 5, 7, 9.5, 7], rtol=1e-6)


def test_answers_are_averaged_over_views():
    recipe = make_recipe("lenet5")
    data, state = batch(), init(recipe)
    both = dataclasses.replace(recipe, tta=("flip",))
    mirrored = data._replace(image=data.image[:, :, ::-1])
    losses = [float(evaluate(state, images, way)["loss"]) for images, way in (
        (data, both), (mirrored, both), (data, recipe))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] != pytest.approx(losses[2], rel=1e-4)


def test_evaluation_uses_averages_of_parameters_and_statistics():
    """The last statistics would not fit the activations of averaged parameters."""
    recipe, data = make_recipe(ema_decay=0.75), batch()
    state = init(recipe)
    after, _ = train(state, data, recipe)
    for name in ("params", "batch_stats"):
        for mean, new, old in zip(*map(jax.tree.leaves, (
                getattr(after, f"ema_{name}"), getattr(after, name),
                getattr(state, name)))):
            np.testing.assert_allclose(mean, 0.75 * old + 0.25 * new, rtol=1e-5,
                                       atol=1e-7)
    assert after.variables == {"params": after.ema_params,
                               "batch_stats": after.ema_batch_stats}
    logits = [quick_jit(lambda s: steps.predict_logits(s, data.image, recipe))(s)
              for s in (after, after.replace(ema_batch_stats={}))]
    assert np.abs(logits[0] - logits[1]).max() > 1e-3  # the last statistics differ
    # Without an average, the state has no additional leaf.
    plain = init(make_recipe())
    assert plain.ema_params == plain.ema_batch_stats == {}


def test_bfloat16_steps_keep_float32_parameters():
    data = batch()
    low, high = make_recipe(dtype="bfloat16"), make_recipe()
    state = init(low)
    after, metrics = train(state, data, low)
    _, exact = train(state, data, high)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(after.params)} == {"float32"}
    assert metrics["loss"] != exact["loss"]
    np.testing.assert_allclose(metrics["loss"], exact["loss"], rtol=3e-2)


def test_a_step_on_mixed_images_uses_both_labels():
    settings = default.get_config().augment
    settings.mixup = 1.0
    recipe = make_recipe("lenet5",
                         augment=functools.partial(augment, settings=settings))
    data = batch(6)
    state = init(recipe)
    _, metrics = train(state, data, recipe)
    key, _ = jax.random.split(draw_key(0, "step", 0))
    images, ((labels, share), (others, remainder)) = quick_jit(lambda: augment(
        key, data.image, data.label, data.position, settings))()
    logits = np.asarray(quick_jit(lambda: recipe.model.apply(
        {"params": state.params}, recipe.scale(images), train=False))())
    soft = (np.asarray(share)[:, None] * np.eye(3)[np.asarray(labels)]
            + np.asarray(remainder)[:, None] * np.eye(3)[np.asarray(others)])
    np.testing.assert_allclose(metrics["loss"], -(soft * log_softmax(logits)).sum(),
                               rtol=1e-4)
    correct = soft[np.arange(6), logits.argmax(-1)].sum()
    np.testing.assert_allclose(metrics["correct"], correct, rtol=1e-5)
    assert metrics["count"] == 6


@pytest.mark.parametrize("name", SCALINGS)
def test_scalings_by_their_definition(name):
    images = RNG.integers(10, 200, (4, 3, 3, 3), dtype=np.uint8)
    x = np.asarray(scale(images, SCALINGS[name](images)))
    raw = images.astype(np.float64)
    want = {"unit": raw / 255, "signed": raw / 127.5 - 1,
            "standard": (raw - raw.mean()) / raw.std(),
            "minmax": (raw - raw.min()) / (raw.max() - raw.min()),
            "imagenet": (raw / 255 - [[[[0.485, 0.456, 0.406]]]])
            / [[[[0.229, 0.224, 0.225]]]],
            "caffe": raw - [[[[123.68, 116.779, 103.939]]]]}[name]
    np.testing.assert_allclose(x, want, rtol=1e-5, atol=1e-6)


def test_scaling_of_a_blank_set_is_finite():
    blank = np.full((2, 3, 3, 3), 7, np.uint8)
    for measure in SCALINGS.values():
        assert np.isfinite(scale(blank, measure(blank))).all()
