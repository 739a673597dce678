"""Makes optimizers and learning-rate schedules by name, all from optax.

Your own function has the signature of a row of `OPTIMIZERS` or `SCHEDULES`: name it
MODULE:FUNCTION, or add it to the table.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
import optax.contrib
from ml_collections import ConfigDict
from optax.contrib import MuonDimensionNumbers

from cnn_jax import user_code
from cnn_jax.errors import InputError
from cnn_jax.networks import freeze_mask, frozen_parts, part_of, parts_mask

__all__ = ["OPTIMIZERS", "SCHEDULES", "create", "schedule"]
Schedule = Callable[[Any], Any]  # number of updates made so far -> learning rate
# (learning rate, `optimizer` section of the config) -> optimizer
Make = Callable[[Schedule, ConfigDict], optax.GradientTransformation]


# Each function below makes a schedule from
#     peak      the learning rate of the config
#     start     the number of updates in the warm-up
#     stop      the number of updates in the whole run
#     epoch     the number of updates in an epoch
#     settings  the `schedule` section of the config

def constant(peak: float, start: int, stop: int, epoch: float,
             settings: ConfigDict) -> Schedule:
    """Stays at the peak."""
    return optax.constant_schedule(peak)


def step(peak: float, start: int, stop: int, epoch: float,
         settings: ConfigDict) -> Schedule:
    """Drops to peak * factor^k at the k-th boundary."""
    return optax.piecewise_constant_schedule(
        peak, {round(boundary * epoch) - start: settings.factor
               for boundary in settings.boundaries_epochs or () if boundary > 0})


def cosine(peak: float, start: int, stop: int, epoch: float,
           settings: ConfigDict) -> Schedule:
    """Falls along half a cosine to peak * final_factor (Loshchilov, Hutter, 2017)."""
    return optax.cosine_decay_schedule(peak, max(1, stop - start),
                                       settings.final_factor)


def linear(peak: float, start: int, stop: int, epoch: float,
           settings: ConfigDict) -> Schedule:
    """Falls in a straight line to peak * final_factor."""
    return optax.linear_schedule(peak, peak * settings.final_factor,
                                 max(1, stop - start))


def onecycle(peak: float, start: int, stop: int, epoch: float,
             settings: ConfigDict) -> Schedule:
    """Rises from peak / 25 to the peak, then falls (Smith, Topin, 2018).

    The rise takes the warm-up, or 30 % of the run if there is none.
    """
    return optax.cosine_onecycle_schedule(
        stop, peak, pct_start=start / stop or 0.3, div_factor=25.0,
        final_div_factor=1 / (25 * max(settings.final_factor, 4e-6)))


def inverse(peak: float, start: int, stop: int, epoch: float,
            settings: ConfigDict) -> Schedule:
    """Falls as peak / (1 + decay * updates), like Keras' `decay`."""
    return lambda update: peak / (1 + settings.decay * update)


SCHEDULES = {"constant": constant, "step": step, "cosine": cosine, "linear": linear,
             "onecycle": onecycle, "inverse": inverse}


def schedule(config: ConfigDict, steps_per_epoch: int) -> Schedule:
    """Makes the learning rate as a function of the number of updates made so far.

    With `optimizer.accumulate_steps` = k, an epoch has steps_per_epoch / k updates. The
    rate rises linearly in the warm-up; then the named schedule holds.
    """
    settings, peak = config.schedule, peak_rate(config)
    epoch = steps_per_epoch / config.optimizer.accumulate_steps  # updates
    stop = max(1, int(config.epochs * epoch))
    start = min(round((settings.warmup_epochs or 0) * epoch), stop)
    with user_code.field_errors("schedule.name", settings.name):
        make = user_code.find(SCHEDULES, settings.name)
        chosen = make(peak, start, stop, epoch, settings)
    if settings.name == "onecycle" or start == 0:
        return chosen
    warmup = optax.linear_schedule(peak / (start + 1), peak, start)  # never 0
    return optax.join_schedules([warmup, chosen], [start])


def peak_rate(config: ConfigDict) -> float:
    """Returns the peak of the schedule, which may grow with the batch.

    With `optimizer.base_batch_size` = B it is learning_rate * images / B, for the
    batch_size * accumulate_steps images of an update (Goyal et al.: Accurate, large
    minibatch SGD, 2017). Without, it is learning_rate.
    """
    settings = config.optimizer
    if settings.base_batch_size is None:
        return settings.learning_rate
    images = config.batch_size * settings.accumulate_steps
    return settings.learning_rate * images / settings.base_batch_size


def kernel_mask(params: Any) -> Any:
    """Masks the kernels: not biases, not batch norm."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def decay_mask(settings: ConfigDict) -> Callable[[Any], Any]:
    """Makes the function that masks the parameters with weight decay.

    These are all kernels, or the kernels of the modules that `decay_parts` names.
    """
    def mask(params: Any) -> Any:
        kernels = kernel_mask(params)
        if not settings.decay_parts:
            return kernels
        return jax.tree.map(operator.and_, kernels,
                            parts_mask(params, settings.decay_parts))
    return mask


def matrix_axes(params: Any) -> Any:
    """Tells Muon to treat each kernel as a matrix: HWIO -> (H*W*I) x O.

    Biases get None: Muon updates them with Adam.
    """
    def axes(leaf: jax.Array) -> MuonDimensionNumbers | None:
        if leaf.ndim < 2:
            return None
        return MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)
    return jax.tree.map(axes, params)


def with_l2(make: Make) -> Make:
    """Adds L2 to an optimizer without weight decay: gradient + weight_decay * kernel.
    """
    @functools.wraps(make)
    def build(rate: Schedule, settings: ConfigDict) -> optax.GradientTransformation:
        if settings.weight_decay == 0:
            return make(rate, settings)
        return optax.chain(
            optax.add_decayed_weights(settings.weight_decay, decay_mask(settings)),
            make(rate, settings))
    return build


@with_l2
def sgd(rate: Schedule, settings: ConfigDict) -> optax.GradientTransformation:
    """Follows the gradient (stochastic gradient descent)."""
    return optax.sgd(rate)


@with_l2
def momentum(rate: Schedule, settings: ConfigDict) -> optax.GradientTransformation:
    """Follows a decaying sum of the gradients."""
    return optax.sgd(rate, settings.momentum)


@with_l2
def nesterov(rate: Schedule, settings: ConfigDict) -> optax.GradientTransformation:
    """Follows Nesterov's accelerated gradient."""
    return optax.sgd(rate, settings.momentum, nesterov=True)


@with_l2
def rmsprop(rate: Schedule, settings: ConfigDict) -> optax.GradientTransformation:
    """Divides by the root mean square of the gradients (Hinton, 2012)."""
    return optax.rmsprop(rate, decay=0.9, eps=1e-7, momentum=settings.momentum or None)


@with_l2
def adam(rate: Schedule, settings: ConfigDict) -> optax.GradientTransformation:
    """Divides a mean of the gradients by their root mean square (Kingma, Ba, 2015)."""
    return optax.adam(rate)


def adamw(rate: Schedule, settings: ConfigDict) -> optax.GradientTransformation:
    """Adds decoupled weight decay to Adam (Loshchilov, Hutter, 2019)."""
    return optax.adamw(rate, weight_decay=settings.weight_decay,
                       mask=decay_mask(settings))


def muon(rate: Schedule, settings: ConfigDict) -> optax.GradientTransformation:
    """Orthogonalizes the updates of kernels; Adam updates the rest (Jordan, 2024)."""
    return optax.contrib.muon(
        rate, beta=settings.momentum, weight_decay=settings.weight_decay,
        weight_decay_mask=decay_mask(settings),
        muon_weight_dimension_numbers=matrix_axes, consistent_rms=0.2)


OPTIMIZERS: dict[str, Make] = {
    "sgd": sgd, "momentum": momentum, "nesterov": nesterov, "rmsprop": rmsprop,
    "adam": adam, "adamw": adamw, "muon": muon}


def scale_by_depth(decay: float, parts: Sequence[str]) -> optax.GradientTransformation:
    """Multiplies the updates of a part by decay^k for the k parts that follow it.

    The head is the last part and keeps its rate (Howard, Ruder, 2018: discriminative
    fine-tuning).

    parts: all parts with parameters, in the network's order.
    """
    factors = {part: decay ** k for k, part in enumerate(reversed(parts))}

    def scale(updates: Any, params: Any = None) -> Any:
        return {layer: jax.tree.map(lambda leaf: leaf * factors[part_of(layer)], tree)
                for layer, tree in updates.items()}
    return optax.stateless(scale)


def create(config: ConfigDict, rate: Schedule,
           parts: Sequence[str] = ()) -> optax.GradientTransformation:
    """Makes the optimizer of a config, with clipping, accumulation and freezing.

    Parameters of the modules in `model.freeze` keep their values and are not part of
    the gradient's norm.

    parts: the network's parts in its order; `optimizer.depth_decay` needs them.
    """
    settings, frozen = config.optimizer, frozen_parts(config.model)
    with user_code.field_errors("optimizer.name", settings.name):
        transform = user_code.find(OPTIMIZERS, settings.name)(rate, settings)
    if not isinstance(transform, optax.GradientTransformation):
        raise InputError(f"config.optimizer.name = {settings.name}: the function "
                         f"returned {type(transform).__name__}, not an "
                         "optax.GradientTransformation")
    if settings.clip_norm is not None:
        transform = optax.chain(optax.clip_by_global_norm(settings.clip_norm),
                                transform)
    if settings.depth_decay is not None:
        transform = optax.chain(transform, scale_by_depth(settings.depth_decay, parts))
    if settings.accumulate_steps > 1:
        transform = optax.MultiSteps(
            transform, settings.accumulate_steps).gradient_transformation()
    if frozen:
        transform = optax.partition(
            {True: optax.set_to_zero(), False: transform},
            functools.partial(freeze_mask, chosen=frozen))
    return transform
