"""`jax.jit` for programs that run once on tiny images: nearly all of their time is
compiling, so they are compiled with little optimisation."""

import functools

import jax

quick_jit = functools.partial(jax.jit, compiler_options={
    "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})
