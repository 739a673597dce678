"""One training step and one evaluation step: pure functions, nothing put on them.

`jit`, `pmap`, shardings and donation are added in `parallel.py`. The only trace of
devices here is `recipe.axis_name`, behind which the collectives stand.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnn_jax.draws import draw_key
from cnn_jax.networks import in_parts
from cnn_jax.training.optimizer import Schedule

AUX_WEIGHT = 0.3  # of GoogLeNet's and Inception's auxiliary heads in the loss
Metrics = dict[str, jax.Array]  # sums over examples: loss, correct, count


class Batch(NamedTuple):
    """What a step sees."""

    image: jax.Array  # uint8 [B, H, W, C]
    label: jax.Array  # int32 [B]
    mask: jax.Array   # float32 [B]: 0 where evaluation padded the batch
    place: jax.Array  # int32 [B]: position in the global batch, which random draws use


@flax.struct.dataclass
class TrainState:
    """All that changes. Random draws need no key here: they follow from the step."""

    step: jax.Array        # int32 []
    params: Any            # float32 leaves
    batch_stats: Any       # {} without batch norm
    opt_state: Any
    average: Any           # running mean of params, {} unless ema_decay > 0


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that does not change: what to train and how."""

    model: nn.Module
    optimizer: optax.GradientTransformation
    rate: Schedule
    augment: Callable[..., jax.Array]  # (key, uint8 images, place) -> float32 pixels
    scale: Callable[[jax.Array], jax.Array]  # pixels -> network input
    seed: int
    label_smoothing: float = 0.0
    ema_decay: float = 0.0
    accumulate_steps: int = 1
    freeze: str = ""       # parts whose running statistics stay, as their parameters do
    axis_name: str | None = None


def create_state(recipe: Recipe, image_shape: tuple[int, int, int]) -> TrainState:
    """The state before the first step, from `recipe.seed` alone."""
    images = jnp.zeros((1, *image_shape))
    variables = recipe.model.init(draw_key(recipe.seed, "parameters"), images,
                                  train=False)
    params = variables["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params,
        batch_stats=variables.get("batch_stats", {}),
        opt_state=recipe.optimizer.init(params),
        average=params if recipe.ema_decay > 0 else {})


def example_losses(logits: jax.Array, labels: jax.Array,
                   label_smoothing: float = 0.0) -> jax.Array:
    """Softmax cross-entropy of each example, [N, classes], [N] -> float32 [N]."""
    targets = jax.nn.one_hot(labels, logits.shape[-1])
    return optax.softmax_cross_entropy(
        logits.astype(jnp.float32), optax.smooth_labels(targets, label_smoothing))


def train_step(state: TrainState, batch: Batch,
               recipe: Recipe) -> tuple[TrainState, Metrics]:
    """One update from one batch; the metrics are those before the update."""
    augment_key, dropout_key = jax.random.split(
        draw_key(recipe.seed, "step", state.step))
    images = recipe.scale(recipe.augment(augment_key, batch.image, batch.place))

    def loss_of(params):
        logits, updated = recipe.model.apply(
            {"params": params, "batch_stats": state.batch_stats}, images, train=True,
            mutable=["batch_stats", "aux_logits"], rngs={"dropout": dropout_key})
        losses = example_losses(logits, batch.label, recipe.label_smoothing)
        loss = losses.mean()
        for aux in jax.tree.leaves(updated.get("aux_logits", {})):
            loss += AUX_WEIGHT * example_losses(aux, batch.label,
                                                recipe.label_smoothing).mean()
        return loss, (losses, logits, updated.get("batch_stats", {}))

    grads, (losses, logits, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
    if recipe.axis_name is not None:
        grads = lax.pmean(grads, recipe.axis_name)
    if recipe.freeze:
        frozen = in_parts(batch_stats, recipe.freeze, must_exist=False)
        batch_stats = jax.tree.map(lambda keep, old, new: old if keep else new,
                                   frozen, state.batch_stats, batch_stats)
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = {}
    if recipe.ema_decay > 0:
        updated = (state.step + 1) % recipe.accumulate_steps == 0
        average = optax.incremental_update(
            params, state.average, jnp.where(updated, 1 - recipe.ema_decay, 0.0))
    state = TrainState(state.step + 1, params, batch_stats, opt_state, average)
    return state, sums(losses, logits, batch, recipe)


def eval_step(state: TrainState, batch: Batch, recipe: Recipe) -> Metrics:
    """The metrics of one batch, padded examples not counted."""
    logits = predict_logits(state, batch.image, recipe)
    return sums(example_losses(logits, batch.label), logits, batch, recipe)


def predict_logits(state: TrainState, images: jax.Array, recipe: Recipe) -> jax.Array:
    """uint8 images [N, H, W, C] -> logits [N, classes], of the averaged parameters
    where the recipe keeps an average."""
    params = state.average if recipe.ema_decay > 0 else state.params
    return recipe.model.apply(
        {"params": params, "batch_stats": state.batch_stats},
        recipe.scale(images), train=False)


def sums(losses: jax.Array, logits: jax.Array, batch: Batch, recipe: Recipe) -> Metrics:
    """Sums over the examples that count, so that one division at the end is exact."""
    correct = logits.argmax(-1) == batch.label
    metrics = {"loss": (losses * batch.mask).sum(),
               "correct": (correct * batch.mask).sum(),
               "count": batch.mask.sum()}
    if recipe.axis_name is not None:
        metrics = lax.psum(metrics, recipe.axis_name)
    return metrics
