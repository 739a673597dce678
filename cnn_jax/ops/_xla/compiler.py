"""What keeps XLA from slow choices on a CPU: a compiler option, and a border that its
fusions do not cross."""

import functools
import logging

import jax
from jax import lax
from jax.experimental.xla_metadata import set_xla_metadata

# Since jaxlib 0.10 XLA sends convolutions, dots and reductions on a CPU to YNNPACK. For
# spatial convolutions its older path is 1.3 to 2.4 times faster; the others stay.
YNN_OPTION = "xla_cpu_experimental_ynn_fusion_type"
YNN_FUSIONS = "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE"


@functools.cache
def compiler_options() -> dict[str, str]:
    """What to pass as `jax.jit(f, compiler_options=...)` or `lower().compile(...)`.

    {} on a GPU or TPU, and on a CPU whose jaxlib does not know the (experimental)
    option, which is tried once with a tiny program.
    """
    if jax.default_backend() != "cpu":
        return {}
    options = {YNN_OPTION: YNN_FUSIONS}
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.).compile()
    except Exception as error:  # jaxlib's error type for an unknown option varies
        logging.getLogger(__name__).warning(
            "this jaxlib does not take the compiler option %s, convolutions may run "
            "slower: %s", YNN_OPTION, str(error).partition("\n")[0])
        return {}
    return options


def computed_once(x: jax.Array) -> jax.Array:
    """x, on a CPU stored: XLA computes cheap values again in every loop that reads
    them, as often as that reads them. (It takes `lax.optimization_barrier` away before
    it fuses; a call that it must not inline stays, and costs nothing.)
    """
    return lax.platform_dependent(x, cpu=_stored, default=lambda x: x)


def _stored(x):
    with set_xla_metadata(inlineable="false"):
        return _border(x)


_border = jax.jit(lax.optimization_barrier)
