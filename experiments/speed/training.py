"""Trains the network of the speed runs: pure functions of a state and of the data.

`train_steps` scans over the steps of a call on data on the device. A call has the steps
of an epoch that have one size of images, on a CPU at most 10 of them. All random
numbers of an epoch follow from (seed, epoch).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from cnn_jax import ops
from cnn_jax.data.scaling import Scaling, scale
from experiments.speed import network
from experiments.speed.network import Tree

LOOKAHEAD_STEPS = 5
WHITENING_IMAGES = 5000


class Recipe(NamedTuple):
    """What is trained and how; see configs/speedrun.py for the fields."""

    widths: tuple[int, ...]
    epochs: float
    batch_size: int
    sizes: tuple[tuple[float, int], ...]  # (fraction of the steps, side in pixels)
    translate: int
    flip: str             # 'alternating', 'random' or 'none'
    whiten: bool
    label_smoothing: float
    optimizer: str        # of the kernels: 'muon' or 'nesterov'
    rate: float
    momentum: float
    muon_rate: float
    muon_momentum: float
    bias_factor: float
    weight_decay: float
    triangle: tuple[float, float, float]  # start, position of the peak, end
    lookahead: bool
    whitening_bias_epochs: float
    bn_momentum: float
    test_flips: bool
    test_shifts: bool


class Data(NamedTuple):
    """A set on the device."""

    images: jax.Array   # uint8 [N, H, W, C]
    labels: jax.Array   # int32 [N]


class State(NamedTuple):
    """Everything that a step changes."""

    step: jax.Array
    params: Tree
    stats: Tree
    opt_state: Any
    slow: tuple[Tree, Tree]  # lookahead's average of params and stats


class Draws(NamedTuple):
    """The random numbers of an epoch."""

    rows: jax.Array      # int32 [steps, B]
    corners: jax.Array   # int32 [N, 2]: of the crop in the padded image
    mirrored: jax.Array  # bool [N]


def steps_of(recipe: Recipe, images: int) -> int:
    """Counts the steps of a run; an epoch drops the last, incomplete batch."""
    return int(np.ceil(images // recipe.batch_size * recipe.epochs))


def draw(recipe: Recipe, images: int, seed: int, epoch: int) -> Draws:
    """Draws the order, the crops and the flips of an epoch.

    With alternating flips, a random half of the images is mirrored in even epochs, and
    the other half in odd ones.
    """
    rng = np.random.default_rng([seed, epoch])
    steps = images // recipe.batch_size
    order = rng.permutation(images)[:steps * recipe.batch_size]
    corners = rng.integers(0, 2 * recipe.translate + 1, (images, 2))
    mirrored = {
        "alternating": (np.random.default_rng(seed).random(images) < 0.5)
        ^ bool(epoch % 2),
        "random": rng.random(images) < 0.5,
        "none": np.zeros(images, bool)}[recipe.flip]
    return Draws(jnp.asarray(order.reshape(steps, -1), jnp.int32),
                 jnp.asarray(corners, jnp.int32), jnp.asarray(mirrored))


def pad(images: jax.Array, translate: int) -> jax.Array:
    """Pads images [N, H, W, C] by their mirrored edges."""
    reach = (translate, translate)
    return jnp.pad(images, ((0, 0), reach, reach, (0, 0)), "reflect")


def batch_of(padded: jax.Array, rows: jax.Array, draws: Draws, scaling: Scaling,
             side: int, translate: int) -> jax.Array:
    """Cuts, mirrors, scales and shrinks the images of some rows.

    Returns float32 [B, side, side, C].
    """
    full = padded.shape[1] - 2 * translate
    size = (1, full, full, padded.shape[-1])

    def cut(row: jax.Array, corner: jax.Array) -> jax.Array:
        return lax.dynamic_slice(padded, (row, corner[0], corner[1], 0), size)[0]

    images = jax.vmap(cut)(rows, draws.corners[rows])
    images = jnp.where(draws.mirrored[rows][:, None, None, None], images[:, :, ::-1],
                       images)
    images = scale(images, scaling)
    if side == full:
        return images
    return jax.image.resize(images, (len(rows), side, side, images.shape[-1]),
                            "linear", antialias=True)


def triangle(recipe: Recipe, steps: int) -> optax.Schedule:
    """Rises linearly from the start to 1 at the peak, then falls to the end."""
    start, peak, end = recipe.triangle
    top = int(peak * steps)
    return optax.join_schedules(
        [optax.linear_schedule(start, 1.0, top),
         optax.linear_schedule(1.0, end, steps - top)], [top])


def make_optimizer(recipe: Recipe, steps: int,
                   steps_per_epoch: int) -> optax.GradientTransformation:
    """Makes the optimizer of the mean loss.

    `rate` and `weight_decay` are for 1,024 images, and are divided by
    1 + 1 / (1 - momentum). Momentum lengthens a step by nearly this factor, so each can
    be set alone. The bias of the whitening layer trains in the first epochs only, its
    kernel never.
    """
    shape = triangle(recipe, steps)
    rate = recipe.rate / (1 + 1 / (1 - recipe.momentum)) * recipe.batch_size / 1024

    def nesterov(factor: float) -> optax.GradientTransformation:
        return optax.chain(
            optax.add_decayed_weights(recipe.weight_decay / (recipe.rate * factor)),
            optax.sgd(lambda step: rate * factor * shape(step), recipe.momentum,
                      nesterov=True))

    muon = optax.contrib.scale_by_muon(
        ns_steps=3, beta=recipe.muon_momentum,
        weight_dimension_numbers=lambda params: jax.tree.map(
            lambda _: optax.contrib.MuonDimensionNumbers((0, 1, 2), 3), params))
    whitening = optax.chain(
        nesterov(1.0), optax.scale_by_schedule(
            lambda step: step < recipe.whitening_bias_epochs * steps_per_epoch))
    kernels = nesterov(1.0) if recipe.optimizer == "nesterov" else optax.chain(
        muon, optax.scale_by_schedule(lambda step: -recipe.muon_rate * shape(step)))
    return optax.multi_transform(
        {"kernels": kernels, "biases": nesterov(recipe.bias_factor),
         "head": nesterov(1.0), "whitening": whitening, "frozen": optax.set_to_zero()},
        lambda params: label(params, recipe))


def label(params: Tree, recipe: Recipe) -> Tree:
    """Names the optimizer of each parameter."""
    labels: Tree = {name: {"kernel": "kernels", "bias": "biases"}
                    for name in params if name.startswith("block")}
    frozen = "frozen" if recipe.whiten else "kernels"
    return labels | {"head": "head", "whiten": {"kernel": frozen, "bias": "whitening"}}


def normalize_kernels(params: Tree) -> Tree:
    """Scales each block's kernel to the norm sqrt(filters), as muon's steps expect."""
    def scaled(kernel: jax.Array) -> jax.Array:
        return kernel * (kernel.shape[-1] ** 0.5 / jnp.linalg.norm(kernel))

    return {name: layer | {"kernel": scaled(layer["kernel"])}
            if name.startswith("block") else layer for name, layer in params.items()}


def create(recipe: Recipe, optimizer: optax.GradientTransformation, scaling: Scaling,
           classes: int, data: Data, seed: jax.Array) -> State:
    """Makes the initial state of a seed."""
    distance = max(1, len(data.images) // WHITENING_IMAGES)
    images = scale(data.images[::distance], scaling)
    channels = images.shape[-1]
    params, stats = network.init(jax.random.key(seed), channels, classes, recipe.widths)
    if recipe.whiten:
        kernel = network.whitening_kernel(images)
    else:
        shape = params["whiten"]["kernel"].shape
        reach = (shape[0] * shape[1] * shape[2]) ** -0.5
        kernel = jax.random.uniform(jax.random.key(~seed), shape, minval=-reach,
                                    maxval=reach)
    params["whiten"]["kernel"] = kernel
    return State(jnp.zeros((), jnp.int32), params, stats, optimizer.init(params),
                 (params, stats))


def train_step(state: State, rows: jax.Array, data: Data, draws: Draws,
               recipe: Recipe, optimizer: optax.GradientTransformation,
               scaling: Scaling, side: int, steps: int) -> tuple[State, jax.Array]:
    """Makes one update from the images of some rows [B]; returns the mean loss.

    data: with padded images.
    """
    images = batch_of(data.images, rows, draws, scaling, side, recipe.translate)
    classes = state.params["head"].shape[-1]
    targets = optax.smooth_labels(jax.nn.one_hot(data.labels[rows], classes),
                                  recipe.label_smoothing)

    def loss_of(params: Tree) -> tuple[jax.Array, Tree]:
        logits, stats = network.apply(params, state.stats, images, True,
                                      recipe.bn_momentum)
        return ops.softmax_cross_entropy(logits, targets).mean(), stats

    (loss, stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    params = state.params
    if recipe.optimizer == "muon":
        params = normalize_kernels(params)
    updates, opt_state = optimizer.update(grads, state.opt_state, params)
    fast = optax.apply_updates(params, updates), stats
    slow = state.slow
    if recipe.lookahead:
        fast, slow = look_ahead(fast, slow, state.step + 1, steps)
    return State(state.step + 1, *fast, opt_state, slow), loss


def look_ahead(fast: Any, slow: Any, step: jax.Array, steps: int) -> tuple[Any, Any]:
    """Pulls the fast weights to their average after every `LOOKAHEAD_STEPS` steps.

    The average's decay grows with the cube of the time, from 0 to 0.95^5; at the end
    the average is the result (Zhang et al., "Lookahead optimizer", 2019).
    """
    decay = jnp.where(step == steps, 1.0, 0.95**LOOKAHEAD_STEPS * (step / steps) ** 3)
    due = (step % LOOKAHEAD_STEPS == 0) | (step == steps)
    mean = optax.incremental_update(fast, slow, 1 - decay)

    def choose(new: Any, old: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(due, a, b), new, old)

    return choose(mean, fast), choose(mean, slow)


def train_steps(state: State, rows: jax.Array, data: Data, draws: Draws,
                **options: Any) -> tuple[State, jax.Array]:
    """Makes one step for each of the rows [K, B]; returns the losses [K].

    options: those of `train_step`.
    """
    def step(state: State, rows: jax.Array) -> tuple[State, jax.Array]:
        return train_step(state, rows, data, draws, **options)

    return lax.scan(step, state, rows)


def count_correct(state: State, data: Data, recipe: Recipe,
                  scaling: Scaling) -> jax.Array:
    """Counts the correct predictions of a batch of unpadded images."""
    logits = network.predict(state.params, state.stats,
                             scale(data.images, scaling), recipe.test_flips,
                             recipe.test_shifts)
    return (logits.argmax(-1) == data.labels).sum()
