"""Checks the native library on four fake CPU devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python onednn_devices.py

Compares loss and gradients of a small network, of Winograd's method and of batch norm
with one device: under jit over a mesh (axes Auto and Explicit), shard_map and pmap. It
ends with code 0 if all are correct.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tests.support.gradcheck import normal, relative_error

from cnn_jax.native.library import SUMS, TARGET
from cnn_jax.ops import batch_norm, correlate

X, V, W = (jnp.asarray(normal(i, *shape), jnp.float32) for i, shape in enumerate(
    [(8, 9, 8, 6), (3, 2, 3, 8), (3, 3, 1, 16)]))


def loss(x, v, w, name="onednn"):
    y = jnp.tanh(correlate(x, v, None, (2, 1), ((1, 2), (0, 1)), groups=2,
                           implementation=name))
    return (correlate(y, w, groups=8, implementation=name) ** 2).sum()


def gradients(name="onednn"):
    return jax.value_and_grad(lambda *args: loss(*args, name), (0, 1, 2))


EXPECTED = jax.jit(gradients("lax"))(X, V, W)


def check(name, actual):
    actual, expected = (jax.tree.leaves(tree) for tree in (actual, EXPECTED))
    errors = [relative_error(a, b) for a, b in zip(actual, expected)]
    assert len(actual) == len(expected) and max(errors) <= 5e-6, (name, errors)


def over_a_mesh(kind):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
    args = [jax.device_put(a, NamedSharding(mesh, spec))
            for a, spec in zip((X, V, W), (P("batch"), P(), P()))]
    step = jax.jit(gradients())
    actual = step(*args)
    check(f"mesh {kind}", actual)
    text = step.lower(*args).compile().as_text()
    # 2 convolutions with 3 passes each, on 2 of the 8 images; weights are summed.
    assert text.count(f'custom_call_target="{TARGET}"') == 6, text
    assert "all-gather" not in text and "all-reduce" in text
    assert "f32[2,9,8,6]" in text and "f32[8,9,8,6]" not in text
    assert tuple(actual[1][0].sharding.spec)[:1] == ("batch",)
    assert actual[1][1].sharding.is_fully_replicated


def over_split_pixels():
    """Expects XLA's convolution where Explicit axes split something other than images.
    """
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Explicit,))
    x, w = X[..., :3], V[..., :3, :]

    def step(x, w, name="onednn"):
        return jax.value_and_grad(lambda x, w: (correlate(
            x, w, padding="SAME", implementation=name) ** 2).sum(), (0, 1))(x, w)
    actual = jax.jit(step)(*(
        jax.device_put(a, NamedSharding(mesh, spec))
        for a, spec in ((x, P(None, None, "rows")), (w, P()))))
    for ours, theirs in zip(jax.tree.leaves(actual),
                            jax.tree.leaves(step(x, w, "lax")), strict=True):
        assert relative_error(ours, theirs) <= 5e-6


def over_uneven_parts():
    """Splits 6 images into 4 shards: XLA pads the last; sums must leave that out."""
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    half = NamedSharding(mesh, P("batch"))

    def uneven(x, v, w):
        return jax.value_and_grad(lambda x, v, w: loss(
            jax.lax.with_sharding_constraint(x[:6], half), v, w), (1, 2))(x, v, w)
    x = jax.device_put(X, NamedSharding(mesh, P()))
    actual = jax.tree.leaves(jax.jit(uneven)(x, V, W))
    expected = jax.tree.leaves(jax.jit(jax.value_and_grad(
        lambda x, v, w: loss(x, v, w, "lax"), (1, 2)))(X[:6], V, W))
    assert max(map(relative_error, actual, expected)) <= 5e-6


def in_shard_map(check_vma):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))

    def step(x, v, w):
        value, (dx, dv, dw) = gradients()(x, v, w)
        value = jax.lax.psum(value, "batch")
        if not check_vma:  # else JAX sums the gradients of replicated values itself
            dv, dw = jax.lax.psum((dv, dw), "batch")
        return value, (dx, dv, dw)
    out = P(), (P("batch"), P(), P())
    check(f"shard_map {check_vma}", jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(P("batch"), P(), P()), out_specs=out,
        check_vma=check_vma))(X, V, W))


def in_shard_map_of_one_axis_of_two():
    """Expects XLA's convolution, because the compiler manages the other axis."""
    mesh = jax.make_mesh((2, 2), ("batch", "model"), axis_types=(AxisType.Auto,) * 2)

    def step(x, v, w):
        value, (dx, dv, dw) = gradients()(x, v, w)
        return jax.lax.psum(value, "batch"), (dx, dv, dw)
    check("shard_map of one axis", jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(P("batch"), P(), P()),
        out_specs=(P(), (P("batch"), P(), P())), axis_names={"batch"}))(X, V, W))


def in_pmap():
    def step(x):
        value, (dx, dv, dw) = gradients()(x, V, W)
        return jax.lax.psum((value, dv, dw), "batch"), dx
    (value, dv, dw), dx = jax.pmap(step, "batch")(X.reshape(4, 2, *X.shape[1:]))
    check("pmap", (value[0], (dx.reshape(X.shape), dv[3], dw[1])))


def winograd():
    """Expects that each device gets its own images and their cheapest tile size."""
    x, w = (jnp.asarray(normal(i, *s), jnp.float32) for i, s in enumerate(
        [(16, 12, 12, 32), (3, 3, 32, 32)]))
    w /= 16

    def step(name):
        return jax.jit(jax.grad(lambda x, w: jnp.sin(correlate(
            x, w, padding="SAME", implementation=name)).sum(), (0, 1)))
    expected = step("lax")(x, w)
    args = jax.device_put(x, NamedSharding(jax.make_mesh((4,), ("batch",)),
                                           P("batch"))), w
    text = step("auto").lower(*args).compile().as_text()
    assert text.count("method = 4") == 3 and "all-gather" not in text, text
    actual = step("auto")(*args)
    assert max(map(relative_error, actual, expected)) <= 1e-5
    dx, dw = jax.pmap(lambda x, w: step("auto")(x, w), in_axes=(0, None))(
        x.reshape(4, 4, *x.shape[1:]), w)
    assert relative_error(dx.reshape(x.shape), expected[0]) <= 1e-5
    assert relative_error(dw.sum(0), expected[1]) <= 1e-5


def sums_of_batch_norm():
    x = jnp.asarray(normal(0, 8, 6, 5, 16), jnp.float32)
    scale = x.mean((0, 1, 2)) + 1
    columns = jnp.arange(5.)[None, None, :, None]

    def normalized(x, scale):
        return batch_norm(x, scale, scale, axis_name="batch")[0]
    expected = jax.jit(lambda x, s: batch_norm(x, s, s)[0])(x, scale)

    gradients = jax.value_and_grad(lambda x, scale: jnp.sin(
        batch_norm(x, scale, scale)[0] * columns).sum(), (0, 1))
    on_one_device = jax.tree.leaves(jax.jit(gradients)(x, scale))
    for kind in AxisType.Auto, AxisType.Explicit:
        mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
        args = (jax.device_put(x, NamedSharding(mesh, P("batch"))),
                jax.device_put(scale, NamedSharding(mesh, P())))
        step = jax.jit(gradients).lower(*args).compile()
        assert SUMS not in step.as_text() and "all-gather" not in step.as_text()
        for a, b in zip(jax.tree.leaves(step(*args)), on_one_device, strict=True):
            assert relative_error(a, b) <= 5e-6
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    for check_vma in True, False:
        step = jax.jit(jax.shard_map(
            normalized, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"),
            check_vma=check_vma))
        assert SUMS in step.lower(x, scale).as_text()
        assert relative_error(step(x, scale), expected) <= 5e-6
    mesh = jax.make_mesh((2, 2), ("batch", "other"), axis_types=(AxisType.Auto,) * 2)
    step = jax.jit(jax.shard_map(
        normalized, mesh=mesh, in_specs=(P("batch"), P()), out_specs=P("batch"),
        axis_names={"batch"}))
    assert relative_error(step(x, scale), expected) <= 5e-6
    y = jax.pmap(normalized, axis_name="batch", in_axes=(0, None))(
        x.reshape(4, 2, *x.shape[1:]), scale)
    assert relative_error(y.reshape(x.shape), expected) <= 5e-6


if __name__ == "__main__":
    assert len(jax.devices()) == 4
    over_a_mesh(AxisType.Auto)
    over_a_mesh(AxisType.Explicit)
    over_split_pixels()
    over_uneven_parts()
    in_shard_map(True)
    in_shard_map(False)
    in_shard_map_of_one_axis_of_two()
    in_pmap()
    winograd()
    sums_of_batch_norm()
    print("right")
