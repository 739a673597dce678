"""`jax.jit` for programs that run once on tiny images.

Nearly all of their time is compiling, so they are compiled with little optimisation.
"""

import functools

import jax
import jax.numpy as jnp

quick_jit = functools.partial(jax.jit, compiler_options={
    "xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True})


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
