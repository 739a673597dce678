"""Checks hand-written backward passes in two ways; test_gradcheck.py tests the checks.

`finite_differences` needs no other implementation, but cannot judge ties. `equivalent`
compares with an implementation that is known to be correct, ties included.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

# Tests run thousands of small programs once, so they compile fast rather than well.
FAST_COMPILE = {"xla_backend_optimization_level": 0}


def compiled(f):
    return jax.jit(f, compiler_options=FAST_COMPILE)


def normal(seed: int, *shape, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def relative_error(a, b) -> float:
    """Computes max |a - b| / max |b|, the measure of the whole project."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape, (a.shape, b.shape)
    if not a.size:
        return 0.
    assert np.isfinite(a).all() == np.isfinite(b).all()
    scale = np.abs(b).max()
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which no tolerance allows
        return float(np.abs(a - b).max() / (scale if scale > 1e-9 else 1.))


def finite_differences(f, *args, order: int = 1, seed: int = 0, step: float = 1e-5,
                       tolerance: float = 1e-6) -> None:
    """Raises AssertionError if a gradient of f is not the slope of f, in float64.

    f maps float64 arrays to one array; u and v are random directions. For each argument
    x,  <dx(u), v>  must equal  (<f(x + h v), u> - <f(x - h v), u>) / 2h.  Each argument
    is checked separately, so that a large gradient of one does not hide an error in
    another. Order 2 checks the gradients of the gradients in the same way.
    """
    with jax.enable_x64(True):
        args = [jnp.asarray(a) for a in args]
        assert all(a.dtype == jnp.float64 for a in args), [a.dtype for a in args]
        _check(f, args, order, np.random.default_rng(seed), step, tolerance)


@functools.cache
def _value_and_gradients(f):
    return compiled(f), compiled(lambda u, *args: jax.vjp(f, *args)[1](u))


def _check(f, args, order, rng, step, tolerance):
    value, gradients = _value_and_gradients(f)
    u = jnp.asarray(rng.normal(size=jax.eval_shape(f, *args).shape))
    for i, (x, dx) in enumerate(zip(args, gradients(u, *args))):
        v = jnp.asarray(rng.normal(size=x.shape))
        ahead, behind = (value(*args[:i], x + h * v, *args[i + 1:])
                         for h in (step, -step))
        slope = float(jnp.vdot(ahead - behind, u)) / (2 * step)
        claimed = float(jnp.vdot(dx, v))
        assert abs(slope - claimed) <= tolerance * max(1., abs(slope)), (
            f"argument {i} {x.shape}, order {order}: the gradient says {claimed}, "
            f"finite differences {slope}")
    if order > 1:
        for i in range(len(args)):
            _check(lambda *args, i=i: jax.vjp(f, *args)[1](u)[i], args, order - 1, rng,
                   step, tolerance)


@functools.lru_cache(maxsize=8)
def _passes(f):
    def run(u, *args):
        y, vjp = jax.vjp(f, *args)
        return y, *vjp(u)
    return compiled(run)


def equivalent(f, reference, *args, tolerance: float, seed: int = 0) -> float:
    """Raises AssertionError if f and reference differ in value or in any gradient.

    Returns the largest relative error found, over the value and all gradients.
    """
    args = [jnp.asarray(a) for a in args]
    y = jax.eval_shape(reference, *args)
    u = jnp.asarray(np.random.default_rng(seed).normal(size=y.shape), y.dtype)
    actual, expected = _passes(f)(u, *args), _passes(reference)(u, *args)
    errors = [relative_error(a, b) for a, b in zip(actual, expected)]
    worst = float(np.max(errors))  # NaN where any of them is
    assert worst <= tolerance, (
        f"relative errors of value and gradients {errors}, allowed {tolerance}")
    assert [a.dtype for a in actual] == [b.dtype for b in expected]
    return worst
