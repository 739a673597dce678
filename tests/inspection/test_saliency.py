"""Explanations equal closed forms, hand computations and plain loops."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.quick_compile import quick_jit
from tests.support.small_network import Small

from cnn_jax import networks
from cnn_jax.errors import InputError
from cnn_jax.inspection.explain import saliency
from cnn_jax.inspection.explain.grad_cam import grad_cam, interpolation
from cnn_jax.inspection.explain.occlusion import occlusion, starts
from cnn_jax.inspection.explain.scores import predicted_classes
from cnn_jax.layers import Activation, Flatten, GlobalAvgPool, Layers
from cnn_jax.networks.receptive_field import AxisField

PLAIN = Layers(conv="lax", pool="lax")
SHAPE = (6, 5, 2)


class Weighted(nn.Module):
    """Computes logits that are weighted sums of pixels, or of their squares."""

    power: int = 1

    @nn.compact
    def __call__(self, x, train):
        x = Flatten(name="flatten")(x ** self.power)
        return PLAIN.dense(3, name="head")(x)


class Averaged(nn.Module):
    """A convolution, the mean over all positions, a dense layer."""

    @nn.compact
    def __call__(self, x, train):
        x = PLAIN.convolution(4, (3, 3), name="conv")(x)
        x = GlobalAvgPool(name="pool")(x)
        return PLAIN.dense(3, name="head")(x)


class Jumping(nn.Module):
    """Has layers with discontinuous gradients: ReLU and max pooling."""

    @nn.compact
    def __call__(self, x, train):
        x = PLAIN.convolution(4, (3, 3), name="conv")(x)
        x = PLAIN.max_pool((2, 2), name="pool")(Activation("relu", name="act")(x))
        return PLAIN.dense(3, name="head")(Flatten(name="flatten")(x))


def started(network, shape=SHAPE, count=2, seed=0):
    """Initializes a network; returns (network, variables, images)."""
    images = jax.random.normal(jax.random.key(seed + 1), (count, *shape))
    start = quick_jit(lambda key: network.init(key, images, train=False))
    return network, start(jax.random.key(seed)), images


def answers(network, variables, images):
    return np.asarray(quick_jit(lambda variables, images: network.apply(
        variables, images, train=False))(variables, images))


def close(ours, theirs, tolerance=1e-5):
    scale = np.abs(theirs).max()
    assert scale > 0
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * scale)


@pytest.fixture(scope="module")
def linear():
    """Returns a linear network, two images, classes, and the weights of the classes."""
    network, variables, images = started(Weighted())
    classes = np.array([2, 0])
    kernel = np.asarray(variables["params"]["head"]["kernel"])
    weights = kernel.T.reshape(3, *SHAPE)[classes]
    return (network, variables, images, classes), weights


def test_a_linear_network_is_explained_by_its_weights(linear):
    asked, weights = linear
    close(saliency.gradient(*asked), weights)
    noisy = saliency.smooth_grad(*asked, key=jax.random.key(3), sigma=2.0, samples=3)
    close(noisy, weights)
    actual = saliency.integrated_gradients(*asked, baseline=0.5, steps=1)
    close(actual.values, (asked[2] - 0.5) * weights)
    assert actual.steps == 1 and actual.error.max() < 1e-5


def test_the_named_class_is_explained_where_none_is_given(linear):
    network, variables, images = linear[0][:3]
    classes = answers(network, variables, images).argmax(-1)
    close(saliency.gradient(network, variables, images),
          saliency.gradient(network, variables, images, classes))


def test_integrated_gradients_of_squares():
    # f = sum of w x^2: the integral of 2 w (x0 + t d) d is w (x^2 - x0^2).
    network, variables, images = started(Weighted(power=2))
    classes = np.array([1, 2])
    start = jax.random.normal(jax.random.key(5), images.shape)
    weights = np.asarray(variables["params"]["head"]["kernel"]).T.reshape(3, *SHAPE)
    actual = saliency.integrated_gradients(network, variables, images, classes,
                                          baseline=start, steps=4)
    close(actual.values, weights[classes] * (images ** 2 - start ** 2))
    assert actual.steps == 4  # the midpoint rule is exact for a gradient that is linear


def test_integrated_gradients_are_complete_within_a_thousandth():
    network, variables, images = started(Jumping(), (8, 8, 1))
    variables = jax.tree.map(lambda x: 2 * x, variables)  # larger logits
    taken = []

    def track(points):
        taken.append(len(points))
        return points

    actual = saliency.integrated_gradients(network, variables, images, baseline=-1.0,
                                          steps=8, tolerance=1e-3, track=track)
    logits = answers(network, variables, jnp.concatenate(
        [images, jnp.full_like(images, -1.0)]))
    classes = logits[:2].argmax(-1)
    changes = [float(logits[i, c] - logits[2 + i, c]) for i, c in enumerate(classes)]
    sums = np.asarray(actual.values, np.float64).sum((1, 2, 3))
    assert min(map(abs, changes)) > 1, changes
    np.testing.assert_allclose(sums, changes, rtol=1e-3, atol=0)
    np.testing.assert_allclose(
        actual.error, np.abs(sums - changes) / np.maximum(1, np.abs(changes)),
        atol=1e-5)
    # The number of points is tripled until the result is complete; none is used twice.
    assert actual.steps == 8 * 3 ** (len(taken) - 1) == sum(taken) and len(taken) > 1


def test_tripled_steps_are_those_of_the_midpoint_rule():
    asked = started(Small("tanh"), (2, 2, 1))
    once = saliency.integrated_gradients(*asked, steps=27)
    tripled = saliency.integrated_gradients(*asked, steps=3, tolerance=0.0,
                                            most_steps=27)
    assert tripled.steps == 27
    close(tripled.values, once.values)


def test_smooth_grad_without_noise_is_the_gradient():
    asked = started(Small("tanh"), (2, 2, 1))
    key = jax.random.key(0)
    still = saliency.smooth_grad(*asked, key=key, sigma=0.0, samples=3)
    close(still, saliency.gradient(*asked))
    noisy = saliency.smooth_grad(*asked, key=key, sigma=0.5, samples=3)
    expected = [saliency.gradient(asked[0], asked[1], asked[2] + 0.5 * noise,
                                  answers(*asked).argmax(-1))
                for noise in (jax.random.normal(one, asked[2].shape)
                              for one in jax.random.split(key, 3))]
    close(noisy, np.mean(expected, 0))
    assert np.abs(noisy - still).max() > 0.01


# Inputs 1 and 2; the hidden units before the activation are -1, 5 and 7. The gradient
# of logit 0 with respect to the activations is 3, -2 and 1.
INPUT = np.array([1.0, 2.0], np.float32).reshape(1, 1, 2, 1)
BY_HAND = {"params": {
    "fc": {"kernel": jnp.array([[1.0, 3.0, 1.0], [-1.0, 1.0, 2.0]]),
           "bias": jnp.array([0.0, 0.0, 2.0])},
    "head": {"kernel": jnp.array([[3.0, 0.0], [-2.0, 1.0], [1.0, 1.0]]),
             "bias": jnp.zeros(2)}}}


@pytest.mark.parametrize("kind, gradient, guided", [
    # Unit 0 is off. Of the others, the gradient passes -2 and 1, the guided one only 1.
    ("relu", [-2 * 3 + 1, -2 * 1 + 2], [1, 2]),
    # Unit 2 is off too, because it is above 6.
    ("relu6", [-2 * 3, -2 * 1], [0, 0]),
    # selu has its own backward pass in both; its slope is 1.0507 above 0.
    ("selu", None, None)])
def test_guided_backpropagation_by_hand(kind, gradient, guided):
    asked = Small(kind), BY_HAND, INPUT, np.array([0])
    plain = np.asarray(saliency.gradient(*asked)).ravel()
    actual = np.asarray(saliency.guided_gradient(*asked)).ravel()
    if kind == "selu":
        assert plain[0] != 0
        np.testing.assert_array_equal(actual, plain)
    else:
        np.testing.assert_allclose(plain, gradient)
        np.testing.assert_allclose(actual, guided)


def test_grad_cam_of_an_average_over_positions():
    # The gradient of logit c at every position of map k is w[k, c] / (H W).
    network, variables, images = started(Averaged())
    classes = np.array([1, 2])
    kernel = variables["params"]["conv"]
    maps = jax.lax.conv_general_dilated(
        images, kernel["kernel"], (1, 1), "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC")) + kernel["bias"][None, None, None]
    weights = np.asarray(variables["params"]["head"]["kernel"]).T[classes] / 30
    expected = np.maximum(np.einsum("nhwk,nk->nhw", maps, weights), 0)
    assert (expected > 0).any() and (expected == 0).any()
    for layer in ("", "conv"):
        close(grad_cam(network, variables, images, classes, layer=layer),
              expected)


def test_grad_cam_is_placed_at_the_receptive_fields():
    # Windows of 3 pixels with stride 2 from pixel 1 on: their centres are 2 and 4.
    weights = interpolation(2, 7, AxisField(3, 2, 1))
    np.testing.assert_allclose(weights, [
        [1, 0], [1, 0], [1, 0], [0.5, 0.5], [0, 1], [0, 1], [0, 1]])
    # Without a known field, the map is resized like a picture, by 2.
    np.testing.assert_allclose(interpolation(2, 4, None), [
        [1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]])


def test_occlusion_against_loops():
    network, variables, images = started(Small("tanh"), (7, 5, 1))
    classes = np.array([1, 0])

    def score(image, c):
        return float(program(variables, image[None])[0, c])

    program = quick_jit(lambda *asked: network.apply(*asked, train=False))
    expected = np.zeros((2, 7, 5))
    for n, image in enumerate(np.asarray(images)):
        for y in range(7):
            for x in range(5):
                falls = []
                for top in (0, 2, 4):
                    for left in (0, 2):
                        if top <= y < top + 3 and left <= x < left + 3:
                            hidden = image.copy()
                            hidden[top:top + 3, left:left + 3] = 0.3
                            falls.append(score(image, classes[n])
                                         - score(hidden, classes[n]))
                expected[n, y, x] = np.mean(falls)
    drops = occlusion(network, variables, images, classes, window=3, stride=2,
                      fill=0.3, most_pixels=4 * images[..., 0].size)
    close(drops, expected)


def test_occlusion_windows_end_at_the_border():
    assert starts(7, 3, 2) == [0, 2, 4]
    assert starts(8, 3, 2) == [0, 2, 4, 5]
    assert starts(8, 4) == [0, 2, 4] and starts(5, 5) == [0]


def test_the_score_of_a_segmentation_network():
    """It is the mean logit over the pixels that the network assigns to the class."""
    network, variables, images = started(
        networks.create("shapes_fcn", layers=PLAIN, num_classes=4, widths=(4, 6)),
        (8, 6, 2))
    logits = answers(network, variables, images)
    counts = np.stack([(logits.argmax(-1) == c).sum((1, 2)) for c in range(4)], -1)
    classes = 1 + counts[:, 1:].argmax(-1)
    np.testing.assert_array_equal(predicted_classes(logits), classes)
    where = np.asarray(logits.argmax(-1) == classes[:, None, None])

    def total(images):
        logits = network.apply(variables, images, train=False)
        return sum(logits[n, ..., c][where[n]].mean() for n, c in enumerate(classes))

    actual, expected, cam = quick_jit(lambda images: (
        saliency.gradient(network, variables, images), jax.grad(total)(images),
        grad_cam(network, variables, images)))(images)
    close(actual, expected)
    assert cam.shape == (2, 8, 6) and (cam >= 0).all()


def test_background_is_explained_only_if_it_fills_the_image():
    logits = np.zeros((2, 3, 3, 3), np.float32)
    logits[..., 0] = 1
    logits[1, 0, 0, 2] = 5
    assert predicted_classes(jnp.asarray(logits)).tolist() == [0, 2]


def test_a_residual_network_is_explained():
    """The maps are finite, have the size of the image and differ between classes."""
    network, variables, images = started(
        networks.create("cifar_resnet20", 3, PLAIN, depth=8), (8, 8, 3))
    program = quick_jit(lambda *asked: [
        method(network, *asked) for method in (
            saliency.gradient, saliency.guided_gradient, grad_cam)])
    maps = program(variables, images, np.array([0, 1]))
    others = program(variables, images, np.array([2, 2]))
    for ours, theirs, shape in zip(maps, others, ((8, 8, 3), (8, 8, 3), (8, 8))):
        assert ours.shape == (2, *shape) and np.isfinite(ours).all()
        assert np.abs(ours - theirs).max() > 0


def test_layers_and_classes_that_do_not_exist_are_refused():
    network = networks.create("lenet5", layers=PLAIN)
    images = jnp.zeros((1, 14, 14, 1))
    asked = network, jax.eval_shape(lambda images: network.init(
        jax.random.key(0), images, train=False), images), images
    with pytest.raises(InputError, match="'conv3'.* conv2.*fc2"):
        grad_cam(*asked, layer="conv3")
    with pytest.raises(InputError, match="fc1 of LeNet5 .*pool1.*pool2"):
        grad_cam(*asked, layer="fc1")
    with pytest.raises(InputError, match="15 .*1 to 14"):
        occlusion(*asked, window=15)
    with pytest.raises(InputError, match="convolution"):
        grad_cam(*started(Small("relu"), (2, 2, 1)))
