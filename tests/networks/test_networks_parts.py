"""The parts of a network by name: intermediates, freezing, a new head."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import networks
from cnn_jax.networks.trace import before_head, features, parts_in_order
from cnn_jax.layers import Layers
from cnn_jax.networks.ai_edu import Grey

pytestmark = pytest.mark.usefixtures("compiled_once")


def made(name, classes=5, seed=0, **fields):
    """Makes a model, variables by NumPy (Flax would take seconds), and two images."""
    draw = np.random.default_rng(seed).uniform
    model = networks.create(name, classes, Layers(conv="lax"), **fields)
    images = np.float32(draw(0, 1, (2, 32, 32, 3)))
    shapes = networks.eval_shape(
        lambda: model.init(jax.random.key(0), images, train=False))
    variables = jax.tree.map(lambda a: np.float32(draw(0.1, 0.2, a.shape)), shapes)
    return model, variables, images


def test_features_by_layer_and_by_part():
    model, variables, images = made("cifar_resnet20")
    maps = jax.jit(lambda v, x: features(model, v, x))(variables, images)
    assert {name: x.shape for name, x in maps.items() if "_" not in name} == {
        "stem": (2, 32, 32, 16), "stage1": (2, 32, 32, 16), "stage2": (2, 16, 16, 32),
        "stage3": (2, 8, 8, 64), "pool": (2, 64), "head": (2, 5)}
    np.testing.assert_array_equal(maps["before_head"], maps["pool"])
    np.testing.assert_array_equal(maps["stage2"], maps["stage2_block3"])
    assert maps["stem_conv"].shape == (2, 32, 32, 16)
    inner = jax.eval_shape(lambda: features(model, variables, images, inner=True))
    assert {name for name in inner if "/" not in name} == set(maps)
    assert inner["stage2_block1/conv1"].shape == (2, 16, 16, 32)
    assert inner["stage2"].shape == inner["stage2_block3/act"].shape
    head = variables["params"]["head"]
    np.testing.assert_allclose(
        np.asarray(maps["before_head"]) @ head["kernel"] + head["bias"],
        maps["head"], rtol=1e-5)


def test_features_by_name_and_under_jit():
    model, variables, images = made("baseline")
    by_name = features("baseline", variables, images)
    jitted = jax.jit(lambda v, x: features(model, v, x))(variables, images)
    assert by_name.keys() == jitted.keys()
    np.testing.assert_allclose(by_name["flatten"], jitted["flatten"], rtol=1e-5)
    np.testing.assert_allclose(
        by_name["head"], model.apply(variables, images, train=False), rtol=1e-5)


def test_parts_mask_marks_the_parameters_to_freeze():
    _, variables, _ = made("cifar_resnet20")
    params = variables["params"]
    assert set(networks.parts_of(params)) == {"stem", "stage1", "stage2", "stage3",
                                              "head"}
    marked = networks.parts_mask(params, "stem, stage1,stage3_block2")
    assert jax.tree.structure(marked) == jax.tree.structure(params)
    layers = {layer for layer, tree in marked.items() if all(jax.tree.leaves(tree))}
    assert layers == {"stem_conv", "stem_bn", "stage1_block1", "stage1_block2",
                      "stage1_block3", "stage3_block2"}
    assert not any(any(jax.tree.leaves(tree)) for layer, tree in marked.items()
                   if layer not in layers)
    assert not any(jax.tree.leaves(networks.parts_mask(params, "")))
    with pytest.raises(ValueError, match="'stage9'.*stage1"):
        networks.parts_mask(params, "stage9")


def test_freezing_must_leave_something_to_learn():
    _, variables, _ = made("baseline")
    params = variables["params"]
    assert networks.freeze_mask(params, "group1,fc1") == networks.parts_mask(
        params, "group1,fc1")
    with pytest.raises(ValueError, match="group1,fc1,head.*group1"):
        networks.freeze_mask(params, "group1,fc1,head")


def test_features_of_variables_that_do_not_fit():
    _, variables, images = made("baseline")
    with pytest.raises(ValueError, match="'params': .*fc1"):
        features("baseline", variables["params"], images)


def test_a_name_of_a_layer_and_of_a_part_means_the_layer():
    shapes = jax.eval_shape(lambda: features(
        model := networks.create("alexnet", 3, Layers(conv="lax", pool="lax")),
        model.init(jax.random.key(0), jnp.zeros((1, 227, 227, 3)), train=False),
        jnp.zeros((1, 227, 227, 3))))
    assert shapes["conv1"].shape == (1, 55, 55, 96)
    assert shapes["conv1_pool"].shape == (1, 27, 27, 96)


def test_integer_images_are_not_rounded():
    grey = Grey().apply({}, jnp.array([[[[200, 100, 50]]]], jnp.uint8))
    np.testing.assert_allclose(grey[0, 0, 0], [0.299 * 200 + 58.7 + 0.114 * 50], 1e-6)


def test_the_trunk_is_all_but_the_head():
    _, variables, _ = made("baseline")
    params = variables["params"]
    assert networks.freeze_mask(params, "trunk") == networks.parts_mask(
        params, "group1,fc1")
    with pytest.raises(ValueError, match="'head'"):
        networks.parts_mask({"conv1": params["fc1"]}, "trunk")


def test_parts_are_in_the_order_of_the_network():
    network = networks.create("cifar_resnet20", layers=Layers(conv="lax"))
    assert parts_in_order(network, (32, 32, 3)) == [
        "stem", "stage1", "stage2", "stage3", "head"]


@pytest.mark.parametrize("name,size", [
    ("cifar_resnet20", 32), ("shapes_fcn", 32),
    pytest.param("squeezenet1_1", 63, marks=pytest.mark.slow)])
def test_the_head_alone_computes_what_the_network_does(name, size):
    model, variables, _ = made(name)
    images = np.float32(np.random.default_rng(3).uniform(0, 1, (2, size, size, 3)))
    whole = jax.jit(lambda v: model.apply(v, images, train=False))(variables)
    inputs = jax.jit(lambda v: before_head(model, v, images))(variables)

    def alone(variables, inputs):
        return networks.apply_head(model, variables, inputs, (size, size, 3),
                                   train=True)
    program = jax.jit(alone).lower(variables, inputs)
    np.testing.assert_allclose(program.compile()(variables, inputs), whole, rtol=1e-5)
    assert program.as_text().count("stablehlo.convolution") == (
        name != "cifar_resnet20")


def test_frozen_batch_norms_run_as_in_evaluation():
    model, variables, images = made("cifar_resnet20")

    def apply(chosen, train):
        def run(variables):
            with networks.frozen_statistics(chosen):
                return model.apply(variables, images[:, :8, :8], train=train,
                                   mutable=["batch_stats"])
        logits, updated = jax.jit(run)(variables)
        return logits, {networks.part_of(layer) for layer, tree
                        in updated["batch_stats"].items() if not jax.tree.all(
                            jax.tree.map(np.array_equal, tree,
                                         variables["batch_stats"][layer]))}

    evaluated, _ = apply("", False)
    frozen, changed = apply("trunk", True)
    np.testing.assert_allclose(frozen, evaluated, rtol=1e-6)
    assert not changed
    _, changed = apply("stem,stage1", True)
    assert changed == {"stage2", "stage3"}


def test_transfer_takes_all_but_a_head_of_another_size():
    _, trained, _ = made("baseline", 5, seed=0)
    _, fresh, _ = made("baseline", 7, seed=1)
    taken = networks.transfer(fresh, trained)
    assert taken.fresh == ["head"] and "group1_conv1/bn" in taken.taken
    for layer in fresh["params"]:
        source = fresh if layer == "head" else trained
        jax.tree.map(np.testing.assert_array_equal, taken.variables["params"][layer],
                     source["params"][layer])
    jax.tree.map(np.testing.assert_array_equal, taken.variables["batch_stats"],
                 trained["batch_stats"])
    _, same_size, _ = made("baseline", 5, seed=2)
    jax.tree.map(np.testing.assert_array_equal,
                 networks.transfer(same_size, trained).variables, trained)


def test_transfer_from_a_trunk_and_to_auxiliary_heads():
    def variables(classes, value):
        head = {"kernel": np.full((4, classes), value)}
        return {"params": {"aux": {"conv": {"kernel": np.full((3, 4), value)},
                                   "head": head}, "head": head}}
    trained, fresh = variables(5, 0.0), variables(7, 1.0)
    taken = networks.transfer(fresh, trained)
    assert taken.fresh == ["aux/head", "head"]
    assert not taken.variables["params"]["aux"]["conv"]["kernel"].any()
    del trained["params"]["head"]
    assert networks.transfer(variables(5, 1.0), trained).fresh == ["head"]


def test_transfer_refuses_another_architecture():
    _, trained, _ = made("baseline", dense=(64,))
    _, fresh, _ = made("baseline")
    with pytest.raises(ValueError, match="fc1 .*1536, 64"):
        networks.transfer(fresh, trained)
    _, other, _ = made("lenet5")
    with pytest.raises(ValueError, match="conv1"):
        networks.transfer(fresh, other)
