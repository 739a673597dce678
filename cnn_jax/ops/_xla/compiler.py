"""Keeps XLA from slow choices on a CPU: a compiler option and a barrier to fusion."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

# Since jaxlib 0.10 XLA sends convolutions, dots and reductions on a CPU to YNNPACK. For
# spatial convolutions its older path is 1.3 to 2.4 times faster; only they leave it.
YNN_OPTION = "xla_cpu_experimental_ynn_fusion_type"
YNN_FUSIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"
# `jax.checkpoint` puts a barrier before what the gradient computes again. On a CPU XLA
# removes it, then schedules that early and saves no memory, unless this pass is off.
REMAT_OPTION = {"xla_disable_hlo_passes": "cse_barrier_expander"}


@functools.cache
def compiler_options(remat: bool = False) -> dict[str, str]:
    """Returns what `lower().compile(compiler_options=...)` should receive; see `jit`.

    It is {} on a GPU or TPU, and on a CPU whose jaxlib does not know the experimental
    option. A tiny program finds that out once.
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
    `lax.optimization_barrier` before it fuses; a call that it must not inline stays,
    and costs nothing.)
    """
    return lax.platform_dependent(x, cpu=_not_inlined, default=lambda x: x)


def _not_inlined(x: jax.Array) -> jax.Array:
    with set_xla_metadata(inlineable="false"):
        return _barrier(x)


_barrier = jax.jit(lax.optimization_barrier)
