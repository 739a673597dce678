"""Optimisers and learning-rate schedules by name, all from optax."""

import functools
import operator
from collections.abc import Callable

import jax
import optax
from optax.contrib import MuonDimensionNumbers, muon

from cnn_jax.networks import freeze_mask, parts_mask

Schedule = Callable[[jax.Array], jax.Array]


def constant(peak: float, start: int, stop: int, epoch: float, settings) -> Schedule:
    return optax.constant_schedule(peak)


def step(peak: float, start: int, stop: int, epoch: float, settings) -> Schedule:
    """peak * factor^k from the k-th boundary on."""
    return optax.piecewise_constant_schedule(
        peak, {round(boundary * epoch) - start: settings.factor
               for boundary in settings.boundaries_epochs or () if boundary > 0})


def cosine(peak: float, start: int, stop: int, epoch: float, settings) -> Schedule:
    """peak -> peak * final_factor, half a cosine (Loshchilov, Hutter, 2017)."""
    return optax.cosine_decay_schedule(peak, max(1, stop - start),
                                       settings.final_factor)


def onecycle(peak: float, start: int, stop: int, epoch: float, settings) -> Schedule:
    """peak/25 -> peak over the warm-up, else 30 %, then down (Smith, Topin, 2018)."""
    return optax.cosine_onecycle_schedule(
        stop, peak, pct_start=start / stop or 0.3, div_factor=25.0,
        final_div_factor=1 / (25 * max(settings.final_factor, 4e-6)))


def inverse(peak: float, start: int, stop: int, epoch: float, settings) -> Schedule:
    """peak / (1 + decay * updates), Keras' `decay` of an optimiser."""
    return lambda update: peak / (1 + settings.decay * update)


SCHEDULES = {"constant": constant, "step": step, "cosine": cosine, "onecycle": onecycle,
             "inverse": inverse}


def schedule(config, steps_per_epoch: int) -> Schedule:
    """Learning rate as a function of the number of updates made so far.

    With `optimizer.accumulate_steps` = k an epoch has steps_per_epoch / k updates.
    A warm-up rises linearly; the named schedule has the rest of the run.
    """
    settings, peak = config.schedule, config.optimizer.learning_rate
    epoch = steps_per_epoch / config.optimizer.accumulate_steps  # updates
    stop = max(1, int(config.epochs * epoch))
    start = min(round((settings.warmup_epochs or 0) * epoch), stop)
    after = SCHEDULES[settings.name](peak, start, stop, epoch, settings)
    if settings.name == "onecycle" or start == 0:
        return after
    rise = optax.linear_schedule(peak / (start + 1), peak, start)  # never 0
    return optax.join_schedules([rise, after], [start])


def is_kernel(params):
    """True for kernels: neither biases nor batch norm."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)


def decays(settings):
    """The mask of the leaves that weight decay acts on: kernels, those of some parts
    if `decay_parts` names any."""
    def mask(params):
        kernels = is_kernel(params)
        if not settings.decay_parts:
            return kernels
        chosen = parts_mask(params, settings.decay_parts)
        return jax.tree.map(operator.and_, kernels, chosen)
    return mask


def matrix_axes(params):
    """How Muon sees each kernel as a matrix: HWIO -> (H*W*I) x O; biases use Adam."""
    def axes(leaf):
        if leaf.ndim < 2:
            return None
        return MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)
    return jax.tree.map(axes, params)


def decayed(make):
    """Adds L2 to an optimiser that has none: gradient + weight_decay * kernel."""
    def build(rate, settings):
        if settings.weight_decay == 0:
            return make(rate, settings)
        return optax.chain(
            optax.add_decayed_weights(settings.weight_decay, decays(settings)),
            make(rate, settings))
    return build


OPTIMIZERS = {
    "sgd": decayed(lambda rate, s: optax.sgd(rate)),
    "momentum": decayed(lambda rate, s: optax.sgd(rate, s.momentum)),
    "nesterov": decayed(lambda rate, s: optax.sgd(rate, s.momentum, nesterov=True)),
    "rmsprop": decayed(lambda rate, s: optax.rmsprop(
        rate, decay=0.9, eps=1e-7, momentum=s.momentum or None)),
    "adam": decayed(lambda rate, s: optax.adam(rate)),
    "adamw": lambda rate, s: optax.adamw(
        rate, weight_decay=s.weight_decay, mask=decays(s)),
    "muon": lambda rate, s: muon(
        rate, beta=s.momentum, weight_decay=s.weight_decay, weight_decay_mask=decays(s),
        muon_weight_dimension_numbers=matrix_axes, consistent_rms=0.2),
}


def create(config, rate: Schedule) -> optax.GradientTransformation:
    """Clip the gradient, update by name, accumulate: in the order of the data flow.

    Parameters in `model.freeze` keep their values and count nowhere.
    """
    settings = config.optimizer
    transform = OPTIMIZERS[settings.name](rate, settings)
    if settings.clip_norm is not None:
        transform = optax.chain(optax.clip_by_global_norm(settings.clip_norm),
                                transform)
    if settings.accumulate_steps > 1:
        transform = optax.MultiSteps(
            transform, settings.accumulate_steps).gradient_transformation()
    if config.model.freeze:
        transform = optax.partition(
            {True: optax.set_to_zero(), False: transform},
            functools.partial(freeze_mask, chosen=config.model.freeze))
    return transform
