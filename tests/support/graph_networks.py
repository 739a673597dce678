"""Two networks that together use every operation of a layer graph."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cnn_jax import networks
from cnn_jax.layers import (ACTIVATIONS, Activation, Add, Concat, Flatten,
                            GlobalAvgPool, GroupNorm, LayerNorm, Layers,
                            LocalResponseNorm, Subsample, ZeroPad)


class LayersNetwork(nn.Module):
    """Uses every layer of `cnn_jax.layers`, with the options that formats differ in.

    up_groups: groups of the first transposed convolution.
    """

    up_groups: int = 2
    layers: Layers = Layers()

    @nn.compact
    def __call__(self, x, train):
        make = self.layers
        x = ZeroPad(((2, 1), (0, 3)), name="zero_pad")(x)
        x = make.convolution(8, (3, 2), (2, 1), name="conv_same")(x)
        x = make.batch_norm(train, epsilon=1e-3, name="bn_folded")(x)
        x = Activation("relu6", name="relu6")(x)
        x = LocalResponseNorm(3, 1.5, 0.3, 0.6, name="lrn")(x)
        x = make.convolution(6, (3, 3), padding=((2, 0), (-1, 3)), kernel_dilation=2,
                             feature_group_count=2, use_bias=False, name="conv")(x)
        x = make.max_pool((3, 2), (2, 2), ((1, 0), (0, 1)), ceil_mode=True,
                          name="max_pool")(x)
        x = Add(name="dilated")(
            make.max_pool((2, 3), (1, 1), "SAME", dilation=(2, 1), name="max_far")(x),
            make.avg_pool((3, 2), (1, 1), "SAME", dilation=(1, 2), name="mean_far")(x))
        x = make.batch_norm(train, use_scale=False, name="bn_kept")(x)
        counted = make.avg_pool((3, 3), (2, 2), 1, ceil_mode=True, name="counted",
                                count_include_pad=True)(x)
        inside = make.avg_pool((3, 3), (2, 2), 1, ceil_mode=True, name="inside")(x)
        all_counted = make.avg_pool((2, 2), (2, 2), ((1, 1), (1, 1)),
                                    count_include_pad=True, name="all_counted")(x)
        counted = LayerNorm(name="layer_norm")(counted)
        inside = GroupNorm(4, name="group_norm")(inside)
        x = Concat(name="concat")(counted, inside)
        x = Add(name="add")(x, Subsample(1, (2, 4), name="subsample")(all_counted))
        x = make.conv_transpose(4, (3, 2), (2, 3), 1, output_padding=(1, 2),
                                feature_group_count=self.up_groups, name="up")(x)
        x = make.batch_norm(train, name="bn_up")(x)
        y = make.conv_transpose(4, (2, 2), 3, use_bias=False, name="up_wide")(x)
        z = GlobalAvgPool(name="mean")(y)
        for kind in ACTIVATIONS:
            z = Activation(kind, name=f"act_{kind}")(z)
        x = Flatten(name="flatten")(x)
        x = make.dense(5, use_bias=False, name="fc")(x)
        x = make.batch_norm(train, name="bn_dense")(x)
        x = make.dropout(0.5, name="drop")(x, train)
        return make.dense(7, name="head")(Concat(name="join")(x, z))


class SqueezeExcite(nn.Module):
    """Scales channels by a function of their means, in plain arithmetic."""

    @nn.compact
    def __call__(self, x):
        y = nn.silu(nn.Dense(2)(x.mean((1, 2))))
        return x * nn.sigmoid(nn.Dense(x.shape[-1])(y))[:, None, None]


class FunctionsNetwork(nn.Module):
    """Uses layers of Flax and functions of JAX, as a user may write a network."""

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), strides=2, padding="CIRCULAR")(x)
        x = nn.BatchNorm(use_running_average=not train)(x)
        x = nn.leaky_relu(x)
        x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
        x = nn.remat(SqueezeExcite)(name="excite")(x)
        y = nn.LayerNorm()(x)
        x = x + nn.Dense(4)(nn.gelu(nn.Dense(6)(y)))
        x = nn.avg_pool(x, (2, 2), (1, 1), "SAME", count_include_pad=False)
        x = nn.ConvTranspose(6, (3, 3), strides=(2, 2))(x)
        x = nn.hard_swish(nn.GroupNorm(2)(x))
        x = nn.softplus(nn.elu(x[:, 1:, ::2]))
        x = jnp.concatenate([x[:, :4], x.transpose(0, 2, 1, 3)[:, :, :4]], -1)
        first, rest = jnp.split(x, [3], -1)
        norm = jnp.sqrt(jnp.sum(first ** 2, -1, keepdims=True) + jnp.e)
        x = jnp.where(rest > 0.1, rest / norm, rest ** 3)  # [N, 4, 4, 9]
        y = nn.gelu(nn.Dense(5)(x.min(1)), approximate=False)
        return nn.log_softmax(nn.Dense(3, name="logits")(jnp.concatenate(
            [y.reshape(len(y), -1), x.reshape(len(x), -1), x.max((1, 2))], 1)))


def random_variables(network, shape, dtype=np.float32):
    """Draws parameters, and batch norm statistics that are neither 0 nor 1."""
    draw = np.random.default_rng(0)

    def value(path, leaf):
        name, size = path[-1].key, leaf.shape
        if name == "var":
            return draw.uniform(0.5, 2, size).astype(dtype)
        if name == "scale":
            return draw.uniform(0.2, 0.5, size).astype(dtype)
        fan_in = max(1, np.prod(size[:-1]))
        return draw.normal(0, np.sqrt(1.5 / fan_in) if "kernel" in name else 0.3,
                           size).astype(dtype)
    return jax.tree_util.tree_map_with_path(value, networks.eval_shape(
        lambda: network.init(jax.random.key(0), jnp.zeros((1, *shape)), train=False)))
