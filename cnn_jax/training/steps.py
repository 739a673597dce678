"""Defines one training step and one evaluation step, as pure functions.

`parallel.py` adds `jit`, `pmap`, shardings and donation. The only trace of devices here
is `recipe.axis_name`: where it is set, collectives are used.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax import lax

from cnn_jax.data.augment import Targets
from cnn_jax.data.examples import Examples
from cnn_jax.networks import apply_head, frozen_statistics
from cnn_jax.networks.trace import before_head
from cnn_jax.optimizers import Schedule
from cnn_jax.rng import draw_key
from cnn_jax.tasks import Task
from cnn_jax.tasks.tta import average, views

AUGMENTATION = "augmentation"  # the name of its operations in a compiled program
AUX_WEIGHT = 0.3  # of GoogLeNet's and Inception's auxiliary heads in the loss
# Sums over examples: loss, correct and count; evaluation adds the sums of the task.
Metrics = dict[str, jax.Array]


class Batch(NamedTuple):
    """Holds the input of a step."""

    image: jax.Array     # uint8 [B, H, W, C]; see `Recipe.head_of` for features
    label: jax.Array     # [B, ...], with the shape and dtype of the task
    mask: jax.Array      # float32 [B]: 0 where evaluation padded the batch
    position: jax.Array  # int32 [B]: index in the global batch, for random draws


class TrainState(flax.struct.PyTreeNode):
    """Holds everything that a step changes. Random keys follow from `step`.

    The `ema_` fields hold averages over the updates, see `moving_averages`; they are {}
    without optimizer.ema_decay and optimizer.swa_epochs.
    """

    step: jax.Array        # int32 []
    params: Any            # float32 leaves
    batch_stats: Any       # {} without batch norm
    opt_state: Any
    ema_params: Any
    ema_batch_stats: Any

    @property
    def variables(self) -> dict[str, Any]:
        """Returns the variables for evaluation: the averages, if they are kept.

        Averaged parameters need averaged statistics, because other parameters have
        other activations.
        """
        return {"params": self.ema_params or self.params,
                "batch_stats": self.ema_batch_stats or self.batch_stats}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Holds everything that no step changes: what to train and how."""

    task: Task  # as evaluation measures it
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: Schedule
    # (key, uint8 images, labels, position) -> float32 pixels, ((labels, weight), ...)
    augment: Callable[..., tuple[jax.Array, Targets]]
    scale: Callable[[jax.Array], jax.Array]  # pixels -> network input
    seed: int
    # (logits, labels) -> float32 [N] of training; None: the task's own
    loss: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    ema_decay: float = 0.0
    accumulate_steps: int = 1
    freeze: str = ""  # modules whose parameters and running statistics do not change
    # If batches hold the head's input instead of images: the shape of the images.
    head_of: tuple[int, int, int] | None = None
    tta: tuple[str, ...] = ()  # names of `tta.VIEWS`, for evaluation
    # After this update the averages are plain means of the values since then (SWA);
    # before it they are the current values. None: no SWA.
    swa_from: int | None = None
    axis_name: str | None = None

    @property
    def averages(self) -> bool:
        """Tells whether a state holds averages of its parameters."""
        return self.ema_decay > 0 or self.swa_from is not None

    def apply(self, variables: Any, images: jax.Array, **options: Any) -> Any:
        """Applies the model to scaled images, or its head to the head's input."""
        if self.head_of is not None:
            return apply_head(self.model, variables, images, self.head_of, **options)
        with frozen_statistics(self.freeze):
            return self.model.apply(variables, images, **options)


def create_state(recipe: Recipe, image_shape: tuple[int, int, int]) -> TrainState:
    """Makes the initial state from `recipe.seed` alone."""
    images = jnp.zeros((1, *image_shape))
    variables = recipe.model.init(draw_key(recipe.seed, "parameters"), images,
                                  train=False)
    params, batch_stats = variables["params"], variables.get("batch_stats", {})
    averaged = recipe.averages
    return TrainState(
        step=jnp.zeros((), jnp.int32), params=params, batch_stats=batch_stats,
        opt_state=recipe.optimizer.init(params), ema_params=params if averaged else {},
        ema_batch_stats=batch_stats if averaged else {})


def mixup_mean(function: Callable[[jax.Array], jax.Array],
               targets: Targets) -> jax.Array:
    """Sums weight * function(labels) over the targets.

    There is one target, or two if images were mixed. For a loss this is the loss
    against the mixture of the targets, since cross-entropy is linear in its target.
    """
    total = sum(weight * function(labels) for labels, weight in targets)
    return cast(jax.Array, total)


def train_step(state: TrainState, batch: Batch,
               recipe: Recipe) -> tuple[TrainState, Metrics]:
    """Makes one update from one batch; returns metrics of the old parameters."""
    augment_key, dropout_key = jax.random.split(
        draw_key(recipe.seed, "step", state.step))
    with jax.named_scope(AUGMENTATION):
        pixels, targets = recipe.augment(augment_key, batch.image, batch.label,
                                         batch.position)
    images = recipe.scale(pixels)

    def losses_of(logits: jax.Array) -> jax.Array:
        return mixup_mean(functools.partial(recipe.loss or recipe.task.losses, logits),
                          targets)

    def loss_of(params: Any) -> tuple[jax.Array, tuple[jax.Array, jax.Array, Any]]:
        logits, updated = recipe.apply(
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
    updates, opt_state = recipe.optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema_params, ema_batch_stats = moving_averages(state, params, batch_stats, recipe)
    state = TrainState(state.step + 1, params, batch_stats, opt_state, ema_params,
                       ema_batch_stats)
    correct = recipe.task.correct
    right = None if correct is None else mixup_mean(
        functools.partial(correct, logits), targets)
    return state, sums(losses, right, batch.mask, recipe)


def moving_averages(state: TrainState, params: Any, batch_stats: Any,
                    recipe: Recipe) -> tuple[Any, Any]:
    """Updates the averages of parameters and of batch-norm statistics.

        average <- decay * average + (1 - decay) * new

    For the n-th update after `swa_from`, decay = (n - 1) / n, so that all n values have
    the same weight; before, it is 0 (Izmailov et al.: Averaging weights leads to wider
    optima, 2018). Accumulated gradients update the parameters every `accumulate_steps`
    steps, and the averages with them.
    """
    if not recipe.averages:
        return {}, {}
    updated = (state.step + 1) % recipe.accumulate_steps == 0
    weight: jax.Array | float = 1 - recipe.ema_decay
    if recipe.swa_from is not None:
        update = (state.step + 1) // recipe.accumulate_steps
        weight = 1 / jnp.maximum(update - recipe.swa_from, 1)
    return optax.incremental_update(
        (params, batch_stats), (state.ema_params, state.ema_batch_stats),
        jnp.where(updated, weight, 0.0))


def eval_step(state: TrainState, batch: Batch, recipe: Recipe) -> Metrics:
    """Computes the metrics of one batch; padded examples do not count.

    With `recipe.tta`, predictions are averaged over views of each image.
    """
    task = recipe.task
    logits = [predict_logits(state, images, recipe)
              for images in views(batch.image, recipe.tta)]
    prediction = average(logits, task) if recipe.tta else logits[0]
    right = task.correct and task.correct(prediction, batch.label)
    return sums(task.losses(prediction, batch.label), right, batch.mask, recipe,
                task.extra_sums(prediction, batch.label, batch.mask))


def predict_logits(state: TrainState, images: jax.Array, recipe: Recipe) -> jax.Array:
    """Computes the logits of uint8 images [N, H, W, C] with `state.variables`."""
    logits = recipe.apply(state.variables, recipe.scale(images), train=False)
    return cast(jax.Array, logits)


def compute_features(state: TrainState, batch: Batch, recipe: Recipe) -> jax.Array:
    """Computes the input of the head, float32 [B, ...], for all devices' examples."""
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    features = before_head(recipe.model, variables, recipe.scale(batch.image))
    features = features.astype(jnp.float32)
    if recipe.axis_name is not None:
        features = lax.all_gather(features, recipe.axis_name, tiled=True)
    return features


def sums(losses: jax.Array, correct: jax.Array | None, mask: jax.Array, recipe: Recipe,
         extra: Metrics | None = None) -> Metrics:
    """Sums over the unmasked examples, so that one division at the end is exact.

    correct: None for a task without accuracy.
    extra: further sums over the examples of this device.
    """
    metrics = {"loss": (losses * mask).sum(), "count": mask.sum()} | (extra or {})
    if correct is not None:
        metrics["correct"] = (correct * mask).sum()
    if recipe.axis_name is not None:
        metrics = lax.psum(metrics, recipe.axis_name)
    return metrics


def make_batch(images: Any, labels: Any, mask: jax.Array,
               axis_name: str | None) -> Batch:
    """Makes this device's batch from its share of the examples."""
    position = jnp.arange(len(mask))
    if axis_name is not None:
        position += len(mask) * lax.axis_index(axis_name)
    return Batch(images, labels, mask, position)


def gather(data: Examples, indices: jax.Array, mask: jax.Array,
           axis_name: str | None) -> Batch:
    """Makes this device's batch from the examples at `indices` [B]."""
    return make_batch(data.images[indices], data.labels[indices], mask, axis_name)


def repeat_step(step: Callable[[TrainState, Any], tuple[TrainState, Metrics]],
                state: TrainState, inputs: Any) -> tuple[TrainState, Metrics]:
    """Makes one step for each of K stacked inputs; each metric has K values."""
    if len(jax.tree.leaves(inputs)[0]) > 1:
        return lax.scan(step, state, inputs)
    state, metrics = step(state, jax.tree.map(lambda x: x[0], inputs))
    return state, jax.tree.map(lambda x: x[None], metrics)


def train_steps(state: TrainState, data: Examples, order: jax.Array,
                recipe: Recipe) -> tuple[TrainState, Metrics]:
    """Makes one step for each row of `order` [K, B], indices of data on the devices."""
    def step(state: TrainState, indices: jax.Array) -> tuple[TrainState, Metrics]:
        mask = jnp.ones(len(indices))
        return train_step(state, gather(data, indices, mask, recipe.axis_name), recipe)

    return repeat_step(step, state, order)


def train_batches(state: TrainState, batches: tuple[Examples, ...],
                  recipe: Recipe) -> tuple[TrainState, Metrics]:
    """Makes one step for each of K streamed batches."""
    def step(state: TrainState, batch: Examples) -> tuple[TrainState, Metrics]:
        mask = jnp.ones(len(batch.labels))
        return train_step(state, make_batch(*batch, mask, recipe.axis_name), recipe)

    return repeat_step(step, state, jax.tree.map(lambda *x: jnp.stack(x), *batches))


def eval_rows(state: TrainState, data: Examples, indices: jax.Array, mask: jax.Array,
              recipe: Recipe, step: Callable[..., Any] = eval_step) -> Any:
    """Applies `step` to the examples at `indices` [B]; those of mask 0 are padding."""
    return step(state, gather(data, indices, mask, recipe.axis_name), recipe)


def eval_batch(state: TrainState, batch: Examples, mask: jax.Array,
               recipe: Recipe, step: Callable[..., Any] = eval_step) -> Any:
    """Applies `step` to a streamed batch; the examples of mask 0 are padding."""
    return step(state, make_batch(*batch, mask, recipe.axis_name), recipe)
