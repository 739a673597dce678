"""Compares the native library without oneDNN with the pure operations.

    CNN_JAX_NATIVE=own python -m tests.support.without_onednn
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.fuzz_onednn import check, fuzz_im2col, fuzz_winograd, handler
from tests.support.gradcheck import normal, relative_error

from cnn_jax import inference, networks, ops
from cnn_jax.native import cost, library
from cnn_jax.networks.graph import Node
from cnn_jax.ops.conv import conv_spec, lax as conv_lax, select

F32, BF16 = jnp.dtype("float32"), jnp.dtype("bfloat16")
WINOGRAD = conv_spec((4, 12, 13, 32), (3, 3, 32, 48), 1, "SAME")
STRIDED = conv_spec((2, 21, 20, 30), (3, 3, 30, 64), 2, "SAME")
POINTWISE = conv_spec((2, 21, 20, 30), (1, 1, 30, 64), 2, "SAME")
DEPTHWISE = conv_spec((2, 21, 20, 32), (3, 3, 1, 32), 1, "SAME", groups=32)


def arrays(spec):
    return [jnp.asarray(normal(i, *shape), F32) for i, shape in enumerate(
        (spec.x_shape, spec.w_shape, spec.y_shape))]


def methods_in(f, *arguments) -> list[int]:
    """Lists the method of every call of the library in a program."""
    text = jax.jit(f).lower(*arguments).as_text()
    return [int(number) for number in re.findall(r"method = (\d+)", text)]


def gradients(f):
    return jax.grad(lambda *arguments: jnp.sin(f(*arguments)).sum(), (0, 1))


def nothing_is_loaded_for_lenet():
    net = networks.create("lenet5", 10)
    images = jnp.zeros((4, 28, 28, 1))
    jax.eval_shape(jax.grad(lambda v: net.apply(v, images, train=False).sum()),
                   jax.eval_shape(lambda: net.init(
                       jax.random.key(0), images, train=False)))
    assert library._load.cache_info().currsize == 0


def the_library_is_our_own():
    assert library.load() and not library.load().version
    assert library.load_onednn() is None and "own leaves it out" in library.describe()
    assert "dnnl" not in Path("/proc/self/maps").read_text()


def kernels_equal_float64():
    """All passes, by Winograd's method and im2col; batch norm's sums."""
    fuzz_winograd(8, seed=0)
    fuzz_im2col(6, seed=0)
    check(WINOGRAD, "float32", np.random.default_rng(0), sums=True)


def auto_equals_lax_in_all_passes():
    im2col = cost.NAMES[cost.IM2COL]
    for spec, name in ((WINOGRAD, cost.NAMES[cost.WINOGRAD_4]), (STRIDED, im2col),
                       (POINTWISE, f"{im2col} / pointwise / {im2col}")):
        algorithm = select("auto", spec, F32)
        assert algorithm.name == name
        x, w, g = arrays(spec)

        def passes(forward, input_gradient, weight_gradient, x, w, g, spec=spec):
            return (forward(x, w, spec), input_gradient(g, w, spec),
                    weight_gradient(x, g, spec))
        for actual, expected in zip(
                jax.jit(lambda *a, f=passes, p=algorithm[1:]: f(*p, *a))(x, w, g),
                jax.jit(lambda *a, f=passes: f(*conv_lax.plain, *a))(x, w, g)):
            assert relative_error(actual, expected) <= 5e-6


def batch_norm_equals_jax():
    x, scale, bias = arrays(WINOGRAD)[0], 1 + jnp.arange(32.) / 32, jnp.ones(32)

    def step(x, scale):
        return gradients(lambda x, scale: ops.batch_norm(
            x, scale, bias.astype(x.dtype))[0])(x, scale)
    assert jax.jit(step).lower(x, scale).as_text().count(library.SUMS) == 2
    with jax.enable_x64(True):
        expected = step(x.astype("float64"), scale.astype("float64"))
    for actual, exact in zip(jax.jit(step)(x, scale), expected):
        assert relative_error(actual, exact) <= 1e-5


def the_rest_is_left_to_ops():
    for spec, dtype in ((DEPTHWISE, F32), (WINOGRAD, BF16)):
        for name in "auto", "onednn":
            assert "native" not in select(name, spec, dtype).name
    x, w, _ = arrays(WINOGRAD)
    convolve = lambda x, w: ops.correlate(x, w, padding="SAME")  # noqa: E731
    assert methods_in(gradients(convolve), x, w) == [cost.WINOGRAD_4] * 3
    with jax.default_matmul_precision("highest"):
        assert methods_in(gradients(convolve), x, w) == []
    # Mapped over both operands it is a convolution of groups.
    both = jnp.stack([x, 2 * x]), jnp.stack([w, w + 1])
    assert methods_in(jax.vmap(convolve), *both) == []
    for actual, x, w in zip(jax.jit(jax.vmap(convolve))(*both), *both):
        assert relative_error(actual, convolve(x, w)) <= 1e-5
    with pytest.raises(Exception, match="without oneDNN"):
        handler(STRIDED, STRIDED.y_shape, *arrays(STRIDED)[:2]).block_until_ready()


def inference_is_jax():
    net = networks.create("ai_edu_mnist_cnn", 10)
    variables = net.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)), train=False)
    compiled = inference.compile(net, variables, (28, 28, 1))
    assert all(isinstance(subgraph, Node) for subgraph in compiled.subgraphs)
    assert inference.fastest(net, variables, (28, 28, 1))[0] is net


if __name__ == "__main__":
    for part in (nothing_is_loaded_for_lenet, the_library_is_our_own,
                 kernels_equal_float64, auto_equals_lax_in_all_passes,
                 batch_norm_equals_jax, the_rest_is_left_to_ops, inference_is_jax):
        part()
