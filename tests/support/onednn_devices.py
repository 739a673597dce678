"""What test_conv_onednn.py runs in a process of its own, with four fake CPU devices.

    XLA_FLAGS=--xla_force_host_platform_device_count=4 python onednn_devices.py

Loss and gradients of a small network under jit over a mesh (axes Auto and Explicit),
shard_map and pmap, against one device; ends with code 0 if all are right.
"""

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from tests.support.gradcheck import normal, relative_error

from cnn_jax.native.library import TARGET
from cnn_jax.ops import correlate

X, V, W = (jnp.asarray(normal(i, *shape), jnp.float32) for i, shape in enumerate(
    [(8, 9, 8, 6), (3, 2, 3, 8), (3, 3, 1, 16)]))


def loss(x, v, w, name="onednn"):
    y = jnp.tanh(correlate(x, v, None, (2, 1), ((1, 2), (0, 1)), groups=2,
                           implementation=name))
    return (correlate(y, w, groups=8, implementation=name) ** 2).sum()


def gradients(name="onednn"):
    return jax.value_and_grad(lambda *args: loss(*args, name), (0, 1, 2))


EXPECTED = jax.jit(gradients("lax"))(X, V, W)


def check(name, found):
    found, expected = (jax.tree.leaves(tree) for tree in (found, EXPECTED))
    errors = [relative_error(a, b) for a, b in zip(found, expected)]
    assert len(found) == len(expected) and max(errors) <= 5e-6, (name, errors)


def over_a_mesh(kind):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(kind,))
    args = [jax.device_put(a, NamedSharding(mesh, spec))
            for a, spec in zip((X, V, W), (P("batch"), P(), P()))]
    step = jax.jit(gradients())
    found = step(*args)
    check(f"mesh {kind}", found)
    text = step.lower(*args).compile().as_text()
    # 2 convolutions, each with 3 passes, on 2 of the 8 images; weights are summed up.
    assert text.count(f'custom_call_target="{TARGET}"') == 6, text
    assert "all-gather" not in text and "all-reduce" in text
    assert "f32[2,9,8,6]" in text and "f32[8,9,8,6]" not in text
    assert tuple(found[1][0].sharding.spec)[:1] == ("batch",)
    assert found[1][1].sharding.is_fully_replicated


def over_split_pixels():
    """Explicit axes that split something else than images: XLA's convolution."""
    mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Explicit,))
    x, w = X[..., :3], V[..., :3, :]

    def step(x, w, name="onednn"):
        return jax.value_and_grad(lambda x, w: (correlate(
            x, w, padding="SAME", implementation=name) ** 2).sum(), (0, 1))(x, w)
    found = jax.jit(step)(*(
        jax.device_put(a, NamedSharding(mesh, spec))
        for a, spec in ((x, P(None, None, "rows")), (w, P()))))
    for ours, theirs in zip(jax.tree.leaves(found),
                            jax.tree.leaves(step(x, w, "lax")), strict=True):
        assert relative_error(ours, theirs) <= 5e-6


def over_uneven_parts():
    """6 images on 4 devices: XLA fills the last part up, which no sum may contain."""
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))
    half = NamedSharding(mesh, P("batch"))

    def uneven(x, v, w):
        return jax.value_and_grad(lambda x, v, w: loss(
            jax.lax.with_sharding_constraint(x[:6], half), v, w), (1, 2))(x, v, w)
    x = jax.device_put(X, NamedSharding(mesh, P()))
    found = jax.tree.leaves(jax.jit(uneven)(x, V, W))
    expected = jax.tree.leaves(jax.jit(jax.value_and_grad(
        lambda x, v, w: loss(x, v, w, "lax"), (1, 2)))(X[:6], V, W))
    assert max(map(relative_error, found, expected)) <= 5e-6


def in_shard_map(check_vma):
    mesh = jax.make_mesh((4,), ("batch",), axis_types=(AxisType.Auto,))

    def step(x, v, w):
        value, (dx, dv, dw) = gradients()(x, v, w)
        value = jax.lax.psum(value, "batch")
        if not check_vma:  # else JAX sums the gradients of what all devices share
            dv, dw = jax.lax.psum((dv, dw), "batch")
        return value, (dx, dv, dw)
    out = P(), (P("batch"), P(), P())
    check(f"shard_map {check_vma}", jax.jit(jax.shard_map(
        step, mesh=mesh, in_specs=(P("batch"), P(), P()), out_specs=out,
        check_vma=check_vma))(X, V, W))


def in_shard_map_of_one_axis_of_two():
    """The other axis is the compiler's, so XLA's convolution it is."""
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
    print("right")
