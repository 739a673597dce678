"""The speed run: its network, its draws, its optimizer, and a whole small run."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.data.scaling import Scaling
from cnn_jax.errors import InputError
from configs import speedrun as config_file
from experiments import speedrun
from experiments.speed import network, training
from experiments.speed.training import Data

SIDE, CLASSES = 16, 3
SCALING = Scaling((120.0,) * 3, (1 / 60,) * 3)


def small(**changes):
    """Makes a recipe for few small images."""
    config = config_file.get_config()
    config.update({"widths": (8, 16), "epochs": 3.0, "batch_size": 16,
                   "sizes": ((0.5, 8), (1.0, SIDE))} | changes)
    return speedrun.recipes(config, [])["full"]


def make_data(count, seed=0):
    """Draws images of random noise around a colour for each class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, count)
    images = rng.integers(0, 120, (count, SIDE, SIDE, 3))
    images[np.arange(count), :, :, labels] += 100
    return Data(jnp.asarray(images, jnp.uint8), jnp.asarray(labels, jnp.int32))


def initial(*widths):
    """Draws the parameters of a network; one program compiles fast."""
    return jax.jit(lambda: network.init(jax.random.key(0), 3, CLASSES, widths))()


def test_the_docstring_names_every_field():
    config = config_file.get_config()
    for name in config:
        assert name == "data" or name in config_file.__doc__


def test_an_unknown_variant_is_refused():
    with pytest.raises(ValueError, match="mnist"):
        config_file.get_config("cifar")


def test_the_first_layer_whitens_patches():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(20, 9, 9, 3)) @ rng.normal(size=(3, 3)) * 9,
                         jnp.float32)
    kernel = network.whitening_kernel(images)
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_array_equal(kernel[..., :12], -kernel[..., 12:])
    outputs = jax.lax.conv_general_dilated(
        images, kernel[..., :12], (1, 1), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC")).reshape(-1, 12)
    np.testing.assert_allclose(outputs.T @ outputs / len(outputs), np.eye(12),
                               atol=1e-3)


@pytest.mark.parametrize("depth, width", [(4, 6), (6, 4)])
def test_the_first_filters_copy_their_input(depth, width):
    kernel = network._identity_first(jax.random.key(0), depth, width)
    copies = min(depth, width)
    images = jax.random.normal(jax.random.key(1), (2, 5, 5, depth))
    outputs = jax.lax.conv_general_dilated(
        images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(outputs[..., :copies], images[..., :copies], rtol=1e-6)
    assert (width == copies) or float(jnp.abs(kernel[..., copies:]).min()) > 0


def test_alternating_flips_mirror_every_image_in_every_second_epoch():
    draws = [training.draw(small(), 100, 3, epoch).mirrored for epoch in range(3)]
    assert 30 < int(draws[0].sum()) < 70
    np.testing.assert_array_equal(draws[0], ~draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


def test_an_epoch_draws_each_image_at_most_once():
    rows = np.asarray(training.draw(small(), 100, 3, 0).rows)
    assert rows.shape == (6, 16) and len(np.unique(rows)) == 96
    assert not np.array_equal(rows, training.draw(small(), 100, 3, 1).rows)
    np.testing.assert_array_equal(rows, training.draw(small(), 100, 3, 0).rows)


def test_crops_and_flips_are_those_that_were_drawn():
    recipe, data = small(), make_data(20)
    draws, padded = jax.tree.map(np.asarray, (training.draw(recipe, 20, 1, 0),
                                              training.pad(data.images, 2)))
    rows, batch_of = np.arange(7, 11), jax.jit(training.batch_of,
                                               static_argnums=(3, 4, 5))
    got = np.asarray(batch_of(padded, rows, draws, SCALING, SIDE, 2))
    for image, row in zip(got, rows):
        top, left = draws.corners[row]
        want = padded[row, top:top + SIDE, left:left + SIDE]
        want = want[:, ::-1] if draws.mirrored[row] else want
        np.testing.assert_allclose(image, (want - 120.0) / 60, rtol=1e-6)
    shrunk = batch_of(padded, rows, draws, SCALING, 8, 2)
    assert shrunk.shape == (4, 8, 8, 3)
    np.testing.assert_allclose(shrunk.mean(), got.mean(), atol=0.05)


def test_calls_make_every_step_once():
    recipe = small(epochs=2.5)
    calls = speedrun.calls(recipe, 100, most=4)
    assert training.steps_of(recipe, 100) == 15
    assert sum(count for _, _, count, _ in calls) == 15
    steps = [(epoch, first + i, side) for epoch, first, count, side in calls
             for i in range(count)]
    assert [(epoch, step) for epoch, step, _ in steps] == [
        divmod(step, 6) for step in range(15)]
    assert [side for _, _, side in steps] == [8] * 8 + [SIDE] * 7
    assert max(count for _, _, count, _ in calls) == 4


def test_the_rate_is_a_triangle():
    schedule = training.triangle(small(triangle=(0.2, 0.25, 0.1)), 100)
    np.testing.assert_allclose([schedule(step) for step in (0, 25, 100)],
                               [0.2, 1.0, 0.1], rtol=1e-6)


def test_nesterov_updates_as_pytorch_does():
    """p -= rate * (g + m b), b = m b + g, g = gradient + decay * p; by hand."""
    recipe = small(optimizer="nesterov", triangle=(1.0, 0.5, 1.0), rate=2.0,
                   momentum=0.5, bias_factor=4.0, weight_decay=0.1, batch_size=1024)
    params = initial(8)[0]
    optimizer = training.make_optimizer(recipe, 10, 5)
    update = jax.jit(optimizer.update)
    state, grads = optimizer.init(params), jax.tree.map(jnp.ones_like, params)
    want = {"kernel": np.asarray(params["block0_0"]["kernel"], np.float64), "bias": 0.0}
    buffer = dict.fromkeys(want, 0.0)
    for _ in range(3):
        updates, state = update(grads, state, params)
        params = jax.tree.map(np.add, params, updates)
        for name, factor in (("kernel", 1.0), ("bias", 4.0)):
            gradient = 1 + 0.1 / (2.0 * factor) * want[name]
            buffer[name] = 0.5 * buffer[name] + gradient
            want[name] = want[name] - 2.0 / 3 * factor * (
                gradient + 0.5 * buffer[name])
    for name in want:
        np.testing.assert_allclose(params["block0_0"][name], want[name] * np.ones_like(
            params["block0_0"][name]), rtol=1e-5)
    assert not np.asarray(updates["whiten"]["kernel"]).any()


def test_muon_steps_are_nearly_orthogonal():
    recipe = small(triangle=(1.0, 0.5, 1.0), muon_rate=0.5)
    params = initial(8, 16)[0]
    optimizer = training.make_optimizer(recipe, 10, 5)
    grads = jax.tree.map(lambda x: np.float32(
        np.random.default_rng(x.size).normal(size=x.shape)), params)
    updates, _ = jax.jit(lambda grads, params: optimizer.update(
        grads, optimizer.init(params), params))(grads, params)
    step = np.asarray(updates["block1_0"]["kernel"]).reshape(-1, 16) / -0.5
    values = np.linalg.svd(step, compute_uv=False)
    assert 0.6 < values.min() and values.max() < 1.3


def test_normalized_kernels_have_the_norm_that_muon_expects():
    params = jax.jit(training.normalize_kernels)(initial(8, 16)[0])
    for name, width in (("block0_0", 8), ("block1_1", 16)):
        assert jnp.linalg.norm(params[name]["kernel"]) == pytest.approx(width**0.5)


def test_lookahead_ends_on_the_average():
    fast, slow = jnp.float32(2.0), jnp.float32(1.0)
    assert training.look_ahead(fast, slow, jnp.int32(4), 20) == (2.0, 1.0)
    weight = 1 - 0.95**5 / 8
    expected = 1 + weight
    np.testing.assert_allclose(training.look_ahead(fast, slow, jnp.int32(10), 20),
                               [expected, expected], rtol=1e-6)
    assert training.look_ahead(fast, slow, jnp.int32(20), 20) == (1.0, 1.0)


def test_views_are_averaged():
    params, stats = initial(8, 8)
    random = np.random.default_rng(1)
    params["whiten"]["kernel"] = np.float32(random.normal(size=(2, 2, 3, 24)))
    images = np.float32(random.normal(size=(2, SIDE, SIDE, 3)))
    logits = functools.partial(jax.jit(network.predict, static_argnums=(3, 4)), params,
                               stats)
    one = logits(images, False, False)
    np.testing.assert_allclose(logits(images, True, False),
                               (one + logits(images[:, :, ::-1], False, False)) / 2,
                               rtol=1e-4, atol=1e-6)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    moved = [logits(padded[:, i:i + SIDE, i:i + SIDE], False, False)
             for i in (0, 2)]
    np.testing.assert_allclose(logits(images, False, True),
                               one / 2 + (moved[0] + moved[1]) / 4, rtol=1e-4,
                               atol=1e-6)


@pytest.mark.parametrize("optimizer, rate", [
    ("muon", 2.0), pytest.param("nesterov", 40.0, marks=pytest.mark.slow)])
def test_a_run_learns_colours_and_repeats(optimizer, rate, monkeypatch):
    monkeypatch.setattr(speedrun, "TEST_BATCH", 16)
    recipe = small(optimizer=optimizer, rate=rate)
    sets = speedrun.Sets(make_data(96), make_data(32, 1), SCALING, CLASSES, "colours")
    programs = speedrun.compile_programs(recipe, sets, most=2)
    first, again, other = (speedrun.run(recipe, sets, programs, seed, most=2)
                           for seed in (0, 0, 1))
    assert first["accuracy"] > 0.9
    assert first["loss"] == again["loss"] != other["loss"]
    arm = {"runs": [first, other], "compile_seconds": 1.0}
    text = speedrun.table(json.loads(json.dumps(
        {"machine": "m", "data": "colours", "arms": {"full": arm}})))
    mean = (first["accuracy"] + other["accuracy"]) / 2
    assert "full" in text and f"{mean:.4f}" in text


@pytest.mark.parametrize("argv, fact", [
    (["--without", "magic"], "muon"), (["--set", "epoch=3"], "epochs"),
    (["--set", "epochs=long"], "8.0"), (["--data=nowhere"], "nowhere")])
def test_wrong_flags_are_refused(argv, fact, tmp_path):
    with pytest.raises(InputError, match=fact):
        speedrun.main([*argv, f"--out={tmp_path}"])
    assert not [*tmp_path.iterdir()]


def test_fields_are_set_by_their_texts():
    config = config_file.get_config()
    speedrun.change(config, ["epochs=4", "flip=none", "sizes=((0.5, 24), (1.0, 32))"])
    assert (config.epochs, config.flip) == (4, "none")
    assert speedrun.recipes(config, [])["full"].sizes == ((0.5, 24), (1.0, 32))


def test_results_of_the_same_recipe_are_kept():
    recipe = small()
    arm = speedrun.resumed(None, recipe) | {"runs": [{"seed": 0}]}
    assert speedrun.resumed(json.loads(json.dumps(arm)), recipe) == arm
    assert speedrun.resumed(arm, recipe._replace(epochs=4.0))["runs"] == []


def test_leaving_out_changes_the_recipe():
    config = config_file.get_config()
    made = speedrun.recipes(config, ["all"])
    assert {f"without {name}" for name in speedrun.WITHOUT} >= set(made) - {"full"}
    assert len(set(made.values())) == len(made)
