"""Compares operations on two devices with the same on one, in float64.

    JAX_ENABLE_X64=1 python -m tests.support.sharded_operations few|all

It has two devices. With `few`, an implementation convolves in groups or without.
"""

import importlib.util
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

from cnn_jax import ops


def same(a, b):
    for a, b in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-11)


def convolved(name, groups):
    """Makes (x, w) -> value and gradients of a convolution and pools."""
    def loss(x, w):
        y = ops.correlate(x, w, padding="SAME", implementation=name, groups=groups)
        return jnp.sum(jnp.sin(ops.max_pool(y, 2)) + ops.avg_pool(y, (2, 3), 2))
    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def norm(x, scale, axis_name=None):
    y, mean, var = ops.batch_norm(x, scale, scale, axis_name=axis_name)
    return jnp.sum(jnp.sin(y)), (mean, var)


norm_and_gradients = jax.value_and_grad(norm, (0, 1), has_aux=True)


def mapped_norm(x, scale):
    value, grads = norm_and_gradients(x, scale, "batch")
    return (jax.lax.psum(value[0], "batch"), value[1]), (
        grads[0], jax.lax.psum(grads[1], "batch"))


def network(x, w, s, axis_name=None):
    groups = x.shape[-1] // w.shape[-2]
    y = ops.correlate(x, w, s, padding="SAME", groups=groups)
    y, mean, var = ops.batch_norm(ops.max_pool(y, 2), s, s, axis_name=axis_name)
    y = ops.dense(ops.global_avg_pool(y) + var[None], jnp.tile(w[0, 0, :1], (4, 1)))
    return ops.softmax_cross_entropy(y, jnp.zeros(len(x), int)), (mean, var)


def total(f):
    def scalar(*args):
        losses, (mean, var) = f(*args)
        return losses.sum() + jnp.vdot(mean, jnp.sin(var)), (mean, var)
    return jax.jit(jax.value_and_grad(scalar, (0, 1, 2), has_aux=True))


def main() -> None:
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    assert len(jax.devices()) == 2
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 6, 5, 4)))
    w = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 4, 4)))
    v, scale = w[:, :, :1], jnp.array([1., 2., 3., 4.])
    assert x.dtype == scale.dtype == jnp.float64
    mesh = Mesh(jax.devices(), ("batch",))

    def place(array, *axes):
        return jax.device_put(array, NamedSharding(mesh, P(*axes)))
    names = [name for name in ops.ALGORITHMS
             if name != "numba" or importlib.util.find_spec(name)]
    for number, (groups, kernel) in enumerate(((1, w), (4, v))):
        expected = convolved("lax", groups)(x, kernel)
        for i, name in enumerate(names):
            if sys.argv[1] == "all" or i % 2 == number:
                same(convolved(name, groups)(place(x, "batch"), place(kernel)),
                     expected)
    compiled = jax.jit(norm_and_gradients)
    expected = compiled(x, scale)
    same(compiled(place(x, "batch"), place(scale)), expected)
    (value, (mean, var)), (dx, dscale) = jax.pmap(
        mapped_norm, "batch", in_axes=(0, None))(x.reshape(2, 2, 6, 5, 4), scale)
    same(((value[0], (mean[0], var[0])), (dx.reshape(x.shape), dscale[0])), expected)
    mapped = jax.shard_map(lambda *args: network(*args, "batch"), mesh=mesh,
                           in_specs=(P("batch"), P(), P()),
                           out_specs=(P("batch"), P()))
    for kernel in (w, v):
        same(total(mapped)(x, kernel, scale), total(network)(x, kernel, scale))
    print("sharded values are the same")


if __name__ == "__main__":
    main()
