"""Every registered network can be drawn: the programs are traced, but not run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import networks
from cnn_jax.inspection.explain.activation_stats import watch_activations
from cnn_jax.inspection.explain.grad_cam import grad_cam
from cnn_jax.inspection.explain.kernels import kernel_images
from cnn_jax.inspection.explain.maximize import AscentConfig, maximize
from cnn_jax.inspection.explain.receptive_field import (effective_field,
                                                        theoretical_field)
from cnn_jax.inspection.explain.saliency import gradient, guided_gradient
from cnn_jax.layers import Layers
from cnn_jax.networks.named_layers import (default_layers, evenly_spaced, layers_of,
                                           with_followers)

pytestmark = pytest.mark.slow


def traced(name):
    """Returns (network, shapes of its variables, shape of an image)."""
    row = networks.NETWORKS[name]
    network = networks.create(name, layers=Layers(conv="lax", pool="lax"))
    images = jax.ShapeDtypeStruct((2, *row.input_shape), jnp.float32)
    return network, jax.eval_shape(
        lambda x: network.init(jax.random.key(0), x, train=False), images), images


@pytest.mark.parametrize("name", networks.NETWORKS)
def test_every_picture_of_every_network(name):
    network, variables, images = traced(name)
    shape = images.shape[1:]
    known = layers_of(network, variables, shape)
    drawn = evenly_spaced(default_layers(known), 4)
    maps = [layer for layer in drawn if layer.is_map]
    assert drawn and bool(maps) == (not name.endswith("_dnn"))
    for layer in maps:
        assert with_followers(layer, known)[0] == layer

    first = next(layer for layer in known.values()
                 if layer.kernel is not None and layer.is_leaf)
    drawing = kernel_images(first, np.zeros(first.kernel, np.float32), known)
    assert drawing is None or len(drawing[0]) and drawing[1]

    def middle(layer):
        return (layer.shape[0] // 2, layer.shape[1] // 2) if layer.is_map else None

    for layer in maps[-1:]:
        assert theoretical_field(network, shape, layer.name, middle(layer))
        field = jax.eval_shape(lambda v, x: effective_field(
            network, v, x, layer.name, middle(layer)), variables, images)
        assert field.shape[:2] == shape[:2]
    last = drawn[-1]
    shapes = jax.eval_shape(lambda v, key: maximize(
        network, v, jnp.arange(2), key, last.name, shape, (0.0, 1.0),
        AscentConfig(2), middle(last)), variables, jax.random.key(0))
    assert images.shape in [leaf.shape for leaf in jax.tree.leaves(shapes)]
    assert jax.eval_shape(lambda v, x: watch_activations(network, v, x),
                          variables, images)
    for method in (gradient, guided_gradient, *([grad_cam] if maps else [])):
        image = jax.eval_shape(lambda v, x: method(network, v, x), variables, images)
        assert image.shape == images.shape[:3 if method is grad_cam else 4]
