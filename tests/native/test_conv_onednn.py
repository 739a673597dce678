"""oneDNN's convolution: values, fallback to XLA, every JAX transformation.

    pytest tests/native/test_conv_onednn.py             30 random problems
    pytest -m slow tests/native/test_conv_onednn.py     10,000, other allocators, leaks

The table of test_grad_equivalence.py covers it too. Skipped without oneDNN.
"""

import concurrent.futures
import functools
import itertools
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.fuzz_onednn import by_numpy, check, fuzz, handler, problem
from tests.support.gradcheck import compiled, normal, relative_error
from tests.support.tiny_runs import end, start_module

from cnn_jax.native import convolution, cost, library
from cnn_jax.ops import conv_general_dilated, correlate
from cnn_jax.ops.conv import conv_spec, lax as conv_lax, select
from cnn_jax.ops.moments import channel_sums

ROOT = Path(__file__).parents[2]
HERE = ROOT / "tests" / "support"
pytestmark = pytest.mark.skipif(library.load_onednn() is None,
                                reason=library.describe())

SPEC = conv_spec((4, 9, 8, 6), (3, 2, 3, 10), (2, 1), ((1, 2), (0, 1)), groups=2)


def f32(seed, *shape):
    return jnp.asarray(normal(seed, *shape), jnp.float32)


X, W, G = f32(0, *SPEC.x_shape), f32(1, *SPEC.w_shape), f32(2, *SPEC.y_shape)


def onednn(x, w):
    return convolution.passes.forward(x, w, SPEC)


def lax(x, w):
    return conv_lax.forward(x, w, SPEC)


def loss(f):
    return lambda x, w: jnp.sin(f(x, w)).sum()


def same(actual, expected, tolerance=5e-6):
    actual, expected = jax.tree.leaves(actual), jax.tree.leaves(expected)
    assert len(actual) == len(expected)
    errors = [relative_error(a, b) for a, b in zip(actual, expected)]
    assert max(errors) <= tolerance, errors
    assert [a.dtype for a in actual] == [b.dtype for b in expected]


def calls(f, *args) -> int:
    """Counts the oneDNN calls in a program."""
    return jax.jit(f).lower(*args).as_text().count(library.TARGET)


def test_random_problems():
    fuzz(30, seed=0)


@pytest.mark.parametrize("image, kernel, options", [
    ((3, 40, 33, 16), (3, 3, 16, 32), {}),
    ((2, 30, 30, 64), (3, 3, 1, 64), {"groups": 64}),           # depthwise
    ((2, 29, 30, 32), (3, 3, 1, 32), {"strides": 2, "groups": 32}),
    ((2, 15, 15, 32), (3, 3, 1, 64), {"groups": 32}),           # two outputs a channel
    ((2, 31, 29, 3), (7, 7, 3, 64), {"strides": 2}),
    ((2, 14, 14, 64), (1, 1, 64, 32), {"strides": (2, 3)}),
    ((2, 2, 2, 128), (3, 3, 128, 64), {}),                      # kernel over the image
    ((2, 20, 20, 8), (3, 3, 8, 8), {"dilation": (2, 3)}),
    ((3, 50, 8), (5, 8, 16), {"dilation": 2}),                  # one axis
    ((2, 9, 10, 8, 4), (3, 2, 3, 4, 8), {"strides": (1, 2, 1)}),  # three
])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shapes_of_networks(image, kernel, options, dtype):
    options = {"strides": 1, "dilation": 1, "groups": 1} | options
    spec = conv_spec(image, kernel, options["strides"], "SAME", None,
                     options["dilation"], options["groups"])
    if dtype == "bfloat16" and not library.load().bfloat16:
        pytest.skip("this CPU has no bfloat16 instructions")
    check(spec, dtype, np.random.default_rng(0))


@pytest.mark.parametrize("images, side, groups", [
    pytest.param(images, side, groups, marks=[pytest.mark.slow] * ((i + j) % 4 > 0))
    for i, images in enumerate([1, 2, 3, 4, 7, 8, 11, 32])
    for j, (side, groups) in enumerate(itertools.product([4, 16], [1, 8]))])
def test_any_number_of_images_is_split_among_threads(images, side, groups):
    """They are split if images are large compared with weights."""
    spec = conv_spec((images, side, side, 8), (3, 3, 8 // groups, 16), 1, "SAME",
                     groups=groups)
    check(spec, "float32", np.random.default_rng(images))


@pytest.mark.parametrize("seed", range(5))
def test_a_weight_gradient_that_onednn_computes_wrongly_in_bfloat16(seed):
    if not library.load().bfloat16:
        pytest.skip("this CPU has no bfloat16 instructions")
    spec = conv_spec((5, 2, 16), (3, 8, 2), 3, 1, groups=2)
    check(spec, "bfloat16", np.random.default_rng(seed))


def test_an_input_gradient_that_onednn_computes_slowly_in_bfloat16():
    """It is float32's, rounded once."""
    if not library.load().bfloat16:
        pytest.skip("this CPU has no bfloat16 instructions")
    spec = conv_spec((3, 15, 14, 32), (3, 3, 1, 32), 2, "SAME", groups=32)
    rng = np.random.default_rng(0)
    g, w = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16)
            for shape in (spec.y_shape, spec.w_shape))
    for passes in (convolution.passes, convolution.fastest):
        expected = passes.input_gradient(
            g.astype(jnp.float32), w.astype(jnp.float32), spec)
        np.testing.assert_array_equal(
            passes.input_gradient(g, w, spec), expected.astype(jnp.bfloat16))


@pytest.mark.parametrize("image, strides", [
    ((3, 5, 1, 4, 1), 2), ((3, 5, 3, 4, 3), 2), ((3, 5, 1, 8, 1), (2, 2, 1)),
    ((4, 5, 2, 4, 16), 2)])
def test_a_weight_gradient_for_which_onednn_reads_beyond_the_image(image, strides):
    spec = conv_spec(image, (5, 1, 5, image[-1], 7), strides, ((3, 3), (0, 1), (4, 3)))
    check(spec, "float32", np.random.default_rng(0))
    for name in ("onednn", "auto"):
        assert select(name, spec, jnp.dtype("float32")).name == "onednn / onednn / lax"


@pytest.mark.parametrize("image, kernel, strides, groups", [
    ((2, 2, 13, 6), (2, 5, 3, 16), (2, 4), 2), ((9, 9, 13, 16), (1, 5, 16, 16), 4, 1),
    ((9, 1, 12, 3), (3, 5, 3, 7), 1, 1)])
def test_a_convolution_for_which_onednn_writes_beyond_the_image(image, kernel, strides,
                                                                groups):
    """It is dilated and in bfloat16."""
    spec = conv_spec(image, kernel, strides, ((3, 1), (3, 0)), None, 2, groups)
    for dtype in ("bfloat16", "float32"):
        assert convolution.supports(spec, jnp.dtype(dtype)) == (dtype == "float32")
        check(spec, dtype, np.random.default_rng(0))
    undilated = spec._replace(rhs_dilation=(1, 1))
    assert convolution.supports(undilated, jnp.dtype("bfloat16")) == (
        library.load().bfloat16)


@pytest.mark.parametrize("dtype, change", [
    ("float64", {}), ("float16", {}), ("float32", {"padding": ((-1, 2), (1, 1))}),
    ("float32", {"lhs_dilation": (2, 1)})])
def test_convolutions_that_are_left_to_xla(dtype, change):
    with jax.enable_x64(True):
        x, w = X.astype(dtype), W.astype(dtype)
        spec = SPEC._replace(**change)
        assert not convolution.supports(spec, x.dtype)

        def f(name):
            return functools.partial(
                conv_general_dilated(name), window_strides=spec.strides,
                padding=spec.padding,
                lhs_dilation=spec.lhs_dilation, feature_group_count=2,
                dimension_numbers=("NHWC", "HWIO", "NHWC"))
        assert select("onednn", spec, x.dtype).name == "lax"
        actual, expected = (jax.jit(jax.value_and_grad(loss(f(name)), (0, 1)))(x, w)
                            for name in ("onednn", "lax"))
        same(actual, expected, 0)
        assert calls(f("onednn"), x, w) == 0


def test_without_images_and_without_outputs():
    for image, kernel in (((0, 5, 5, 3), (3, 3, 3, 4)), ((2, 2, 2, 3), (3, 3, 3, 4))):
        x, w = jnp.ones(image), jnp.ones(kernel)
        y, vjp = jax.vjp(functools.partial(correlate, implementation="onednn"), x, w)
        dx, dw = vjp(y)
        assert 0 in y.shape and not dw.any() and dx.shape == image


@pytest.mark.parametrize("f", [
    lambda f: f,
    lambda f: jax.grad(loss(f), (0, 1)),
    lambda f: jax.grad(jax.checkpoint(loss(f)), (0, 1)),
    lambda f: lambda x, w: jax.jvp(f, (x, w), (w.sum() * x, 2 * w)),
    lambda f: lambda x, w: jax.jvp(jax.grad(loss(f), (0, 1)), (x, w), (x + 1, 2 * w)),
    lambda f: jax.grad(lambda x, w: sum(
        (g ** 2).sum() for g in jax.grad(loss(f), (0, 1))(x, w)), (0, 1)),
    lambda f: lambda x, w: jax.linear_transpose(lambda x: f(x, w), x)(f(x, w)),
    lambda f: lambda x, w: jax.jacfwd(lambda w: f(x, w).sum((0, 1, 2)))(w),
], ids=["value", "grad", "remat", "jvp", "jvp of grad", "grad of grad", "transpose",
        "jacfwd"])
def test_derivatives(f):
    same(compiled(f(onednn))(X, W), compiled(f(lax))(X, W))
    assert calls(f(onednn), X, W) >= 1


def test_third_derivative():
    def third(f):
        derivative = lambda x, w: (f(x, w) ** 3).sum()  # noqa: E731
        for _ in range(3):
            derivative = jax.grad(lambda x, w, g=derivative: g(x, w).sum())
        return derivative
    same(compiled(third(onednn))(X, W), compiled(third(lax))(X, W))


def test_in_a_scan():
    w = f32(3, 3, 3, 6, 6) / 10

    def f(name):
        def step(x, _):
            return x + correlate(x, w, None, 1, "SAME", implementation=name), None
        return lambda x: jax.grad(lambda x: jnp.sin(
            jax.lax.scan(step, x, None, 3)[0]).sum())(x)
    same(jax.jit(f("onednn"))(X), jax.jit(f("lax"))(X))
    assert 1 <= calls(f("onednn"), X) <= 3


@pytest.mark.parametrize("kind, operands", [
    (0, (X, W)), (1, (G, W)), (2, (X, G))], ids=["y", "dx", "dw"])
@pytest.mark.parametrize("mapped", [(0, None), (None, 1), (2, 3)])
def test_vmap_is_one_call(kind, operands, mapped):
    rng = np.random.default_rng(0)
    operands = [a if axis is None else jnp.asarray(rng.normal(
        size=(*a.shape[:axis], 5, *a.shape[axis:])), jnp.float32)
        for a, axis in zip(operands, mapped)]
    actual, expected = [
        jax.vmap(functools.partial(f[kind], spec=SPEC), mapped)
        for f in (convolution.passes, conv_lax.plain)]
    same(jax.jit(actual)(*operands), jax.jit(expected)(*operands))
    assert calls(actual, *operands) == 1


def test_on_four_devices():
    code, _, errors = end(start_module("tests.support.onednn_devices", devices=4))
    assert code == 0, errors[-3000:]


@pytest.mark.parametrize("platforms", [("cpu",), ("cuda",), ("cpu", "cuda", "tpu")])
def test_exported_programs_are_xlas(platforms):
    f = jax.jit(jax.grad(loss(onednn), (0, 1)))
    exported = jax.export.export(f, platforms=platforms)(X, W)
    assert "custom_call" not in exported.mlir_module()
    assert exported.mlir_module().count("stablehlo.convolution") >= 3
    if "cpu" in platforms:
        same(exported.call(X, W), f(X, W))


@pytest.mark.parametrize("name", ["onednn", "auto"])
def test_a_program_exported_for_any_batch_is_xlas(name):
    f = jax.jit(jax.grad(loss(lambda x, w: correlate(
        x, w, padding="SAME", groups=2, implementation=name)), (0, 1)))
    images = jax.export.symbolic_shape("n")[0], *X.shape[1:]
    exported = jax.export.export(f)(jax.ShapeDtypeStruct(images, X.dtype), W)
    assert library.TARGET not in exported.mlir_module()
    same(exported.call(X, W), f(X, W))


@pytest.mark.parametrize("name", ["onednn", "auto"])
def test_without_jit(name):
    f = jax.value_and_grad(loss(lambda x, w: correlate(
        x, w, padding="SAME", groups=2, implementation=name)), (0, 1))
    with jax.disable_jit():
        y = f(X, W)
    same(y, jax.jit(f)(X, W))


def test_a_program_for_a_gpu_is_xlas():
    lowered = jax.jit(onednn).trace(X, W).lower(lowering_platforms=("cuda",))
    assert library.TARGET not in lowered.as_text()
    assert "stablehlo.convolution" in lowered.as_text()


def test_problems_that_vmap_makes_empty_or_too_large_are_xlas():
    """Merged into one axis, 2^26 problems have more than 2^31 entries."""
    f = jax.vmap(jax.value_and_grad(loss(onednn), (0, 1)))
    for (value, (dx, dw)) in (f(X[None][:0], W[None][:0]),):
        assert (value.shape, dx.shape, dw.shape) == (
            (0,), (0, *X.shape), (0, *W.shape))
    x, w = (jax.ShapeDtypeStruct((2 ** 26, *a.shape), a.dtype) for a in (X, W))
    assert library.TARGET not in jax.jit(jax.vmap(onednn)).lower(x, w).as_text()
    assert calls(jax.vmap(onednn), X[None], W[None]) == 1


def test_auto_is_native_and_knows_forward_mode():
    assert select("auto", SPEC, jnp.dtype("float32"))[1:] == convolution.fastest
    for kernel, groups in (((1, 1, 64, 32), 1), ((3, 3, 1, 64), 64)):
        spec = conv_spec((8, 28, 28, 64), kernel, 1, "SAME", groups=groups)
        assert select("auto", spec, jnp.dtype("float32"))[1:] == convolution.fastest
        assert "onednn" in select("auto", spec, jnp.dtype("float32")).name
    assert select("auto", SPEC, jnp.dtype("float64"))[1:] != convolution.fastest
    f = functools.partial(correlate, padding="SAME")
    assert calls(f, X, f32(5, 3, 3, 6, 4)) == 1


def test_on_other_devices_the_library_is_not_loaded(monkeypatch):
    def fail():
        raise AssertionError("loaded")
    monkeypatch.setattr(library, "load", fail)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    for name in ("onednn", "auto"):
        assert select(name, SPEC, jnp.dtype("float32")).name == "lax"


@pytest.mark.parametrize("change, message", [
    ({"x_shape": (4, 9, 8, 5)}, "batch, channels or groups"),
    ({"strides": (2, 2)}, "output size"),
    ({"strides": (2,)}, "the ranks"),
    ({"strides": (0, 1)}, "less than 1"),
    ({"padding": ((1, 2), (-1, 2))}, "is negative"),
    ({"groups": 5}, "batch, channels or groups"),
    ({"groups": 0}, "batch, channels or groups")])
def test_the_library_checks_its_arguments(change, message):
    """An error names the shapes in one line, before anything is read."""
    spec = SPEC._replace(**change)
    with pytest.raises(Exception, match=message) as error:
        handler(spec, SPEC.y_shape, f32(0, *spec.x_shape), W).block_until_ready()
    line, = [line for line in str(error.value).splitlines() if message in line]
    assert "w [3,2,3,10], y [4,5,8,10], strides" in line


@pytest.mark.parametrize("x, w, kind, message", [
    (X, [W.astype(jnp.bfloat16)], 0, "one dtype"),
    (X.astype(int), [W.astype(int)], 0, "float32 and bfloat16"),
    (X, [], 0, "number of arguments"), (X, [W, W], 0, "number of arguments"),
    (X, [W], 3, "three passes"), (X, [W], -1, "three passes")])
def test_the_library_refuses_other_operands(x, w, kind, message):
    same(handler(SPEC, SPEC.y_shape, X, W), lax(X, W))
    with pytest.raises(Exception, match=message):
        handler(SPEC, SPEC.y_shape, x, *w, kind=kind).block_until_ready()


@pytest.mark.parametrize("offset", [pytest.param(0, marks=pytest.mark.slow), 1])
@pytest.mark.parametrize("kernel, groups", [(3, 1), (1, 1), (3, 16)])
def test_weight_gradients_of_long_sums(kernel, groups, offset):
    """Sums of 131,072 products equal float64, also if they do not cancel."""
    spec = conv_spec((128, 32, 32, 16), (kernel, kernel, 16 // groups, 16), 1,
                     "SAME", groups=groups)
    x, g = (f32(i, *shape) + offset for i, shape in enumerate(
        (spec.x_shape, spec.y_shape)))
    dw = jax.jit(lambda x, g: convolution.passes.weight_gradient(x, g, spec))(x, g)
    exact = by_numpy(x, np.zeros(spec.w_shape), g, spec)[2]
    assert relative_error(dw, exact) <= 2e-5


def test_repeated_calls_give_the_same_bits():
    spec = conv_spec((16, 20, 20, 32), (3, 3, 32, 64), 1, "SAME")
    x, w = f32(0, *spec.x_shape), f32(1, *spec.w_shape)

    @jax.jit
    def f(x, w):
        return jax.value_and_grad(lambda x, w: jnp.sin(
            convolution.passes.forward(x, w, spec)).sum(), (0, 1))(x, w)
    first = jax.tree.map(np.asarray, f(x, w))
    for _ in range(20):
        again = f(x, w)
        assert all(np.array_equal(a, b) for a, b in zip(
            jax.tree.leaves(first), jax.tree.leaves(again)))


def test_two_threads_at_once():
    def work(seed):
        """Solves its own problems repeatedly; the bits must not change."""
        rng = np.random.default_rng(seed)
        for _ in range(2):
            spec = problem(rng, "float32")
            x, w = (jnp.asarray(rng.normal(size=s), jnp.float32)
                    for s in (spec.x_shape, spec.w_shape))
            f = jax.jit(jax.grad(lambda x, w: jnp.sin(convolution.passes.forward(
                x, w, spec)).sum(), (0, 1)))
            results = [jax.tree.map(np.asarray, f(x, w)) for _ in range(20)]
            expected = compiled(jax.grad(lambda x, w: jnp.sin(conv_lax.forward(
                x, w, spec)).sum(), (0, 1)))(x, w)
            same(results[0], expected, 1e-5)
            for result in results:
                assert all(map(np.array_equal, results[0], result))
        return True
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(work, (1, 2))) == [True, True]


# Long checks.

def run_fuzz(count, seed, *kind, **environment):
    done = subprocess.run(
        [sys.executable, "fuzz_onednn.py", str(count), str(seed), *kind], cwd=HERE,
        capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 11))
def test_ten_thousand_random_problems(seed):
    run_fuzz(1000, seed)


def shared_object(compiler: str, name: str) -> str:
    path = subprocess.run([compiler, f"-print-file-name={name}"], text=True,
                          capture_output=True, check=True).stdout.strip()
    return path if os.path.isabs(path) and os.path.exists(path) else ""


@pytest.mark.slow
def test_with_address_sanitizer(tmp_path):
    """The instrumented C++ accesses no memory outside its objects."""
    preload = shutil.which("g++") and shared_object("g++", "libasan.so")
    if not preload:
        pytest.skip("needs g++ with its address sanitizer")
    compiler = tmp_path / "compiler"
    compiler.write_text("#!/bin/sh\nexec g++ -fsanitize=address -g \"$@\" -O1\n")
    compiler.chmod(0o755)
    own = {"CNN_JAX_CACHE": str(tmp_path)}
    built = subprocess.run(
        [sys.executable, "-m", "cnn_jax.native.build"], cwd=ROOT, text=True,
        env=os.environ | own | {"CXX": str(compiler)}, capture_output=True, check=True)
    assert b"__asan_report_load" in Path(built.stdout.strip()).read_bytes()
    # libstdc++ comes first: the sanitizer looks up its functions at the start.
    preload += " " + shared_object("g++", "libstdc++.so.6")
    for kind in (), ("winograd",):
        run_fuzz(400, 11, *kind, LD_PRELOAD=preload, **own,
                 ASAN_OPTIONS="detect_leaks=0:abort_on_error=1")


@pytest.mark.slow
def test_writes_nothing_beyond_its_results():
    """glibc's checking allocator aborts if the bytes after an array have changed."""
    checking = shared_object("gcc", "libc_malloc_debug.so.0")
    if not checking:
        pytest.skip("needs glibc's libc_malloc_debug.so.0")
    for kind in (), ("winograd",):
        run_fuzz(1000, 12, *kind, LD_PRELOAD=checking,
                 GLIBC_TUNABLES="glibc.malloc.check=3")


@pytest.mark.slow
def test_a_hundred_thousand_calls_leak_nothing(monkeypatch):
    monkeypatch.setattr(cost, "COSTS", {4: cost.Cost(0, 0, 0, 0)})
    v = f32(3, 3, 3, 16, 16)

    def winograd(x):
        return correlate(jnp.repeat(x[..., :1], 16, -1), v, padding="SAME")
    f = jax.jit(lambda x, w, g: (onednn(x, w), *jax.vjp(onednn, x, w)[1](g),
                                 *channel_sums(x, x, x[0, 0, 0]),
                                 jax.vjp(winograd, x)[0]))
    text = f.lower(X, W, G).as_text()
    assert library.SUMS in text and "method = 4" in text

    def run(count):
        for _ in range(count):
            y = f(X, W, G)
        jax.block_until_ready(y)
        return resident_mb()
    run(2000)
    before = run(2000)
    assert run(34000) - before <= 4  # 3 calls each


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2 ** 20
