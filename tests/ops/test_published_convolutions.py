"""Convolutions equal the results of problems that others have published.

    pytest -m slow tests/ops/test_published_convolutions.py     every algorithm
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax import ops
from cnn_jax.native import cost, library
from tests.support.gradcheck import compiled, normal, relative_error


ANY_SHAPE = [name for name in ops.ALGORITHMS if name != "winograd"]  # needs 3 x 3


def skip_without(name):
    if name == "numba":
        pytest.importorskip("numba")


# Both gradients from TensorFlow's tests (conv_ops_test.py): (x shape, w shape, g shape,
# strides, padding, dx, dw). x, w and g count 1, 2, ... Each gradient was checked by
# hand: dx[p] = sum of g[q] w[p - q s], dw[k] = sum of g[q] x[q s + k].
TENSORFLOW = [
    ((1, 2, 3, 1), (2, 2, 1, 1), (1, 1, 2, 1), (1, 1), "VALID",
     [1, 4, 4, 3, 10, 8], [5, 8, 14, 17]),
    ((1, 2, 3, 3), (2, 2, 3, 3), (1, 1, 2, 3), (1, 1), "VALID",
     [14, 32, 50, 100, 163, 226, 167, 212, 257,
      122, 140, 158, 478, 541, 604, 437, 482, 527],
     [17, 22, 27, 22, 29, 36, 27, 36, 45, 32, 43, 54, 37, 50, 63, 42, 57, 72,
      62, 85, 108, 67, 92, 117, 72, 99, 126, 77, 106, 135, 82, 113, 144, 87, 120, 153]),
    ((1, 3, 6, 1), (2, 2, 1, 1), (1, 2, 3, 1), (1, 2), "VALID",
     [1, 2, 2, 4, 3, 6, 7, 12, 11, 18, 15, 24, 12, 16, 15, 20, 18, 24],
     [161, 182, 287, 308]),
    ((1, 4, 4, 1), (1, 1, 1, 1), (1, 2, 2, 1), (2, 2), "SAME",
     [1, 0, 2, 0, 0, 0, 0, 0, 3, 0, 4, 0, 0, 0, 0, 0], [78]),
    ((1, 2, 2, 1), (2, 2, 1, 2), (1, 1, 1, 2), (1, 1), "VALID",
     [5, 11, 17, 23], [1, 2, 2, 4, 3, 6, 4, 8]),
    ((0, 2, 3, 1), (2, 2, 1, 1), (0, 1, 2, 1), (1, 1), "VALID", [], [0, 0, 0, 0]),
    ((1, 2, 3, 1), (2, 2, 1, 0), (1, 1, 2, 0), (1, 1), "VALID", [0] * 6, []),
]


def counting(*shape):
    return jnp.arange(1., 1 + np.prod(shape)).reshape(shape)


@pytest.mark.parametrize("name", [
    pytest.param(name, marks=[] if name in ("im2col", "auto") else pytest.mark.slow)
    for name in ANY_SHAPE])
def test_gradients_of_tensorflow(name):
    skip_without(name)

    @compiled
    def gradients():
        gradients_of_counts = []
        for x, w, g, strides, padding, *_ in TENSORFLOW:
            y, vjp = jax.vjp(functools.partial(
                ops.correlate, strides=strides, padding=padding, implementation=name),
                counting(*x), counting(*w))
            assert y.shape == g
            gradients_of_counts.append(vjp(counting(*g)))
        return gradients_of_counts

    for (*_, dx, dw), actual in zip(TENSORFLOW, gradients()):
        for a, b in zip(actual, (dx, dw)):
            np.testing.assert_allclose(a.ravel(), b, rtol=1e-6, atol=1e-5)


@functools.cache
def problems():
    """Lists the convolutions of JAX's tests, which are in its wheel, with results.

    Each is (x, w, arguments of `lax.conv_general_dilated`, y), in float64.
    """
    harnesses = pytest.importorskip("jax._src.internal_test_util.test_harnesses")
    reference = importlib.import_module("jax._src.lax_reference")
    known, cases = set(), []
    for harness in harnesses.all_harnesses:
        p = harness.params
        if "lhs_shape" not in p or "batch_group_count" not in p:
            continue
        options = (p["window_strides"], p["padding"], p["lhs_dilation"],
                   p["rhs_dilation"], p["dimension_numbers"], p["feature_group_count"],
                   p["batch_group_count"])
        key = repr((p["lhs_shape"], p["rhs_shape"], options))
        if key in known:  # for another dtype or precision
            continue
        known.add(key)
        x, w = normal(0, *p["lhs_shape"]), normal(1, *p["rhs_shape"])
        y = jax.eval_shape(lambda x, w: jax.lax.conv_general_dilated(x, w, *options),
                           x, w)
        cases.append((x, w, options, in_groups(
            reference.conv_general_dilated, x, w, *options) if y.size
            else np.zeros(y.shape)))
    assert len(cases) > 30
    return cases


def in_groups(convolution, x, w, strides, padding, lhs_dilation, rhs_dilation, axes,
              feature_groups, batch_groups):
    """Computes a grouped convolution, one group at a time."""
    lhs, rhs, out = axes
    if isinstance(padding, str):  # JAX's NumPy reference ignores the dilation here
        sizes = [(x.shape[lhs.index(axis)], w.shape[rhs.index(axis)])
                 for axis in lhs if axis not in "NC"]
        padding = jax.lax.padtype_to_pads(
            [n for n, _ in sizes],
            [(k - 1) * d + 1 for (_, k), d in zip(sizes, rhs_dilation)], strides,
            padding)
    options = strides, padding, lhs_dilation, rhs_dilation, axes
    groups = max(feature_groups, batch_groups)
    x_axis = lhs.index("C" if feature_groups > 1 else "N")
    parts = zip(np.split(x, groups, x_axis), np.split(w, groups, rhs.index("O")))
    return np.concatenate([convolution(*part, *options) for part in parts],
                          out.index("C"))


def is_for_winograd(w, strides, padding, lhs_dilation, rhs_dilation, axes, *groups):
    kernel = [size for size, axis in zip(w.shape, axes[1]) if axis not in "IO"]
    return kernel == [3, 3] and strides == rhs_dilation == (1, 1)


def in_program_of(name):
    """Lists the problems that an algorithm can compute."""
    return [(x, w, options, y) for x, w, options, y in problems()
            if (name in ANY_SHAPE or is_for_winograd(w, *options))
            and (options[-1] == 1 or name in ("lax", "onednn", "auto"))]


def all_passes(convolution, cases):
    """Makes a function of [(x, w, g)] that returns [(y, dx, dw)]."""
    def run(arrays):
        results = []
        for (x, w, g), (_, _, options, _) in zip(arrays, cases):
            value, vjp = jax.vjp(lambda x, w: convolution(x, w, *options), x, w)
            results.append((value, *vjp(g)))
        return results
    return compiled(run)


def arrays_of(cases, dtype):
    return [(x.astype(dtype), w.astype(dtype), normal(2, *y.shape).astype(dtype))
            for x, w, _, y in cases]


def in_float64(cases):
    """Computes y by NumPy and both gradients by XLA."""
    with jax.enable_x64(True):
        by_xla = all_passes(jax.lax.conv_general_dilated, cases)(
            arrays_of(cases, np.float64))
    return [(y, dx, dw) for (*_, y), (_, dx, dw) in zip(cases, by_xla)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ops.ALGORITHMS)
def test_convolutions_of_jax(name):
    """The value equals NumPy's, and both gradients equal those of XLA."""
    skip_without(name)
    cases = in_program_of(name)
    assert cases
    with jax.enable_x64(True):
        actual = all_passes(ops.conv_general_dilated(name), cases)(
            arrays_of(cases, np.float64))
    for ours, theirs, (_, _, options, _) in zip(actual, in_float64(cases), cases):
        for a, b in zip(ours, theirs):
            assert relative_error(a, b) <= 1e-12, options


def widened(convolution):
    """Adds channels and outputs of zeros, up to 16, around the same problem.

    The library computes only multiples of 16 by Winograd's method.
    """
    def run(x, w, *options):
        lhs, rhs, out = options[4]
        wide_x = jnp.pad(x, [(0, -size % 16 * (axis == "C"))
                             for size, axis in zip(x.shape, lhs)])
        wide_w = jnp.pad(w, [(0, -size % 16 * (axis in "IO"))
                             for size, axis in zip(w.shape, rhs)])
        return jax.lax.slice_in_dim(convolution(wide_x, wide_w, *options), 0,
                                    w.shape[rhs.index("O")], axis=out.index("C"))
    return run


def forced(method):
    """Makes a `cost.method_of` that chooses this method where the library has it."""
    def method_of(kind, spec, dtype):
        has = spec.groups == 1 if method == cost.IM2COL else cost.supports(spec, dtype)
        return method if has else cost.ONEDNN
    return method_of


@pytest.mark.slow
@pytest.mark.parametrize("name, method", [
    ("onednn", None), ("auto", None), ("auto", cost.IM2COL),
    ("auto", cost.WINOGRAD_2), ("auto", cost.WINOGRAD_4)])
def test_convolutions_of_jax_in_the_library(name, method, monkeypatch):
    """In float32, which the library computes; the expected values are of float64.

    Most problems are calls of the library: it has no dilated images.
    """
    if library.load_onednn() is None:
        pytest.skip(library.describe())
    cases, convolution = in_program_of(name), ops.conv_general_dilated(name)
    if method is not None:
        monkeypatch.setattr(cost, "method_of", forced(method))
    if method in cost.COSTS:
        cases = [case for case in in_program_of("winograd")
                 if set(case[2][2]) == {1} and case[2][5:] == (1, 1)]
        convolution = widened(convolution)
    program = all_passes(convolution, cases).lower(arrays_of(cases, np.float32))
    methods = [int(line.partition("method = ")[2].split()[0])
               for line in program.as_text().splitlines() if library.TARGET in line]
    assert methods.count(cost.ONEDNN if method is None else method) >= 2 * len(cases)
    actual = program.compile()(arrays_of(cases, np.float32))
    for ours, theirs, (_, _, options, _) in zip(actual, in_float64(cases), cases):
        for a, b in zip(ours, theirs):
            assert relative_error(a, b) <= 5e-6, options
