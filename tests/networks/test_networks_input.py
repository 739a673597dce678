"""Networks refuse bad names, fields and images, with errors that state the facts."""

import contextlib

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import networks
from cnn_jax.networks.summary import layer_table
from cnn_jax.layers import Layers

pytestmark = pytest.mark.usefixtures("compiled_once")

PLAIN = Layers(conv="lax", pool="lax")  # the fastest to trace, with the same errors


def variables_of(model, shape):
    return networks.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=False))


@contextlib.contextmanager
def refused(*facts):
    """Expects a ValueError of one line with these facts."""
    with pytest.raises(ValueError) as error:
        yield
    line = str(error.value)
    assert "\n" not in line
    for fact in facts:
        assert fact in line, line


def test_unknown_names_list_the_known_ones():
    with refused("'resnet5'", "resnet50"):
        networks.create("resnet5")
    with refused("alexnet", "'lnr'", "lrn"):
        networks.create("alexnet", lnr="caffe")
    with refused("'cafe'", "caffe, paper"):
        layer_table(networks.create("alexnet", lrn="cafe"), (227, 227, 3))
    for layers, known in (
            (Layers(conv="x"), "im2col"), (Layers(init="x"), "glorot"),
            (Layers(bn="x"), "keras"), (Layers(pool="x"), "windows")):
        with refused("'x'", known):
            layer_table(networks.create("baseline", layers=layers), (32, 32, 3))


@pytest.mark.parametrize("number", [0, -3, 2.5, "10", True])
def test_at_least_one_class(number):
    with refused("num_classes", "at least 1", repr(number)):
        networks.create("lenet5", number)


@pytest.mark.parametrize("name, fields, facts", [
    ("mobilenet_v1", {"width": "0.5"}, ("width", "float", "1.0", "'0.5'")),
    ("mobilenet_v1", {"width": float("nan")}, ("width", "nan")),
    ("mobilenet_v2", {"width": 0}, ("width", "1/32 to 32", "not 0")),
    ("resnet18", {"blocks": 3}, ("blocks", "tuple", "(2, 2, 2, 2)", "not 3")),
    ("resnet18", {"bottleneck": 1}, ("bottleneck", "bool", "False", "not 1")),
    ("cifar_resnet20", {"depth": True}, ("depth", "int", "20", "True")),
    ("cifar_resnet20", {"depth": 21}, ("depth", "6 n + 2", "21")),
    ("resnet18", {"stride_in": "5x5"}, ("stride_in", "'1x1' or '3x3'", "'5x5'")),
    ("alexnet", {"groups": 5}, ("groups = 5", "(96, 256")),
    ("alexnet", {"widths": (8, 8)}, ("five widths", "(8, 8)")),
    ("vgg16", {"depths": (1,) * 6}, ("at most 5", "6")),
    ("vgg16", {"dropout": 1.0}, ("dropout", "below 1", "1.0")),
    ("googlenet", {"five": 4}, ("five", "odd", "4")),
    ("densenet121", {"compression": 0.0}, ("compression above 0", "0.0")),
    ("densenet121", {"growth": 0}, ("growth >= 1", "not 0"))])
def test_bad_fields_are_refused_in_one_line(name, fields, facts):
    with refused(*facts):
        layer_table(networks.create(name, layers=PLAIN, **fields),
                    networks.NETWORKS[name].input_shape)


def test_fields_may_have_json_types():
    model = networks.create("ai_edu_colour_cnn", convs=[[4, 3, 1], [8, 3, 1]])
    assert model.convs == ((4, 3, 1), (8, 3, 1)) and isinstance(hash(model), int)
    assert networks.create("vgg16", dropout=0).dropout == 0


@pytest.mark.parametrize("name, smallest", [
    ("alexnet", 67), ("zfnet", 63), ("vgg16", 32), ("monkey_cnn", 8),
    ("mnist_cnn", 10), ("tf2_alexnet8", 21),
    pytest.param("googlenet", 79, marks=pytest.mark.slow),
    pytest.param("xception", 7, marks=pytest.mark.slow),
    pytest.param("inception_v3_keras", 75, marks=pytest.mark.slow),
    pytest.param("densenet121", 29, marks=pytest.mark.slow)])
def test_too_small_an_image_names_the_smallest(name, smallest):
    model = networks.create(name, layers=PLAIN)
    layer_table(model, (smallest, smallest, 3))
    with refused(f"{smallest - 1}x{smallest - 1} pixels", f"{smallest}x{smallest}"):
        layer_table(model, (smallest - 1, smallest - 1, 3))


def test_a_segmentation_network_has_logits_for_every_pixel():
    model = networks.create("shapes_fcn", 5, layers=PLAIN)
    variables = variables_of(model, (1, 28, 28, 3))

    def logits(*shape):
        return jax.eval_shape(lambda v: model.apply(v, jnp.zeros(shape), train=False),
                              variables)
    assert logits(2, 12, 20, 3).shape == (2, 12, 20, 5)
    with refused("multiples of 4", "30x28 pixels", "pad or resize"):
        logits(2, 30, 28, 3)


def test_images_that_do_not_fit_the_parameters():
    model = networks.create("baseline")
    variables = variables_of(model, (1, 32, 32, 3))

    def logits(shape):
        return jax.eval_shape(lambda v: model.apply(v, jnp.zeros(shape), train=False),
                              variables)
    assert logits((2, 32, 32, 3)).shape == (2, 10)
    with pytest.raises(ValueError, match="32x32.*1 channels"):
        logits((2, 32, 32, 1))
    with pytest.raises(ValueError, match="48x32.*3 channels"):
        logits((2, 48, 32, 3))
    with refused("[N, H, W, C]", "(32, 32, 3)"):
        logits((32, 32, 3))
    with refused("one channel or more", "(2, 32, 32, 0)"):
        logits((2, 32, 32, 0))
    assert logits((0, 32, 32, 3)).shape == (0, 10)
    other = networks.create("selu_cnn")
    with pytest.raises(ValueError, match="another network"):
        jax.eval_shape(lambda v: other.apply(v, jnp.zeros((1, 32, 32, 3)), train=False),
                       variables)
