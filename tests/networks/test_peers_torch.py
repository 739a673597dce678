"""Networks equal torch in float64: logits, and all variables after three steps.

AlexNet, GoogLeNet, Inception v3 with its auxiliary head, ResNets and DenseNets are
written with torch's functions; ResNet v2, MobileNetV2 and Xception are timm's own.

Needs the `peers` extra; then: pytest -m slow tests/networks/test_peers_torch.py
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.peer_networks import TORCH
from tests.support.quick_compile import quick_jit, sgd_steps

from cnn_jax import networks
from cnn_jax.layers import Layers

torch = pytest.importorskip("torch", reason="needs the `peers` extra: torch")
forms = pytest.importorskip("tests.support.torch_forms")
timm_forms = pytest.importorskip("tests.support.timm_forms")
F = torch.nn.functional
pytestmark = pytest.mark.slow

CLASSES = 7


def drawn(shapes):
    draw = np.random.default_rng(1)

    def value(path, leaf):
        name = path[-1].key
        if name == "kernel":
            fan = np.prod(leaf.shape[:-1])
            return draw.normal(0, np.sqrt(2 / fan), leaf.shape)
        if name in ("scale", "var"):
            return draw.uniform(0.5, 1.5, leaf.shape)
        return draw.normal(0, 0.1, leaf.shape)
    return jax.tree_util.tree_map_with_path(value, shapes)


def steps_of_torch(t, theirs, arguments, batches, rate):
    t.training = True
    optimizer = torch.optim.SGD(t.parameters(), lr=rate)
    for images, labels in batches:
        logits, auxiliary = theirs(t, nchw(images), **arguments)
        labels = torch.tensor(np.asarray(labels))
        loss = F.cross_entropy(logits, labels) + sum(
            0.3 * F.cross_entropy(aux, labels) for aux in auxiliary)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def nchw(images):
    return torch.tensor(np.asarray(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("odd", [False, True], ids=["even", "odd"])
@pytest.mark.parametrize("key", TORCH)
def test_logits_and_training_equal_torch(key, odd):
    case = TORCH[key]
    library, function = case.theirs.split()
    theirs = getattr({"torch": forms, "timm": timm_forms}[library], function)
    shape = (*case.sizes[odd], 3)
    with jax.enable_x64(True):
        model = networks.create(case.name, CLASSES, Layers(
            bn=case.bn, dtype="float64", conv="lax", pool="lax"), **case.fields)
        draw = np.random.default_rng(2)
        batches = [(jnp.asarray(draw.normal(0, 1, (case.examples, *shape))),
                    jnp.asarray(draw.integers(0, CLASSES, case.examples)))
                   for _ in range(3)]
        images = batches[0][0]
        shapes = jax.eval_shape(
            lambda: model.init(jax.random.key(0), images, train=False))
        variables = drawn(shapes)
        t = forms.Tensors(variables, case.epsilon)
        ours = np.asarray(quick_jit(lambda v, x: model.apply(v, x, train=False))(
            variables, images))
        with torch.no_grad():
            expected = theirs(t, nchw(images), **case.arguments)[0].numpy()
        assert ours.dtype == expected.dtype == np.float64
        assert np.abs(ours - expected).max() <= 1e-9 * expected.std()
        if odd or not case.trained:
            return  # training is compared once, on the even size
        trained = sgd_steps(model, variables, batches, 1e-4)
        steps_of_torch(t, theirs, case.arguments, batches, 1e-4)
        for path, value in jax.tree_util.tree_leaves_with_path(trained):
            names = tuple(part.key for part in path)
            reference = t.as_ours(names)
            where = "/".join(names)
            assert np.abs(value - reference).max() <= 1e-9 * max(
                1, np.abs(reference).max()), where
            before = variables
            for part in names:
                before = before[part]
            assert np.abs(reference - before).max() > 0, where
