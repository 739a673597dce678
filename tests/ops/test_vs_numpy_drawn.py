"""Convolution and pooling equal NumPy over windows, with random options."""

import numpy as np
import pytest

from cnn_jax import ops
from tests.support.gradcheck import compiled, relative_error

# 'winograd' takes no stride.
OTHERS = [name for name in ops.ALGORITHMS if name not in ("loops", "auto", "winograd")]


def pairs(n, kernel, stride, dilation, padding) -> tuple[int, int]:
    """Converts 'SAME', 'VALID' or (low, high) of an axis to (low, high)."""
    if padding == "VALID":
        return 0, 0
    if padding == "SAME":
        total = max((-(-n // stride) - 1) * stride + dilation * (kernel - 1) + 1 - n, 0)
        return total // 2, total - total // 2
    return padding


def windows(x, kernel, strides, padding, dilation=(1, 1), fill=0.):
    """Gathers the pixels of each of P x Q windows of x, as [N, P, Q, kh, kw, C]."""
    low_high = [pairs(*axis) for axis in zip(
        x.shape[1:3], kernel, strides, dilation, padding)]
    x = np.pad(x, ((0, 0), *low_high, (0, 0)), constant_values=fill)
    reach = [d * (k - 1) + 1 for k, d in zip(kernel, dilation)]
    out = [max(0, (n - r) // s + 1) for n, r, s in zip(x.shape[1:3], reach, strides)]
    seen = np.zeros((len(x), *out, *kernel, x.shape[-1]))
    for i, j in np.ndindex(*out):
        top, left = i * strides[0], j * strides[1]
        seen[:, i, j] = x[:, top:top + reach[0]:dilation[0],
                          left:left + reach[1]:dilation[1]]
    return seen


def drawn_options(seed: int):
    """Returns (draw, image [N, H, W, 4], kernel size, strides, padding).

    Every fifth image has one pixel, every third batch one image.
    """
    draw = np.random.default_rng(seed)
    size = (1, 1) if seed % 5 == 0 else draw.integers(1, 9, 2)
    kernel, strides = draw.integers(1, 4, 2), draw.integers(1, 4, 2)
    explicit = [tuple(draw.integers(0, k, 2).tolist()) for k in kernel]
    padding = [("SAME", "SAME"), ("VALID", "VALID"), explicit][draw.integers(3)]
    x = draw.normal(size=(1 + seed % 3, *size, 4)).astype(np.float32)
    return draw, x, kernel.tolist(), strides.tolist(), padding


def as_option(padding):
    return padding[0] if isinstance(padding[0], str) else padding


@pytest.mark.parametrize("seed", range(10))
def test_convolution_equals_numpy(seed):
    """Each seed checks 'loops', 'auto' and one of the other algorithms, in turn."""
    draw, x, kernel, strides, padding = drawn_options(seed)
    dilation, groups = draw.integers(1, 4, 2).tolist(), int(draw.choice([1, 2, 4]))
    w = draw.normal(size=(*kernel, 4 // groups, 4)).astype(np.float32)
    seen = windows(x, kernel, strides, padding, dilation)
    expected = np.zeros((*seen.shape[:3], 4))
    for o in range(4):
        first = o // (4 // groups) * (4 // groups)  # the first channel of its group
        channels = seen[..., first:first + 4 // groups]
        expected[..., o] = (channels * w[..., o]).sum((3, 4, 5))
    for name in ("loops", "auto", OTHERS[seed % len(OTHERS)]):
        if name == "numba":
            pytest.importorskip("numba")
        y = compiled(lambda x, w: ops.correlate(
            x, w, strides=strides, padding=as_option(padding), dilation=dilation,
            groups=groups, implementation=name))(x, w)
        assert relative_error(y, expected) <= 1e-5, name


@pytest.mark.parametrize("seed", range(10))
def test_pooling_equals_numpy(seed):
    _, x, window, strides, padding = drawn_options(seed)
    seen = windows(x, window, strides, padding, fill=np.nan)  # NaN: outside the image
    expected = {"max": np.nanmax(seen, (3, 4)), "inside": np.nanmean(seen, (3, 4)),
                "all": np.nansum(seen, (3, 4)) / np.prod(window)}
    options = {"window": window, "strides": strides, "padding": as_option(padding)}
    for name in ops.POOLS:
        @compiled
        def pooled(x):
            return {"max": ops.max_pool(x, **options, implementation=name),
                    "inside": ops.avg_pool(x, **options, implementation=name,
                                           count_include_pad=False),
                    "all": ops.avg_pool(x, **options, implementation=name)}
        for kind, y in pooled(x).items():
            assert relative_error(y, expected[kind]) <= 1e-6, (name, kind)
