"""`auto` follows its rules on the CPU and is plain lax elsewhere."""

import functools
import logging

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import ops
from cnn_jax.ops import correlate
from cnn_jax.ops._xla import compiler
from cnn_jax.ops.conv import auto, conv_spec, lax as conv_lax
from tests.support.gradcheck import compiled, equivalent, normal, relative_error


pytestmark = pytest.mark.usefixtures("no_onednn")


def chosen(x, w, strides=(1, 1), padding="SAME", groups=1):
    spec = conv_spec(x, w, strides, padding, groups=groups)
    return [auto.choose(rules, spec).__module__.rpartition(".")[2] + "." +
            auto.choose(rules, spec).__name__ for rules in (
        auto.FORWARD, auto.INPUT_GRADIENT, auto.WEIGHT_GRADIENT)]


def test_the_rules_select_algorithms():
    assert chosen((8, 28, 28, 64), (1, 1, 64, 32)) == [
        "pointwise.forward", "pointwise.input_gradient", "pointwise.weight_gradient"]
    assert chosen((8, 28, 28, 64), (3, 3, 1, 64), groups=64) == [
        "depthwise.forward", "depthwise.input_gradient", "depthwise.weight_gradient"]
    assert chosen((8, 2, 2, 64), (3, 3, 64, 64)) == [
        "padded.forward", "padded.input_gradient", "lax.weight_gradient"]
    assert chosen((8, 4, 4, 64), (3, 3, 64, 64), padding="VALID")[1] == (
        "padded.input_gradient")
    assert chosen((8, 32, 32, 1), (5, 5, 1, 6), padding="VALID") == [
        "banded.forward", "im2col.input_gradient", "lax.weight_gradient"]
    assert chosen((64, 28, 28, 3), (3, 3, 3, 4), padding="VALID") == [
        "banded.forward", "im2col.input_gradient", "lax.weight_gradient"]
    assert chosen((8, 28, 28, 1), (3, 3, 1, 8))[0] == "taps.forward"
    assert chosen((8, 28, 28, 64), (3, 3, 64, 32), (2, 2))[1] == (
        "phases.input_gradient")
    assert chosen((8, 28, 28, 64), (3, 3, 64, 64)) == [
        "lax.forward", "lax.input_gradient", "lax.weight_gradient"]
    assert chosen((64, 28, 28, 16), (3, 3, 16, 8))[2] == "transposed.weight_gradient"
    assert chosen((8, 28, 28, 64), (3, 3, 4, 64), groups=16) == [
        "lax.forward", "lax.input_gradient", "taps.weight_gradient"]
    assert chosen((8, 28, 28, 64), (3, 3, 32, 64), (2, 1), groups=2)[1:] == [
        "im2col.input_gradient", "taps.weight_gradient"]


@pytest.mark.parametrize("dtype, tolerance", [("float64", 1e-13), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("image, kernel, strides, padding, dilation", [
    ((5, 4), (3, 2), (1, 1), "SAME", (1, 1)), ((7, 6), (3, 3), (3, 2), "VALID", (1, 1)),
    ((6, 7), (2, 3), (1, 2), ((2, -1), (0, 3)), (2, 1)),
    ((1, 1), (3, 3), (1, 1), "SAME", (1, 1)),
    ((6, 6), (3, 3), (1, 1), ((-1, 2), (3, -2)), (1, 1)),
    ((8,), (4,), (3,), "SAME", (1,)),
    ((3, 2, 2), (2, 2, 2), (1, 1, 1), "SAME", (1, 1, 1))])
def test_large_batches(image, kernel, strides, padding, dilation, dtype, tolerance):
    """Their images are transposed by a matrix product with the identity."""
    def value_and_gradients(name):
        return compiled(jax.value_and_grad(lambda x, w: jnp.sin(.1 * correlate(
            x, w, None, strides, padding, dilation, 1, name)).sum(), (0, 1)))

    with jax.enable_x64(True):
        x, w = (jnp.asarray(normal(i, *s), dtype) for i, s in enumerate(
            [(64, *image, 16), (*kernel, 16, 3)]))
        for actual, expected in zip(*(jax.tree.leaves(value_and_gradients(name)(x, w))
                                      for name in ("auto", "lax"))):
            assert relative_error(actual, expected) <= tolerance


@pytest.mark.parametrize("image, kernel, strides, padding, groups", [
    ((5, 6), (3, 3), (2, 2), "SAME", 1), ((7, 5), (2, 3), (3, 2), "VALID", 1),
    ((7, 7), (1, 2), (3, 4), ((2, 3), (0, 4)), 1), ((9,), (4,), (3,), "SAME", 1),
    ((8, 8), (3, 3), (2, 2), ((-1, 2), (3, -2)), 1),
    ((2, 3), (5, 4), (1, 1), "SAME", 2), ((7, 6), (3, 2), (2, 3), "VALID", 2),
    ((3, 2, 2), (3, 3, 3), (1, 1, 1), "SAME", 1),
    ((6, 5), (3, 3), (2, 1), "SAME", 4), ((6, 5), (1, 1), (2, 3), ((1, 1), (0, 2)), 1)])
def test_every_pass_equals_lax(image, kernel, strides, padding, groups):
    """It covers each pass that a rule could choose, even if an earlier rule holds."""
    spec = conv_spec((2, *image, 4), (*kernel, 4 // groups, 8), strides, padding,
                     groups=groups)
    with jax.enable_x64(True):
        operands = [(spec.x_shape, spec.w_shape), (spec.y_shape, spec.w_shape),
                    (spec.x_shape, spec.y_shape)]
        for rules, shapes in zip((auto.FORWARD, auto.INPUT_GRADIENT,
                                  auto.WEIGHT_GRADIENT), operands):
            *special, (_, by_lax) = rules
            for holds, one_pass in special:
                if holds(spec):
                    equivalent(lambda a, b: one_pass(a, b, spec),
                               lambda a, b: by_lax(a, b, spec),
                               *(normal(i, *s) for i, s in enumerate(shapes)),
                               tolerance=1e-13)


@pytest.mark.parametrize("f, x, w", [
    (functools.partial(ops.conv_transpose, strides=16), (1, 2, 2, 8), (32, 32, 8, 8)),
    (functools.partial(ops.correlate, strides=16), (1, 40, 40, 8), (32, 32, 8, 8)),
    (functools.partial(ops.correlate, groups=4, padding="SAME"), (1, 16, 16, 4),
     (15, 15, 1, 4))])
def test_large_kernels_have_small_programs(f, x, w):
    """Programs that write out phases or taps took 20 s to compile."""
    x, w = jnp.asarray(normal(0, *x)), jnp.asarray(normal(1, *w))

    def run(name):
        return jax.jit(jax.value_and_grad(lambda x, w: jnp.sin(.1 * f(
            x, w, implementation=name)).sum(), (0, 1)))

    assert run("auto").lower(x, w).as_text().count("\n") < 200
    actual, expected = (jax.tree.leaves(run(name)(x, w)) for name in ("auto", "lax"))
    for a, b in zip(actual, expected):
        assert relative_error(a, b) <= 5e-6


def test_on_other_devices_auto_is_lax(monkeypatch):
    x, w = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
    program = [jax.make_jaxpr(functools.partial(
        ops.correlate, groups=4, implementation=n))(x, w) for n in ("auto", "lax")]
    assert str(program[0]) != str(program[1])
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    program = [str(jax.make_jaxpr(jax.grad(lambda x, w: ops.correlate(
        x, w, groups=4, implementation=name).sum(), (0, 1)))(x, w))
        for name in ("auto", "lax")]
    assert program[0] == program[1]
    monkeypatch.undo()


def test_on_a_tpu_taps_replace_a_weight_gradient_that_compiles_slowly(monkeypatch):
    """dw of 5 x 5 kernels on grey images has the operands' dtype, and is lax's dw."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    grey = (4, 9, 8, 1)
    for kernel, strides in ((5, (2, 2)), (3, (1, 1))):
        other = conv_spec(grey, (kernel, kernel, 1, 6), strides, "SAME")
        assert auto.select(other, jnp.float32) is conv_lax.AUTODIFF
    spec = conv_spec(grey, (5, 5, 1, 6), (1, 1), "SAME")
    chosen = auto.select(spec, jnp.float32).weight_gradient
    with jax.enable_x64(True):
        equivalent(lambda x, g: chosen(x, g, spec),
                   lambda x, g: conv_lax.weight_gradient(x, g, spec),
                   normal(0, *spec.x_shape), normal(1, *spec.y_shape), tolerance=1e-13)
    low = (jnp.zeros(shape, jnp.bfloat16) for shape in (spec.x_shape, spec.y_shape))
    program = str(jax.make_jaxpr(lambda x, g: chosen(x, g, spec))(*low))
    assert "f32[4,9,8" not in program and "preferred_element_type=float32" in program


def test_a_program_exported_for_a_gpu_convolves_by_lax():
    x, w = jnp.zeros((2, 8, 8, 4)), jnp.zeros((3, 3, 1, 4))
    f = jax.jit(functools.partial(ops.correlate, groups=4))

    assert "convolution" not in jax.export.export(f, platforms=["cpu"])(
        x, w).mlir_module()
    assert jax.export.export(f, platforms=["cuda"])(x, w).mlir_module().count(
        "stablehlo.convolution") == 1
    both = jax.export.export(f, platforms=["cpu", "cuda"])
    assert both(x, w).call(x + 1, w + 1).tolist() == f(x + 1, w + 1).tolist()


@pytest.mark.parametrize("pool", [ops.max_pool, ops.avg_pool])
def test_a_program_exported_for_a_gpu_pools_by_lax(pool):
    x = jnp.asarray(normal(0, 2, 7, 6, 3), jnp.float32)

    @jax.jit
    def f(x):
        return jax.value_and_grad(lambda x: jnp.sin(pool(x, 3, 2)).sum())(x)

    def count(platform):
        program = jax.export.export(f, platforms=[platform])(x).mlir_module()
        return program.count("stablehlo.reduce_window")

    assert count("cpu") == 0 and count("cuda") >= 1
    value, dx = jax.export.export(f, platforms=["cpu", "cuda"])(x).call(x)
    assert value == f(x)[0] and dx.tolist() == f(x)[1].tolist()


def test_forward_mode_works_if_all_passes_are_lax():
    x, w = jnp.ones((2, 8, 8, 8)), jnp.ones((3, 3, 8, 8))
    y, dy = jax.jvp(lambda w: ops.correlate(x, w), (w,), (w,))
    assert jnp.allclose(y, dy)


def test_compiler_options_are_probed(monkeypatch, caplog):
    compiler.compiler_options.cache_clear()
    jax.jit(lambda x: 2 * x, compiler_options=compiler.compiler_options())(1.)
    monkeypatch.setattr(compiler, "YNN_OPTION", "xla_cpu_no_such_option")
    compiler.compiler_options.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert compiler.compiler_options() == {}
    assert "xla_cpu_no_such_option" in caplog.text and len(caplog.records) == 1
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    compiler.compiler_options.cache_clear()
    assert compiler.compiler_options() == {}
    monkeypatch.undo()
    compiler.compiler_options.cache_clear()


def test_hand_written_lax_passes_equal_autodiff():
    x, w = jnp.zeros((2, 9, 8, 4)), jnp.zeros((3, 2, 2, 6))
    spec = conv_spec(x.shape, w.shape, (2, 1), ((1, 2), (0, 3)), rhs_dilation=(1, 2),
                     groups=2)
    with jax.enable_x64(True):
        for i, (one_pass, shapes) in enumerate((
                (conv_lax.input_gradient, (spec.y_shape, spec.w_shape)),
                (conv_lax.weight_gradient, (spec.x_shape, spec.y_shape)))):
            def by_autodiff(a, b):
                if i == 0:
                    return jax.linear_transpose(lambda x: conv_lax.forward(
                        x, b, spec), jnp.zeros(spec.x_shape))(a)[0]
                return jax.linear_transpose(lambda w: conv_lax.forward(
                    a, w, spec), jnp.zeros(spec.w_shape))(b)[0]
            equivalent(lambda a, b: one_pass(a, b, spec), by_autodiff,
                       *(normal(j, *s) for j, s in enumerate(shapes)), tolerance=1e-13)
