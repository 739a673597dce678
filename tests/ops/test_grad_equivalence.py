"""Every convolution algorithm equals autodiff of lax: y, dx, dw and db.

    pytest tests/ops/test_grad_equivalence.py             40 cases, seeded
    pytest -m slow tests/ops/test_grad_equivalence.py     the full table

A case is one algorithm on one row of the table. The rows have 8 channels in and out,
except a few with 1 or 3 channels in, for which `auto` has its own rules. They alternate
between float32 and float64; `onednn` has float32 only, and falls back to `auto` without
the library. Tolerances are on max |a - b| / max |b|.
"""

import functools
import itertools
import random

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from cnn_jax.ops import ALGORITHMS, conv_general_dilated, correlate
from cnn_jax.ops.conv import auto, conv_spec
from cnn_jax.ops.bias import add_bias
from tests.support.gradcheck import equivalent, normal

TOLERANCE = {"float32": 5e-6, "float64": 1e-14, "bfloat16": 2e-2}

# (batch, image, kernel)
SHAPES = [(2, (7, 6), (3, 3)), (1, (5, 5), (1, 1)), (3, (9, 4), (3, 2)),
          (2, (2, 3), (3, 5)), (2, (1, 1), (3, 3))]
STRIDES = [(1, 1), (2, 2), (1, 3), (3, 2)]
PADDINGS = ["SAME", "VALID", ((1, 1), (1, 1)), ((0, 2), (3, 1)), ((2, 3), (4, 4))]
DILATIONS = [(1, 1), (2, 2), (1, 3)]
GROUPS = [1, 2, 4, 8]  # of 8 channels: 8 is depthwise
TABLE = [(*row, (1, 1)) for row in itertools.product(
    SHAPES, STRIDES, PADDINGS, DILATIONS, GROUPS)]

# Extra rows: one and three axes, input dilation, negative padding, no images.
EXTRA = [
    ((2, (9,), (4,)), (2,), ((1, 2),), (2,), 2, (1,)),
    ((2, (9,), (4,)), (1,), "SAME", (1,), 8, (1,)),
    ((1, (4, 5, 3), (2, 3, 2)), (1, 2, 1), "SAME", (1, 1, 1), 1, (1, 1, 1)),
    ((1, (4, 5, 3), (3, 1, 2)), (2, 1, 1), "VALID", (1, 1, 2), 4, (1, 1, 1)),
    ((2, (5, 4), (3, 3)), (1, 1), ((1, 2), (0, 3)), (1, 1), 1, (2, 3)),
    ((2, (5, 4), (3, 2)), (2, 1), ((3, 2), (2, 3)), (2, 1), 2, (3, 2)),
    ((2, (6, 7), (3, 3)), (1, 1), ((-1, 0), (2, -2)), (1, 1), 1, (1, 1)),
    ((2, (6, 7), (3, 3)), (2, 2), ((-2, 3), (1, -1)), (1, 1), 8, (1, 1)),
    ((0, (6, 7), (3, 3)), (1, 1), "SAME", (1, 1), 1, (1, 1)),
    ((0, (6, 7), (3, 3)), (2, 2), "VALID", (1, 1), 8, (1, 1)),
    ((2, (3, 3), (5, 5)), (1, 1), "VALID", (1, 1), 1, (1, 1)),
]
# Rows with few channels: (channels in, kernel, (strides, padding, dilation, channels
# out)).
FEW = list(itertools.product((1, 3), (3, 5), [
    ((1, 1), "SAME", (1, 1), 4), ((1, 1), "VALID", (1, 1), 16),
    ((2, 2), "SAME", (1, 1), 6), ((1, 2), ((0, 2), (3, 1)), (1, 1), 20),
    ((1, 1), ((2, 1), (1, 2)), (2, 1), 5)]))
ROWS = TABLE + EXTRA + [
    ((2, (9, 8), (size, size)), strides, padding, dilation, 1, (1, 1))
    for _, size, (strides, padding, dilation, _) in FEW]
# {row: (channels in, channels out)}; other rows have 8 and 8.
CHANNELS = {len(TABLE + EXTRA) + i: (c, options[-1])
            for i, (c, _, options) in enumerate(FEW)}
# In these rows, XLA's reference reads beyond the image in float32 (openxla/xla#48713).
MISREAD = {i for i, (_, _, padding, *_) in enumerate(ROWS)
           if not isinstance(padding, str) and any(lo < 0 < hi for lo, hi in padding)}


def supports(name, row) -> bool:
    (_, _, kernel), strides, _, dilation, _, _ = row
    return name != "winograd" or (
        kernel == (3, 3) and strides == (1, 1) and dilation == (1, 1))


def cases() -> list[tuple[str, int]]:
    """Lists (algorithm, row).

    `auto`, `onednn` and Winograd get all rows that they support; the others get a third
    of the table and all extra rows.
    """
    return [(name, i) for i, row in enumerate(ROWS) for j, name in enumerate(ALGORITHMS)
            if name != "lax" and supports(name, row) and (
                name in ("auto", "onednn", "winograd") or i >= len(TABLE)
                or (i + j) % 3 == 0)]


CASES = cases()


def seeded_subset(size: int) -> list:
    """Draws equally many cases per algorithm, two of them with few channels."""
    rng, subset = random.Random(0), []
    for name in ALGORITHMS:
        of_name = [case for case in CASES if case[0] == name]
        rng.shuffle(of_name)
        of_name.sort(key=lambda case: case[1] in CHANNELS)  # stable: the few come last
        subset += of_name[:-(-size // (len(ALGORITHMS) - 1)) - 2] + of_name[-2:]
    return subset


@functools.lru_cache(maxsize=2)  # so that a row's reference is compiled once
def function(implementation, add, i):
    """Returns the function (x, w, b) -> y of row i."""
    (_, image, _), strides, padding, dilation, groups, spread = ROWS[i]
    rank = len(image)
    x_axes = (0, rank + 1, *range(1, rank + 1))
    numbers = lax.ConvDimensionNumbers(x_axes, (rank + 1, rank, *range(rank)), x_axes)
    return lambda x, w, b: add(
        implementation(x, w, strides, padding, spread, dilation, numbers, groups), b)


def check(name, i, dtype=None):
    (batch, image, kernel), *_, groups, _ = ROWS[i]
    # Each dtype gets all groups, whose period is 4. oneDNN has no float64.
    dtype = dtype or ("float32", "float64")[(i + i // 4) % 2 and name != "onednn"]
    if i in MISREAD:
        dtype = "float64"
    with jax.enable_x64(True):
        c, o = CHANNELS.get(i, (8, 8))
        shapes = (batch, *image, c), (*kernel, c // groups, o), (o,)
        args = [jnp.asarray(normal(i + j, *shape), dtype)
                for j, shape in enumerate(shapes)]
        reference = function(lax.conv_general_dilated, plain_add, i)
        if dtype == "bfloat16":  # autodiff would sum db in bfloat16, up to 6 % off
            reference = in_float32(reference)
        equivalent(function(conv_general_dilated(name), add_bias, i), reference, *args,
                   tolerance=TOLERANCE[dtype], seed=i)


def plain_add(y, b):
    return y + lax.broadcast_to_rank(b, y.ndim)


def in_float32(f):
    """Wraps f to compute in float32 and round once."""
    return lambda *args: f(*(a.astype(jnp.float32) for a in args)).astype(args[0].dtype)


def _skip_without_numba(name):
    if name == "numba":
        pytest.importorskip("numba")


@pytest.mark.parametrize("name, row", seeded_subset(27))
def test_seeded_subset(name, row):
    _skip_without_numba(name)
    check(name, row)


def pytest_generate_tests(metafunc):
    """Makes the tests of the full table only if slow tests run.

    Otherwise each process of the fast tests would collect them, which takes 2 seconds.
    """
    tables = {test_full_table: CASES,
              test_bfloat16_table: [case for case in CASES if case[1] % 13 == 0]}
    if cases := tables.get(metafunc.function):
        fast = metafunc.config.option.markexpr == "not slow"
        metafunc.parametrize("name, row", cases[:1] if fast else cases)


@pytest.mark.slow
def test_full_table(name, row):
    _skip_without_numba(name)
    check(name, row)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if name != "lax"])
def test_bfloat16(name):
    _skip_without_numba(name)
    check(name, 0, "bfloat16")


@pytest.mark.slow
def test_bfloat16_table(name, row):
    _skip_without_numba(name)
    check(name, row, "bfloat16")


@pytest.mark.parametrize("padding", [(-1, 1), (-2, 1), (-1, 2), (1, -1)])
@pytest.mark.parametrize("name", ["lax", "auto", "auto on a GPU", "im2col"])
def test_cut_below_and_padded_above(name, padding, monkeypatch):
    """Every name is correct where XLA is wrong in float32 (openxla/xla#48713).

    (1, -1) is such a padding in the input gradient.
    """
    if name == "auto on a GPU":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    x, w = (jnp.asarray(normal(i, *s), jnp.float32)
            for i, s in enumerate([(2, 7, 8, 8), (1, 1, 8, 8)]))
    f, specification = (functools.partial(
        correlate, padding=(padding, (0, 0)), implementation=n)
        for n in (name.split()[0], "loops"))
    equivalent(f, specification, x, w, tolerance=5e-6)


def test_size_of_the_table():
    assert len(TABLE) == 5 * 4 * 5 * 3 * 4 == 1200
    assert len(CASES) >= 3000 and sum(name == "auto" for name, _ in CASES) >= 1200
    assert {name for name, _ in seeded_subset(72)} == set(ALGORITHMS) - {"lax"}
    assert np.isclose(len(seeded_subset(72)), 72, atol=6)
    few = [name for name, i in seeded_subset(72) if i in CHANNELS]
    assert len(FEW) == 20 and set(few) == set(ALGORITHMS) - {"lax"}


def test_rows_with_few_channels_reach_their_rules():
    names = set()
    for i, (c, o) in CHANNELS.items():
        (batch, image, kernel), strides, padding, dilation, groups, _ = ROWS[i]
        spec = conv_spec((batch, *image, c), (*kernel, c, o), strides, padding, None,
                         dilation, groups)
        names |= {next(rule.__name__ for rule, _ in rules if rule(spec))
                  for rules in (auto.FORWARD, auto.INPUT_GRADIENT)}
    assert names >= {"few_channels", "one_channel_3x3", "is_narrow", "always"}
