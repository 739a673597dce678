"""Keeps XLA from slow choices on a CPU: a compiler option and a barrier to fusion."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

# Since jaxlib 0.10 XLA sends convolutions, dots and reductions on a CPU to YNNPACK. Its
# older path is 1.3 to 2.4 times faster for spatial convolutions, so this option leaves
# only dots and reductions to YNNPACK.
YNN_OPTION = "xla_cpu_experimental_ynn_fusion_type"
YNN_FUSIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
# `jax.checkpoint` puts a barrier before the part that the gradient recomputes. Unless
# this pass is off, XLA on a CPU removes the barrier, recomputes early and saves no
# memory.
REMAT_OPTION = {"xla_disable_hlo_passes": "cse_barrier_expander"}


@functools.cache
def compiler_options(remat: bool = False) -> dict[str, str]:
    """Returns the `compiler_options` for `lower().compile()` on this machine.

    They are {} on a GPU or TPU, and where jaxlib does not know the experimental option
    (compiling a tiny program once finds that out).
    remat: whether the program has a `jax.checkpoint` that must save memory.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {YNN_OPTION: YNN_FUSIONS} | (REMAT_OPTION if remat else {})
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.).compile()
    except Exception as error:  # jaxlib's error type for an unknown option varies
        logging.getLogger(__name__).warning(
            "this jaxlib does not take the compiler option %s, convolutions may run "
            "slower: %s", YNN_OPTION, str(error).partition("\n")[0])
        return {}
    return options


def jit(function: Callable, **options: Any) -> Callable:
    """Compiles like `jax.jit`, with the compiler options of this machine."""
    return jax.jit(function, compiler_options=compiler_options(), **options)


def materialize(x: jax.Array) -> jax.Array:
    """Materializes x on CPU.

    Otherwise XLA fuses its producer into every consumer and recomputes it. (XLA removes
    a bare `lax.optimization_barrier` before it fuses. It keeps one inside a call that
    it must not inline, which costs nothing.)
    """
    return lax.platform_dependent(x, cpu=_not_inlined, default=lambda x: x)


def _not_inlined(x: jax.Array) -> jax.Array:
    with set_xla_metadata(inlineable="false"):
        return _barrier(x)


_barrier = jax.jit(lax.optimization_barrier)
