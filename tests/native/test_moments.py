"""The native library computes the same sums of batch norm as XLA.

Tests of the library are skipped where it cannot be built.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.gradcheck import normal, relative_error

from cnn_jax import ops
from cnn_jax.native import library
from cnn_jax.ops.moments import by_xla, channel_sums

here = pytest.mark.skipif(library.load() is None, reason=library.describe())
SHAPES = [(8, 40, 33, 64), (2, 9, 7, 37), (5, 3), (1, 1, 1, 1), (1, 1, 1, 100),
          (3, 1023, 33), (2, 3, 4, 5, 32),
          *((2, 50, channels) for channels in (4, 12, 16, 24, 31, 48))]


def operands(shape, seed=0):
    a, b = (jnp.asarray(normal(seed + i, *shape) + i, jnp.float32) for i in range(2))
    return a, b, b.mean(tuple(range(b.ndim - 1)))


def calls(f, *arguments) -> int:
    """Counts the calls of the library in a program."""
    return jax.jit(f).lower(*arguments).as_text().count(library.SUMS)


def by_numpy(a, b, center):
    a, b, center = (np.asarray(one, np.float64) for one in (a, b, center))
    axes = tuple(range(a.ndim - 1))
    return a.sum(axes), (a * (b - center)).sum(axes)


def same(actual, expected, tolerance=5e-6):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected):
        assert relative_error(one, other) <= tolerance


@here
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(shape):
    arguments = operands(shape)
    assert calls(channel_sums, *arguments) == 1
    for f in (channel_sums, by_xla, jax.jit(channel_sums)):
        same(f(*arguments), by_numpy(*arguments), 2e-6)


@here
def test_long_sums_are_more_exact_than_xlas():
    """The data is a million numbers around 1,000, where float32 has steps of 6e-5."""
    a, b, center = operands((1_000_000, 2))
    actual, theirs, exact = (f(a + 1000, b, center)
                             for f in (channel_sums, by_xla, by_numpy))
    assert relative_error(actual[0], exact[0]) <= 1e-7
    assert relative_error(actual[0], exact[0]) <= relative_error(theirs[0], exact[0])


@here
def test_a_step_calls_it_twice_and_repeats_its_bits():
    x, scale, bias = operands((8, 33, 20, 48))

    @jax.jit
    def step(x, scale, bias):
        return jax.value_and_grad(lambda *args: jnp.sin(
            ops.batch_norm(*args)[0]).sum(), (0, 1, 2))(x, scale, bias)

    arguments = x, bias, scale.mean((0, 1, 2))
    assert calls(step, *arguments) == 2
    first = jax.tree.leaves(step(*arguments))
    for _ in range(5):
        assert all(jnp.array_equal(a, b)
                   for a, b in zip(first, jax.tree.leaves(step(*arguments))))


TRANSFORMS = {
    "vmap": lambda f: jax.vmap(f, (0, 0, None)),
    "gradient": lambda f: jax.grad(lambda *args: sum(
        jnp.sin(one).sum() for one in f(*args)), (0, 1, 2)),
    "forward mode": lambda f: lambda *args: jax.jvp(f, args, args)[1],
    "forward mode of one": lambda f: lambda a, b, c: jax.jvp(
        lambda b: f(a, b, c), (b,), (a,))[1],
    "second order": lambda f: jax.grad(lambda *args: sum(jnp.sin(one).sum() for one in (
        jax.grad(lambda *args: sum((one ** 2).sum() for one in f(*args)))(*args),))),
    "checkpoint": lambda f: jax.grad(jax.checkpoint(lambda *args: sum(
        (one ** 2).sum() for one in f(*args)))),
    "transposed": lambda f: lambda a, b, c: jax.linear_transpose(
        lambda a: f(a, b, c), a)((c, c + 1)),
    "scan": lambda f: lambda a, b, c: jax.lax.scan(
        lambda total, one: (total, f(one, one, c)), 0., a)[1],
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_under_transformations(name):
    arguments = operands((3, 5, 4, 6))
    same(*(jax.jit(TRANSFORMS[name](f))(*arguments) for f in (channel_sums, by_xla)))


@here
def test_other_programs_are_xlas():
    arguments = operands((3, 5, 4, 6))
    program = jax.jit(channel_sums)
    exported = jax.export.export(program, platforms=("cpu", "cuda"))(*arguments)
    assert "custom_call" not in exported.mlir_module()
    same(exported.call(*arguments), by_numpy(*arguments))
    a, b, center = arguments
    images = jax.ShapeDtypeStruct(
        (jax.export.symbolic_shape("n")[0], *a.shape[1:]), a.dtype)
    exported = jax.export.export(program)(images, images, center)
    same(exported.call(*arguments), by_numpy(*arguments))
    lowered = program.trace(*arguments).lower(lowering_platforms=("cuda",))
    assert library.SUMS not in lowered.as_text()
    assert calls(channel_sums, a.astype(jnp.float16), b, center) == 0
    assert calls(channel_sums, a[:0], b[:0], center) == 0
    assert calls(jax.vmap(channel_sums), *(one[None] for one in arguments)) == 0


def test_low_precision_is_summed_in_float32():
    a, b, center = operands((64, 64, 64, 3))
    low_a, low_b = (one.astype(jnp.bfloat16) for one in (a, b))
    for x, y in ((low_a, b), (a, low_b), (low_a, low_b)):
        sums = channel_sums(x, y, center)
        assert sums[0].dtype == sums[1].dtype == jnp.float32
        same(sums, by_numpy(x.astype(jnp.float32), y.astype(jnp.float32), center))


@here
def test_the_library_refuses_sizes_that_do_not_fit():
    a, b, center = operands((3, 5, 4, 6))
    for wrong in ((a, b[1:], center), (a, b, jnp.zeros(7)), (a[..., :1], b, center)):
        of_channels = jax.ShapeDtypeStruct(wrong[2].shape, jnp.float32)
        with pytest.raises(Exception, match="sums of batch norm"):
            jax.block_until_ready(
                jax.ffi.ffi_call(library.SUMS, (of_channels,) * 2)(*wrong))
