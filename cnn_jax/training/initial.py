"""Computes initial values without compiling a program for each network.

Initial values are independent draws, hundreds in a deep network. Compiled as one
program they took longer than all else before the first step (25 s for DenseNet-121).
Here the equations of that program run one by one. A draw runs a compiled program for
its distribution and for its number of values, rounded up to a power of four. So
networks share these programs.

The values of every initializer in `layers` equal those of the whole program, bit for
bit: JAX's generator computes value i of a draw from the key and i alone, so a draw is a
prefix of a longer one with the same key (`jax_threefry_partitionable`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
from jax.extend import core
import jax.numpy as jnp
import numpy as np

ROUNDED = {"mul": np.multiply, "div": np.divide, "add": np.add, "sub": np.subtract,
           "sqrt": np.sqrt}
LARGEST = 4 ** 10  # values: larger draws are few, and have programs of their own


class InitProgram(NamedTuple):
    """A function without arguments that draws initial values."""

    code: core.ClosedJaxpr
    shapes: Any  # its result, with jax.ShapeDtypeStruct instead of arrays

    def run(self) -> Any:
        """Computes the result, as NumPy arrays."""
        jaxpr = self.code.jaxpr
        values = dict(zip(jaxpr.constvars, self.code.consts))

        def read(atom: Any) -> Any:
            return atom.val if isinstance(atom, core.Literal) else values[atom]

        for equation in needed(jaxpr):
            operands = [read(atom) for atom in equation.invars]
            results = compute(equation, operands) or by_jax(jaxpr, equation, operands)
            values.update(zip(equation.outvars, results))
        leaves = [np.asarray(drawn(read(atom))) for atom in jaxpr.outvars]
        return jax.tree.unflatten(jax.tree.structure(self.shapes), leaves)


def trace(function: Callable[[], Any]) -> InitProgram:
    """Traces a function without arguments."""
    return InitProgram(*jax.make_jaxpr(function, return_shape=True)())


def needed(jaxpr: core.Jaxpr) -> list[core.JaxprEqn]:
    """Lists the equations that the results depend on, so not the forward pass."""
    needed_ids = set(map(id, jaxpr.outvars))
    equations = []
    for equation in reversed(jaxpr.eqns):
        if needed_ids.intersection(map(id, equation.outvars)):
            needed_ids.update(map(id, equation.invars))
            equations.append(equation)
    return equations[::-1]


def by_jax(jaxpr: core.Jaxpr, equation: core.JaxprEqn,
           operands: list[Any]) -> list[Any]:
    """Computes the results of any equation by compiling it."""
    inputs = {atom: drawn(value) for atom, value in zip(equation.invars, operands)
             if not isinstance(atom, core.Literal)}
    single = jaxpr.replace(constvars=[], invars=list(inputs), outvars=equation.outvars,
                           eqns=[equation])
    return core.jaxpr_as_fun(core.ClosedJaxpr(single, ()))(*inputs.values())


def compute(equation: core.JaxprEqn, operands: list[Any]) -> list[Any] | None:
    """Computes the results without compiling for each shape, or returns None.

    NumPy rounds these operations as XLA does: to the nearest number.
    """
    name, result = equation.primitive.name, cast(Any, equation.outvars[0].aval)
    shape, dtype = result.shape, result.dtype
    if name == "broadcast_in_dim" and np.ndim(operands[0]) == 0:
        return [np.full(shape, operands[0], dtype)]
    if name == "mul":
        for draw, factor in (operands, operands[::-1]):
            is_normal = isinstance(draw, Draw) and draw.kind == "_normal"
            if is_normal and not np.ndim(factor):
                return [draw.array(float(factor))]
    if name in ROUNDED:
        return [ROUNDED[name](*(np.asarray(drawn(x), dtype) for x in operands))]
    kind = str(equation.params.get("name"))
    if kind in DRAWS and is_prefix_stable(operands[0]):
        return [Draw(kind, operands[0], tuple(map(float, operands[1:])), shape, dtype)]
    return None


class Draw(NamedTuple):
    """A draw, not yet made."""

    kind: str  # in DRAWS
    key: jax.Array
    limits: tuple[float, ...]
    shape: tuple[int, ...]
    dtype: Any

    def array(self, factor: float | None = None) -> np.ndarray:
        """Makes the draw and multiplies it by the factor.

        XLA folds the two constants of a scaled normal draw, sqrt(2) and the factor,
        into one. So the program of the draw includes the factor, for the same bits.
        """
        size = int(np.prod(self.shape))
        values = _draw(self.key, self.kind, self.limits, rounded_up(size), self.dtype,
                       factor)
        return np.asarray(values)[:size].reshape(self.shape)


def drawn(value: Any) -> Any:
    """Makes the draw of a `Draw`; returns anything else as it is."""
    return value.array() if isinstance(value, Draw) else value


def is_prefix_stable(key: Any) -> bool:
    """Tells whether value i of a draw depends only on the key and i."""
    return (jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
            and str(jax.random.key_impl(key)) in ("threefry2x32", "fry")
            and bool(jax.config.values["jax_threefry_partitionable"]))


def rounded_up(size: int) -> int:
    """Rounds a number of values up to a power of four, so that few programs differ."""
    if size > LARGEST:
        return size
    count = 4 ** 5
    while count < size:
        count *= 4
    return count


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _draw(key: jax.Array, kind: str, limits: tuple[float, ...], count: int, dtype: Any,
          factor: float | None) -> jax.Array:
    """Draws `count` values; limits and factor are constants, as in a whole program."""
    values = DRAWS[kind](key, limits, count, dtype)
    return values if factor is None else values * jnp.asarray(factor, dtype)


# By the name of the jitted function in jax.random.
DRAWS: dict[str, Callable[..., jax.Array]] = {
    "_uniform": lambda key, limits, count, dtype: jax.random.uniform(
        key, (count,), dtype, limits[0], limits[1]),
    "_normal": lambda key, limits, count, dtype: jax.random.normal(
        key, (count,), dtype),
    "_truncated_normal": lambda key, limits, count, dtype: jax.random.truncated_normal(
        key, limits[0], limits[1], (count,), dtype),
}
