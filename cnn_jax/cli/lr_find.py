"""Suggests a learning rate, for --mode=lr_find and optimizer.learning_rate=auto."""

import math
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.cli.request import Request, required_config
from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw.lr_find import loss_of_rates, losses_by_rate
from cnn_jax.inspection.draw.picture import check_format, save
from cnn_jax.training.lr_find import LOW, UPDATES, find_rate
from cnn_jax.training.rates import compare_rates
from cnn_jax.workdir.folder import read_config

FIELD = "optimizer.learning_rate"


def lr_find(request: Request) -> None:
    """Prints rates for a config, and draws the loss against the rate."""
    path = request.output or Path("lr_find.png")
    check_format(path)
    config = required_config(request)
    if request.rates is not None:
        compare(config, *parse_rates(request.rates), path)
        return
    found = find_rate(config, Reporter())
    marked = {"steepest": found.steepest, "a tenth of the minimum": found.tenth}
    picture = loss_of_rates(found.rates, found.losses, found.smoothed, marked)
    save(picture, path)
    ended = " (there the loss was too large)" if len(found.rates) < UPDATES else ""
    print(f"{len(found.rates)} updates with rates from {LOW:g} to {found.rates[-1]:.2g}"
          + ended)
    for name, rate in marked.items():
        print(f"{name}: --config.{FIELD}={as_given(rate, config):.2g}")
    print(path)


def parse_rates(text: str) -> tuple[int, tuple[float, float] | None]:
    """Parses 'N', or 'N:LOW:HIGH' with the ends."""
    try:
        count, *ends = text.split(":")
        low, high = map(float, ends) if ends else (1.0, 2.0)
        if int(count) < 2 or not 0 < low < high < math.inf:
            raise ValueError
    except ValueError:
        raise InputError(f"--rates={text} must be N or N:LOW:HIGH with N of 2 or more "
                         "and 0 < LOW < HIGH, such as 12 or 12:1e-4:1e-1") from None
    return int(count), (low, high) if ends else None


def compare(config: ConfigDict, count: int, ends: tuple[float, float] | None,
            path: Path) -> None:
    """Prints and draws the losses of several constant rates, and names the best.

    ends: the lowest and the highest; None: a tenth of the rate of the steepest loss
        and ten times it.
    """
    report = Reporter()
    if ends is None:
        steepest = as_given(find_rate(config, report).steepest, config)
        report.line(f"steepest: --config.{FIELD}={steepest:.2g}")
        ends = steepest / 10, steepest * 10
    rates = np.array([float(f"{rate:.3g}") for rate in np.geomspace(*ends, count)])
    result = compare_rates(config, rates, report)
    best, last = result.best, result.smoothed[-1]
    save(losses_by_rate(rates, result.smoothed, result.diverged, best), path)
    print(f"{count} constant rates, {len(result.losses)} updates with each:")
    print(f"{'learning_rate':>13}  {'smoothed loss':>13}  diverged")
    for rate, loss, diverged in zip(rates, last, result.diverged):
        print(f"{rate:13g}  {loss:13.4f}  {'yes' if diverged else 'no'}")
    print(f"best: --config.{FIELD}={rates[best]:g}")
    print(path)


def as_given(rate: float, config: ConfigDict) -> float:
    """Returns the learning_rate of a config for which training has this rate."""
    settings = config.optimizer
    if settings.base_batch_size is None:
        return rate
    images = config.batch_size * settings.accumulate_steps
    return rate * settings.base_batch_size / images


def with_found_rate(config: ConfigDict, workdir: Path | None) -> ConfigDict:
    """Returns the config with the rate of the steepest loss, rounded to two digits.

    workdir: a run there keeps its rate.
    """
    report = Reporter()
    if workdir is not None and (workdir / "config.json").exists():
        rate = read_config(workdir).optimizer.learning_rate
        report.line(f"optimizer.learning_rate = {rate:g}, which was found before")
    else:
        rate = float(f"{as_given(find_rate(config, report).steepest, config):.2g}")
        report.line(f"optimizer.learning_rate = {rate:g}: there the loss falls fastest")
    config = config.copy_and_resolve_references()
    config.optimizer.learning_rate = rate
    return config
