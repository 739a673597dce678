"""Normalization, dense layers and the loss equal Flax, optax and autodiff."""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import optax
import pytest

from cnn_jax import ops
from tests.support.gradcheck import equivalent, normal, relative_error


def per_channel(values, x):
    """Broadcasts values [C] to the rank of x [..., C]."""
    return values.reshape((1,) * (x.ndim - 1) + values.shape)


def normalized(x, *arguments, eps=1e-5):
    """Computes batch norm from mean, variance, scale and bias, each [C]."""
    mean, var, scale, bias = (per_channel(a, x) for a in arguments)
    return (x - mean) / jnp.sqrt(var + eps) * scale + bias


def plain_batch_norm(x, scale, bias, axes=(0, 1, 2)):
    mean, var = x.mean(axes), x.var(axes)
    return normalized(x, mean, var, scale, bias), mean, var


def all_outputs(f):
    """Joins the three outputs of a batch norm in one array, to use all cotangents."""
    def joined(*args):
        return jnp.concatenate([a.ravel() for a in f(*args)])
    return joined


def arguments(*shape):
    return normal(0, *shape) + 2, normal(1, shape[-1]), normal(2, shape[-1])


def test_batch_norm_equals_autodiff():
    with jax.enable_x64(True):
        equivalent(all_outputs(ops.batch_norm), all_outputs(plain_batch_norm),
                   *arguments(3, 4, 5, 6), tolerance=1e-13)
        equivalent(ops.batch_norm_inference, normalized, normal(0, 2, 3, 6),
                   normal(1, 6), normal(2, 6) ** 2, normal(3, 6), normal(4, 6),
                   tolerance=1e-13)


def test_synchronized_batch_norm_is_the_norm_of_the_whole_batch():
    with jax.enable_x64(True):
        x, scale, bias = map(jnp.asarray, arguments(6, 2, 3, 4))

        def synchronized(x, scale, bias):
            norm = functools.partial(ops.batch_norm, axis_name="part")
            y, mean, var = jax.vmap(norm, (0, None, None), axis_name="part")(
                x.reshape(3, 2, 2, 3, 4), scale, bias)
            return y.reshape(x.shape), mean[0], var[0]
        equivalent(all_outputs(synchronized), all_outputs(plain_batch_norm), x, scale,
                   bias, tolerance=1e-13)


def norm_of_groups(x, scale, bias, groups):
    """Normalizes each group separately; averages their statistics."""
    parts = [plain_batch_norm(part, scale, bias) for part in jnp.split(x, groups)]
    y, mean, var = zip(*parts)
    return jnp.concatenate(y), sum(mean) / groups, sum(var) / groups


@pytest.mark.parametrize("groups, devices", [(2, 1), (6, 1), (4, 2), (2, 2), (2, 4)])
def test_batch_norm_of_groups_is_the_norm_of_each(groups, devices):
    """A batch of 12 has groups on one device, several on each, or across devices."""
    with jax.enable_x64(True):
        x, scale, bias = map(jnp.asarray, arguments(12, 2, 3, 4))

        def by_devices(x, scale, bias):
            norm = functools.partial(ops.batch_norm, axis_name="part", groups=groups)
            y, mean, var = jax.vmap(norm, (0, None, None), axis_name="part")(
                x.reshape(devices, -1, *x.shape[1:]), scale, bias)
            return y.reshape(x.shape), mean[0], var[0]

        equivalent(
            all_outputs(by_devices if devices > 1 else
                        functools.partial(ops.batch_norm, groups=groups)),
            all_outputs(functools.partial(norm_of_groups, groups=groups)), x, scale,
            bias, tolerance=1e-12)


@pytest.mark.parametrize("groups, gathers", [(8, 0), (4, 0), (2, 1)])
def test_devices_gather_statistics_only_of_groups_that_they_share(groups, gathers):
    """Four devices; whole groups exchange the averages alone, in one all-reduce."""
    x, scale, bias = map(jnp.asarray, arguments(12, 2, 3, 4))
    norm = functools.partial(ops.batch_norm, axis_name="part", groups=groups)
    text = str(jax.make_jaxpr(norm, axis_env=[("part", 4)])(x, scale, bias))
    assert text.count("all_gather[") == gathers and "psum" in text


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ValueError, match="5 groups"):
        ops.batch_norm(*map(jnp.asarray, arguments(12, 2, 3, 4)), groups=5)


def test_batch_norm_in_bfloat16_keeps_its_statistics_in_float32():
    x, scale, bias = (jnp.asarray(a, jnp.bfloat16) for a in arguments(8, 4, 4, 3))
    y, mean, var = ops.batch_norm(x, scale, bias)
    assert y.dtype == jnp.bfloat16 and mean.dtype == var.dtype == jnp.float32
    expected = plain_batch_norm(*(a.astype(jnp.float32) for a in (x, scale, bias)))
    assert relative_error(y, expected[0]) <= 1e-2
    assert relative_error(var, expected[2]) <= 1e-5


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("divide", [False, True])
def test_local_response_norm_equals_autodiff(size, divide):
    def plain(x):
        a = .4 / size if divide else .4
        energy = lax.reduce_window(
            x * x, 0., lax.add, (1, 1, 1, size), (1, 1, 1, 1),
            ((0, 0),) * 3 + ((size // 2, (size - 1) // 2),))
        return x / (1.5 + a * energy) ** .75

    with jax.enable_x64(True):
        equivalent(functools.partial(ops.local_response_norm, size=size, k=1.5,
                                     alpha=.4, divide_by_size=divide),
                   plain, normal(0, 2, 3, 2, 7), tolerance=1e-13)


def test_the_head_equals_optax():
    logits, labels = jnp.asarray(9 * normal(0, 6, 5), jnp.float32), jnp.arange(6) % 5
    equivalent(lambda z: ops.softmax_cross_entropy(z, labels),
               lambda z: optax.softmax_cross_entropy_with_integer_labels(z, labels),
               logits, tolerance=2e-6)
    equivalent(ops.softmax_cross_entropy, optax.softmax_cross_entropy, logits,
               jax.nn.softmax(logits[::-1]), tolerance=2e-6)
    per_pixel = ops.softmax_cross_entropy(jnp.zeros((2, 3, 4, 5)),
                                          jnp.zeros((2, 3, 4), int))
    assert per_pixel.shape == (2, 3, 4)
    assert jnp.isfinite(ops.softmax_cross_entropy(jnp.array([[1e4, -1e4]]),
                                                  jnp.array([1]))).all()


def plain_dense(x, w, b):
    y = x @ w
    return y + per_channel(b, y)


def plain_bias(x, b):
    return x + per_channel(b, x)


def test_dense_equals_autodiff_on_any_rank():
    with jax.enable_x64(True):
        for shape in ((6,), (2, 3), (0,)):
            equivalent(ops.dense, plain_dense, normal(0, *shape, 4),
                       normal(1, 4, 3), normal(2, 3), tolerance=1e-13)


BF16, F32 = jnp.bfloat16, jnp.float32


@pytest.mark.parametrize("dtypes", [(BF16, F32), (F32, BF16)])
@pytest.mark.parametrize("f, plain, shapes", [
    (ops.add_bias, plain_bias, [(2, 5, 3), (3,)]),
    (ops.dense, jnp.matmul, [(2, 5, 4), (4, 3)]),
    (ops.softmax_cross_entropy, optax.softmax_cross_entropy, [(6, 5), (6, 5)])])
def test_each_gradient_has_the_dtype_of_its_operand(f, plain, shapes, dtypes):
    args = [jnp.asarray(normal(i, *shape), dtype)
            for i, (shape, dtype) in enumerate(zip(shapes, dtypes))]
    actual, expected = (jax.grad(lambda *a: jnp.sin(g(*a)).sum(), (0, 1))(*args)
                        for g in (f, plain))
    for a, b in zip(actual, expected):
        assert a.dtype == b.dtype and relative_error(a, b) <= 2e-2


@pytest.mark.parametrize("call, pattern", [
    (lambda x, c: ops.batch_norm(x, c[:2], c), r"\(2, 4, 4, 3\).*scale.*\(2,\)"),
    (lambda x, c: ops.batch_norm(x[:0], c, c), r"\(0, 4, 4, 3\).*one image"),
    (lambda x, c: ops.batch_norm_inference(x, c, c[:1], c, c), r"var.*\(1,\)"),
    (lambda x, c: ops.batch_norm(x.astype(int), c, c), r"floating.*int\d+ \(2, 4"),
    (lambda x, c: ops.local_response_norm(x.astype(int)), r"floating.*int\d+ \(2, 4"),
    (lambda x, c: ops.local_response_norm(x, 0), r"\(2, 4, 4, 3\).*size 0"),
    (lambda x, c: ops.local_response_norm(x, 1.5), "size 1.5"),
    (lambda x, c: ops.local_response_norm(x, True), "size True"),
    (lambda x, c: ops.dense(x, jnp.zeros((4, 2))), r"\(4, 2\)"),
    (lambda x, c: ops.dense(x, jnp.zeros((3, 2)), c), r"b \[O\], received \(3,\)"),
    (lambda x, c: ops.softmax_cross_entropy(x, jnp.zeros((2, 4))),
     r"logits \(2, 4, 4, 3\).*float32 \(2, 4\)"),
])
def test_bad_input_is_one_clear_line(call, pattern):
    with pytest.raises(ValueError, match=pattern):
        call(jnp.zeros((2, 4, 4, 3)), jnp.zeros(3))


def test_materialized_relu_is_relu():
    """They agree at 0 and for non-finite numbers, in both modes, to second order."""
    x = jnp.array([-2., -0., 0., 1.5, jnp.inf, -jnp.inf, jnp.nan])
    t, square = normal(0, 7), lambda f: lambda x: (f(x) ** 2).sum()
    for transform in (
            lambda f: f, jax.grad, lambda f: jax.grad(square(f)), jax.hessian,
            jax.vmap, lambda f: lambda x: jax.jvp(f, (x,), (jnp.float32(t),))[1],
            lambda f: jax.grad(square(jax.checkpoint(f)))):
        ours, theirs = (jax.jit(transform(f) if transform is not jax.grad else
                                jax.grad(lambda x: f(x).sum()))(x)
                        for f in (ops.materialized_relu, jax.nn.relu))
        assert jnp.array_equal(ours, theirs, equal_nan=True)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="what XLA does on a CPU")
def test_the_sum_of_a_residual_block_is_computed_once():
    """The program keeps each of the three sums in memory, without copies."""
    def chain(x, a, relu):
        sums = []
        for i in range(3):
            x = relu(x + a * i)
            sums.append((x ** 2).sum())
        return sum(sums)

    x = jnp.ones((64, 64))
    for relu, calls in (ops.materialized_relu, 3), (jax.nn.relu, 0):
        step = jax.jit(jax.grad(functools.partial(chain, relu=relu)))
        program = step.lower(x, x).compile()
        assert program.as_text().count(" call(") == calls
        assert program.memory_analysis().temp_size_in_bytes < 4 * x.nbytes
