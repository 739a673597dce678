"""One training step and one evaluation step: pure functions, nothing put on them.

`jit`, `pmap`, shardings and donation are added in `parallel.py`. The only trace of
devices here is `recipe.axis_name`, behind which the collectives stand.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnn_jax.data.augment import Targets
from cnn_jax.networks import parts_mask
from cnn_jax.optimizers import Schedule
from cnn_jax.rng import draw_key
from cnn_jax.tasks import Task

AUX_WEIGHT = 0.3  # of GoogLeNet's and Inception's auxiliary heads in the loss
# Sums over examples: loss, correct, count; evaluation adds those of the task.
Metrics = dict[str, jax.Array]


class Batch(NamedTuple):
    """What a step sees."""

    image: jax.Array  # uint8 [B, H, W, C]
    label: jax.Array  # [B, ...], shape and dtype by the task
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

    @property
    def variables(self) -> dict[str, Any]:
        """What the network is evaluated with: averaged parameters where there are."""
        return {"params": self.average or self.params, "batch_stats": self.batch_stats}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that does not change: what to train and how."""

    task: Task
    model: nn.Module
    optimizer: optax.GradientTransformation
    rate: Schedule
    # (key, uint8 images, labels, place) -> float32 pixels, ((labels, weight), ...)
    augment: Callable[..., tuple[jax.Array, Any]]
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


def mixup_mean(function: Callable[[jax.Array], jax.Array],
               targets: Targets) -> jax.Array:
    """Sums weight * function(labels) over the targets.

    There is one target, or two where images were mixed. For a loss this is the loss
    against the mixture of the targets, since cross-entropy is linear in its target.
    """
    return sum(weight * function(labels) for labels, weight in targets)


def train_step(state: TrainState, batch: Batch,
               recipe: Recipe) -> tuple[TrainState, Metrics]:
    """One update from one batch; the metrics are those before the update."""
    augment_key, dropout_key = jax.random.split(
        draw_key(recipe.seed, "step", state.step))
    pixels, targets = recipe.augment(augment_key, batch.image, batch.label, batch.place)
    images = recipe.scale(pixels)

    def losses_of(logits):
        return mixup_mean(lambda labels: recipe.task.losses(
            logits, labels, recipe.label_smoothing), targets)

    def loss_of(params):
        logits, updated = recipe.model.apply(
            {"params": params, "batch_stats": state.batch_stats}, images, train=True,
            mutable=["batch_stats", "aux_logits"], rngs={"dropout": dropout_key})
        losses = losses_of(logits)
        loss = losses.mean()
        for aux in jax.tree.leaves(updated.get("aux_logits", {})):
            loss += AUX_WEIGHT * losses_of(aux).mean()
        return loss, (losses, logits, updated.get("batch_stats", {}))

    grads, (losses, logits, batch_stats) = jax.grad(loss_of, has_aux=True)(state.params)
    if recipe.axis_name is not None:
        grads = lax.pmean(grads, recipe.axis_name)
    if recipe.freeze:
        frozen = parts_mask(batch_stats, recipe.freeze, must_exist=False)
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
    correct = mixup_mean(functools.partial(recipe.task.correct, logits), targets)
    return state, sums(losses, correct, batch.mask, recipe)


def eval_step(state: TrainState, batch: Batch, recipe: Recipe) -> Metrics:
    """The metrics of one batch, padded examples not counted."""
    logits = predict_logits(state, batch.image, recipe)
    task = recipe.task
    return sums(task.losses(logits, batch.label), task.correct(logits, batch.label),
                batch.mask, recipe, task.extra_sums(logits, batch.label, batch.mask))


def predict_logits(state: TrainState, images: jax.Array, recipe: Recipe) -> jax.Array:
    """uint8 images [N, H, W, C] -> logits [N, classes], of the averaged parameters
    where the recipe keeps an average."""
    return recipe.model.apply(state.variables, recipe.scale(images), train=False)


def sums(losses: jax.Array, correct: jax.Array, mask: jax.Array, recipe: Recipe,
         more: Metrics | None = None) -> Metrics:
    """Sums over the examples that count, so that one division at the end is exact.

    more: further sums, over the examples of this device.
    """
    metrics = {"loss": (losses * mask).sum(), "correct": (correct * mask).sum(),
               "count": mask.sum()} | (more or {})
    if recipe.axis_name is not None:
        metrics = lax.psum(metrics, recipe.axis_name)
    return metrics
