"""Compares random convolutions by oneDNN with NumPy, as a module and as a program.

    python fuzz_onednn.py COUNT SEED [winograd | im2col]

The program ends with code 0 if the three passes of COUNT random problems are correct,
and batch norm's sums over the output and over its cotangent too. Tests also run it with
an allocator that detects writes beyond an array. The operands end just before a page
that must not be read. With `winograd`, it draws only problems of Winograd's method and
solves each with both tile sizes, whatever their cost; with `im2col`, problems of one
group, which im2col solves.
"""

import ctypes
import mmap
import sys
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from tests.support.gradcheck import compiled
from threadpoolctl import threadpool_limits

from cnn_jax.native import convolution, cost, library
from cnn_jax.native.moments import sums_p
from cnn_jax.ops.conv import ConvSpec, conv_spec, select

TOLERANCE = {"float32": 5e-6, "bfloat16": 2e-2}  # of max |a - b| / max |b|
PROT_NONE = 0


def problem(rng: np.random.Generator, dtype) -> ConvSpec:
    """Draws one to three axes, up to about 10,000 products a pixel, and any options."""
    while True:
        rank = int(rng.choice([1, 2, 2, 2, 3]))
        most = (40, 18, 8)[rank - 1]
        image = rng.integers(1, most, rank)
        kernel = rng.integers(1, 6, rank)
        groups = int(rng.choice([1, 1, 1, 2, 3, 8, 16, 17]))
        inputs, outputs = (int(rng.choice([1, 1, 2, 3, 7, 8, 16, 20])) for _ in "io")
        spec = conv_spec(
            (int(rng.choice([1, 2, 3, 4, 5, 9])), *map(int, image), inputs * groups),
            (*map(int, kernel), inputs, outputs * groups),
            tuple(map(int, rng.integers(1, 5, rank))),
            tuple(map(tuple, rng.integers(0, 5, (rank, 2)).tolist())), None,
            tuple(map(int, rng.integers(1, 4, rank))), groups)
        if convolution.supports(spec, jnp.dtype(dtype)):
            return spec


def winograd_problem(rng: np.random.Generator) -> ConvSpec:
    """Draws 3 x 3 kernels of stride 1, any padding, channels in multiples of 16."""
    while True:
        image = map(int, rng.integers(1, 20, 2))
        channels, outputs = (16 * int(rng.integers(1, 8)) for _ in "co")
        padding = tuple(map(tuple, rng.integers(0, 5, (2, 2)).tolist()))
        spec = conv_spec((int(rng.choice([1, 2, 3, 4, 5, 9])), *image, channels),
                         (3, 3, channels, outputs), 1, padding)
        if convolution.supports(spec, jnp.dtype("float32")):
            return spec


def at_the_end_of_a_page(array: np.ndarray) -> jax.Array:
    """Copies an array to the end of a page, before a page that must not be read.

    Up to 63 bytes lie between them, because JAX copies an array whose address is not a
    multiple of 64.
    """
    room = -(-array.nbytes // 64) * 64
    pages = -(-room // mmap.PAGESIZE) + 1
    region = mmap.mmap(-1, pages * mmap.PAGESIZE)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    last = start + (pages - 1) * mmap.PAGESIZE
    if ctypes.CDLL(None, use_errno=True).mprotect(
            ctypes.c_void_p(last), mmap.PAGESIZE, PROT_NONE):
        raise OSError(ctypes.get_errno(), "mprotect")
    offset = (pages - 1) * mmap.PAGESIZE - room
    copy = np.frombuffer(region, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    on_device = jax.device_put(copy)
    assert on_device.unsafe_buffer_pointer() == copy.ctypes.data
    return on_device


@threadpool_limits.wrap(limits=1)  # BLAS's threads would compete with XLA's
def by_numpy(x, w, g, spec: ConvSpec):
    """Computes y, dx and dw in float64: sums over the taps of products per group."""
    x, w, g = (np.asarray(a, np.float64) for a in (x, w, g))
    n, groups, axes = x.shape[0], spec.groups, range(len(spec.kernel))
    padded = np.pad(x, [(0, 0), *spec.padding, (0, 0)])
    y, dx, dw = np.zeros_like(g), np.zeros_like(padded), np.zeros_like(w)

    def by_group(a):
        """Reshapes [..., G c] to [G, M, c]."""
        parts = a.reshape(-1, groups, a.shape[-1] // groups).swapaxes(0, 1)
        return np.ascontiguousarray(parts)  # BLAS needs it

    def together(a, shape):
        return a.swapaxes(0, 1).reshape(shape)

    gs = by_group(g)
    for tap in spec.taps:
        seen = (slice(0, n), *(slice(
            tap[i] * spec.rhs_dilation[i],
            tap[i] * spec.rhs_dilation[i] + spec.strides[i] * (spec.out[i] - 1) + 1,
            spec.strides[i]) for i in axes))
        xs, ws = by_group(padded[seen]), by_group(w[tap])
        y += together(xs @ ws, y.shape)
        dx[seen] += together(gs @ ws.swapaxes(1, 2), padded[seen].shape)
        dw[tap] = together(xs.swapaxes(1, 2) @ gs, w[tap].shape)
    inside = (slice(0, n), *(slice(lo, lo + size) for (lo, _), size in zip(
        spec.padding, spec.x_shape[1:-1])))
    return y, dx[inside], dw


def by_onednn(x, w, g, spec: ConvSpec):
    algorithm = select("auto", spec, x.dtype)

    @compiled
    def passes(x, w, g):
        return (algorithm.forward(x, w, spec), algorithm.input_gradient(g, w, spec),
                algorithm.weight_gradient(x, g, spec))
    return passes(x, w, g)


def handler(spec: ConvSpec, result: tuple[int, ...], *operands, kind=0, method=0):
    """Calls the library's handler without Python's checks."""
    low, high = zip(*spec.padding)
    numbers = {"strides": spec.strides, "low": low, "high": high,
               "dilation": spec.rhs_dilation, "kind": kind, "groups": spec.groups,
               "method": method}
    shape = jax.ShapeDtypeStruct(result, operands[0].dtype)
    return jax.ffi.ffi_call(library.TARGET, shape)(*operands, **{
        name: np.int64(value) for name, value in numbers.items()})


def check(spec: ConvSpec, dtype, rng: np.random.Generator, sums: bool = False) -> None:
    """Raises an AssertionError that names the problem if a pass is wrong.

    sums: whether to check the sums of batch norm too, in float32.

    The error is max |a - b| / max(max |b|, m / 10). m is the largest sum of the
    absolute products; it is needed because b itself may nearly vanish.
    """
    arrays = [at_the_end_of_a_page(np.asarray(
        rng.normal(size=shape), jnp.dtype(dtype)))
        for shape in (spec.x_shape, spec.w_shape, spec.y_shape)]
    expected = by_numpy(*arrays, spec)
    sizes = by_numpy(*map(np.abs, arrays), spec)
    for name, actual, right, size in zip(("y", "dx", "dw"), by_onednn(*arrays, spec),
                                         expected, sizes):
        assert actual.dtype == dtype and actual.shape == right.shape, (name, spec)
        error = np.abs(np.asarray(actual, np.float64) - right).max() / max(
            np.abs(right).max(), size.max() / 10, 1e-9)
        assert error <= TOLERANCE[dtype], (name, error, dtype, spec)
    if sums and dtype == "float32":
        y = np.float32(expected[0])
        mean = y.reshape(-1, y.shape[-1]).mean(0)
        check_sums(arrays[2], at_the_end_of_a_page(y), at_the_end_of_a_page(mean))


def check_sums(a, b, center) -> None:
    actual = compiled(sums_p.bind)(a, b, center)
    a, b, center = (np.asarray(one, np.float64) for one in (a, b, center))
    for name, one, products in zip(("sum", "product"), actual, (a, a * (b - center))):
        axes = tuple(range(products.ndim - 1))
        error = np.abs(one - products.sum(axes))
        assert (error <= 2e-6 * np.abs(products).sum(axes)).all(), (name, a.shape)


def fuzz(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    dtypes = ["float32"] * 3 + ["bfloat16"] * library.load().bfloat16
    for i in range(count):
        dtype = dtypes[i % len(dtypes)]
        check(problem(rng, dtype), dtype, rng, sums=True)
        if i % 500 == 499:
            jax.clear_caches()  # each problem is another program


def fuzz_winograd(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    for i in range(count):
        only = {(2, 4)[i % 2]: cost.Cost(0, 0, 0, 0)}
        dtype = "bfloat16" if i % 5 == 4 and library.load().bfloat16 else "float32"
        with mock.patch.object(cost, "COSTS", only):
            check(winograd_problem(rng), dtype, rng)
        if i % 500 == 499:
            jax.clear_caches()


def fuzz_im2col(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    with (mock.patch.object(cost, "prefers_im2col", lambda *_: True),
          mock.patch.object(cost, "COSTS", {0: cost.Cost(0, 0, 0, 0)})):
        for i in range(count):
            dtype = "bfloat16" if i % 3 == 2 and library.load().bfloat16 else "float32"
            check(one_group(problem(rng, dtype), rng), dtype, rng)
            if i % 500 == 499:
                jax.clear_caches()


def one_group(spec: ConvSpec, rng: np.random.Generator) -> ConvSpec:
    """Replaces groups and channels: from one to more than a tile of the product."""
    channels, outputs = map(int, rng.choice([1, 3, 8, 16, 33, 70, 130, 256], 2))
    return spec._replace(groups=1, x_shape=(*spec.x_shape[:-1], channels),
                         w_shape=(*spec.w_shape[:-2], channels, outputs))


if __name__ == "__main__":
    run = {"winograd": fuzz_winograd, "im2col": fuzz_im2col}.get("".join(sys.argv[3:]),
                                                                  fuzz)
    run(int(sys.argv[1]), int(sys.argv[2]))
    print(f"{sys.argv[1]} problems, seed {sys.argv[2]}: right")
