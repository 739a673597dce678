"""Makes our networks from Flax's own layers, as a user of `flax.linen` alone would."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cnn_jax.layers import BATCH_NORM, Layers, pairs
from cnn_jax.training.steps import AUX_WEIGHT


@dataclasses.dataclass(frozen=True)
class PlainFlax(Layers):
    """Makes `nn.Conv`, `nn.BatchNorm` and `reduce_window`, with the same parameters."""

    pool: str = "lax"

    def convolution(self, features, kernel, strides=1, padding="SAME", **fields):
        fields.setdefault("kernel_init", self.initializers.kernel)
        return nn.Conv(features, kernel, strides, pairs(padding, kernel),
                       dtype=self.dtype, **fields)

    def batch_norm(self, train, epsilon=None, momentum=None, **fields):
        preset = BATCH_NORM[self.bn]
        if self.bn != "paper":
            epsilon = momentum = None
        return nn.BatchNorm(not train, dtype=self.dtype, **fields,
                            epsilon=epsilon or preset.epsilon,
                            momentum=momentum or preset.momentum)


def make_train_step(net, optimizer):
    """Makes (state, images, labels, dropout key) -> (state, loss) with Flax and optax.

    The state is (variables, optimizer state).
    """
    def train_step(state, images, labels, key):
        variables, opt_state = state

        def mean_loss(params):
            logits, updates = net.apply(
                variables | {"params": params}, images, train=True,
                rngs={"dropout": key}, mutable=["batch_stats", "aux_logits"])
            auxiliary = jax.tree.leaves(updates.pop("aux_logits", {}))
            losses = [optax.softmax_cross_entropy_with_integer_labels(
                each.astype(jnp.float32), labels).mean()
                for each in (logits, *auxiliary)]
            return losses[0] + AUX_WEIGHT * sum(losses[1:]), updates
        (loss, updates), grads = jax.value_and_grad(mean_loss, has_aux=True)(
            variables["params"])
        changes, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(variables["params"], changes)
        return (variables | {"params": params} | updates, opt_state), loss
    return train_step
