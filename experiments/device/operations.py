"""Operations and their gradients on the device, compared with float64 on the CPU.

`cases` names every operation with operands for an image shape.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import ops

Case = tuple[Callable[..., Any], tuple[np.ndarray, ...]]
CONV = functools.partial(ops.correlate, padding="SAME")
SHAPES = [(2, 6, 5, 4), (8, 14, 15, 32)]  # [N, H, W, C], C even
PYTHON = ("loops", "numba")  # convolutions that Python computes on the host


class Precision(NamedTuple):
    """How an operation is computed, and the largest error allowed."""

    dtype: Any
    matmul: str | None  # `jax.default_matmul_precision`
    tolerance: float    # max |a - b| / max |b|


# A GPU multiplies float32 as TF32 by default (10 bits), a TPU as bfloat16 (7 bits).
# On a CPU the errors are below 2e-6, 2e-6, and 6e-3; in bfloat16 0.07 for the gradients
# of batch_norm_inference, which are sums of bfloat16.
PRECISIONS = {"float32, highest": Precision(jnp.float32, "highest", 1e-4),
              "float32": Precision(jnp.float32, None, 3e-2),
              "bfloat16": Precision(jnp.bfloat16, None, 1e-1)}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def distinct(seed: int, *shape: int) -> np.ndarray:
    """Draws values at least 0.1 apart, so that no finite step changes a maximum."""
    size = int(np.prod(shape))
    return np.random.default_rng(seed).permutation(size).reshape(shape) * .1 - size / 20


def conv_case(shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    return normal(0, *shape), normal(1, 3, 3, shape[-1], 2), normal(2, 2)


def numbered(x: jax.Array, implementation: str) -> jax.Array:
    """Multiplies each maximum by the number of its pixel, so that one array has both.
    """
    y, pixel = ops.max_pool_with_indices(x, 3, 2, "SAME", implementation=implementation)
    return y * (1 + pixel)


def cases(shape: tuple[int, ...]) -> dict[str, Case]:
    """Returns {name: (function of arrays, arrays)}."""
    x, c = normal(0, *shape), shape[-1]
    n, m = shape[0], shape[2]  # rows and classes
    channel = normal(3, c), normal(4, c)
    table: dict[str, Case] = {
        f"conv {name}": (functools.partial(CONV, implementation=name), conv_case(shape))
        for name in ops.ALGORITHMS if name not in PYTHON}
    table |= {
        "conv stride dilation groups": (
            functools.partial(CONV, strides=(2, 1), dilation=(1, 2), groups=2),
            (x, normal(1, 3, 2, c // 2, 4))),
        "conv_general_dilated": (  # channels first
            lambda x, w: ops.conv_general_dilated("taps")(x, w, (1, 1), "SAME"),
            (x, normal(1, 2, shape[1], 3, 3))),
        "convolve": (functools.partial(ops.convolve, padding=2), conv_case(shape)),
        "conv_transpose": (
            functools.partial(ops.conv_transpose, strides=2, output_padding=1),
            (x, normal(1, 3, 2, 3, c), normal(2, 3))),
        "depthwise": (functools.partial(ops.depthwise_conv, padding="SAME"),
                      (x, normal(1, 3, 3, 1, 2 * c))),
        "pointwise": (ops.pointwise_conv, (x, normal(1, c, 3))),
        "separable": (functools.partial(ops.separable_conv, padding="SAME", strides=2),
                      (x, normal(1, 3, 3, 1, c), normal(2, c, 3), normal(3, 3))),
        "global_avg_pool": (ops.global_avg_pool, (x,)),
        "global_max_pool": (ops.global_max_pool, (distinct(0, *shape),)),
        "batch_norm": (lambda *a: ops.batch_norm(*a)[0],
                       (normal(0, 3, *shape[1:]), *channel)),
        "batch_norm mean": (lambda *a: ops.batch_norm(*a)[1], (x, *channel)),
        "batch_norm var": (lambda *a: ops.batch_norm(*a)[2], (x, *channel)),
        "batch_norm groups": (lambda *a: ops.batch_norm(*a, groups=2)[0],
                              (normal(0, 4, *shape[1:]), *channel)),
        "batch_norm_inference": (
            ops.batch_norm_inference,
            (x, normal(5, c), normal(6, c) ** 2 + 1, *channel)),
        "group_norm": (functools.partial(ops.group_norm, groups=2), (x, *channel)),
        "layer_norm": (ops.layer_norm, (x, *channel)),
        "local_response_norm": (
            functools.partial(ops.local_response_norm, alpha=.5), (x,)),
        "add_bias": (ops.add_bias, (x, normal(2, c))),
        "dense": (ops.dense, (normal(0, n, c), normal(1, c, m), normal(2, m))),
        "cross entropy": (lambda z: ops.softmax_cross_entropy(
            z, np.arange(n) % m), (normal(0, n, m),)),
        "cross entropy soft": (
            ops.softmax_cross_entropy, (normal(0, n, m), normal(1, n, m) ** 2)),
    }
    for name in ops.POOLS:
        pools = {
            "avg_pool": functools.partial(ops.avg_pool, window=3, strides=2,
                                          count_include_pad=False),
            "max_pool": functools.partial(ops.max_pool, window=3, strides=2),
            "max_pool disjoint": functools.partial(ops.max_pool, window=2),
            "avg_pool dilated": functools.partial(ops.avg_pool, window=3, strides=1,
                                                  dilation=2),
            "max_pool dilated": functools.partial(ops.max_pool, window=3, strides=1,
                                                  dilation=2)}
        table |= {f"{pool} {name}": (
            functools.partial(f, padding="SAME", implementation=name),
            (distinct(0, *shape),)) for pool, f in pools.items()}
        table[f"max_pool_with_indices {name}"] = (
            functools.partial(numbered, implementation=name), (distinct(0, *shape),))
    return table


def names() -> list[str]:
    """Lists the operations that a device computes by itself, each once."""
    return [name for name in cases(SHAPES[0])
            if not name.endswith((" loops", " onednn"))]  # onednn is for CPUs


def value_and_gradients(f: Callable[..., jax.Array], u: np.ndarray,
                        *args: jax.Array) -> tuple[jax.Array, ...]:
    """Computes f and its gradients under the cotangent u."""
    y, vjp = jax.vjp(f, *args)
    return y, *vjp(jnp.asarray(u, y.dtype))


def run(program: Callable[..., Any], u: np.ndarray, args: list[np.ndarray],
        device: jax.Device, matmul: str | None) -> list[np.ndarray]:
    """Runs `value_and_gradients` on a device, of operands in their own dtype."""
    with jax.default_device(device), jax.default_matmul_precision(matmul):
        actual = program(u, *map(jnp.asarray, args))
        return [np.asarray(value, np.float64) for value in actual]


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Computes max |a - b| / max |b|; NaN where a is not finite."""
    scale = np.abs(expected).max()
    return float(np.abs(actual - expected).max() / (scale if scale > 1e-9 else 1.0))


def check(name: str, shape: tuple[int, ...], device: jax.Device) -> dict[str, Any]:
    """Compares an operation with float64, in each precision; returns a row.

    The reference starts from the operands as the precision rounds them, so the error
    is that of the computation alone.
    """
    f, args = cases(shape)[name]
    cpu = jax.local_devices(backend="cpu")[0]
    program = jax.jit(functools.partial(value_and_gradients, f))
    errors: dict[str, float] = {}
    wrong = []
    for precision, (dtype, matmul, tolerance) in PRECISIONS.items():
        rounded = [np.asarray(a).astype(dtype) for a in args]
        with jax.enable_x64(True):
            wide = [np.asarray(a, np.float64) for a in rounded]
            u = normal(7, *jax.eval_shape(f, *wide).shape)
            u = u.astype(dtype).astype(np.float64)
            expected = run(program, u, wide, cpu, "highest")
        actual = run(program, u, rounded, device, matmul)
        errors[precision] = max(map(relative_error, actual, expected))
        if not errors[precision] <= tolerance:
            wrong.append(f"error {errors[precision]:.1e} in {precision}, at most "
                         f"{tolerance:g}")
    return {"name": f"{name} {'x'.join(map(str, shape))}", "errors": errors,
            "wrong": "; ".join(wrong)}
