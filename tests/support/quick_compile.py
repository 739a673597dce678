"""Makes XLA compile fast, for programs that run only once on tiny images.

With `QUICK_FLAGS` in XLA_FLAGS, a training step of a small network compiles nine times
as fast as by default (jax 0.10). tests/conftest.py sets it, but not for slow tests.
"""

import functools
import os

import jax
import jax.numpy as jnp

QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
quick_jit = functools.partial(jax.jit, compiler_options=QUICK)
# XLA ends a process that passes an unknown flag. Since jax 0.11 it always uses the
# emitters, and has no flag for them.
CHOOSES_EMITTERS = jax.__version_info__ < (0, 11)
# Without the emitters, two programs of one formula may round differently. These options
# fuse as by default, for tests that compare bits.
FUSED = {"xla_cpu_use_fusion_emitters": True} if CHOOSES_EMITTERS else {}
# Other tests use the other cores, so a program is not split to compile in parallel.
QUICK_FLAGS = ("--xla_backend_optimization_level=0 "
               "--xla_llvm_disable_expensive_passes=true"
               + (" --xla_cpu_use_fusion_emitters=false"
                  " --xla_cpu_parallel_codegen_split_count=1") * CHOOSES_EMITTERS)


def flags_for(devices: int) -> str:
    """Returns XLA_FLAGS of this process, with this number of fake CPU devices."""
    return (os.environ.get("XLA_FLAGS", "")
            + f" --xla_force_host_platform_device_count={devices}").strip()


def mean_loss(logits, labels):
    picked = jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)
    return -picked.mean()


def sgd_steps(model, variables, batches, rate):
    """Trains a network by SGD on (images, labels); returns its variables."""
    @quick_jit
    def step(params, stats, images, labels):
        def loss(params):
            logits, after = model.apply(
                {"params": params, "batch_stats": stats}, images, train=True,
                mutable=["batch_stats", "aux_logits"])
            total = mean_loss(logits, labels) + sum(
                0.3 * mean_loss(aux, labels)
                for aux in jax.tree.leaves(after.get("aux_logits", {})))
            return total, after.get("batch_stats", {})
        grads, stats_after = jax.grad(loss, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), stats_after

    params, stats = variables["params"], variables.get("batch_stats", {})
    for images, labels in batches:
        params, stats = step(params, stats, images, labels)
    return {"params": params, "batch_stats": stats} if stats else {"params": params}
