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
    """Prints rates for a config, and draws the loss against the rate.

    The picture is `--output`, else lr_find.png in `--workdir` or the current folder.
    """
    path = request.output or (request.workdir or Path()) / "lr_find.png"
    check_format(path)
    config = required_config(request)
    if request.rates is not None:
        compare(config, *parse_rates(request.rates), path)
        return
    test = find_rate(config, Reporter())
    marked = {"steepest": test.steepest, "a tenth of the minimum": test.tenth}
    picture = loss_of_rates(test.rates, test.losses, test.smoothed, marked)
    save(picture, path)
    reason = " (there the loss was too large)" if len(test.rates) < UPDATES else ""
    print(f"{len(test.rates)} updates with rates from {LOW:g} to {test.rates[-1]:.2g}"
          + reason)
    for name, rate in marked.items():
        print(f"{name}: --config.{FIELD}={as_field(rate, config):.2g}")
    print(path)


def parse_rates(text: str) -> tuple[int, tuple[float, float] | None]:
    """Parses 'N' to (N, None), and 'N:LOW:HIGH' to (N, (LOW, HIGH))."""
    try:
        count, *bounds = text.split(":")
        low, high = map(float, bounds) if bounds else (1.0, 2.0)
        if int(count) < 2 or not 0 < low < high < math.inf:
            raise ValueError
    except ValueError:
        raise InputError(f"--rates={text} must be N or N:LOW:HIGH with N of 2 or more "
                         "and 0 < LOW < HIGH, such as 12 or 12:1e-4:1e-1") from None
    return int(count), (low, high) if bounds else None


def compare(config: ConfigDict, count: int, bounds: tuple[float, float] | None,
            path: Path) -> None:
    """Prints and draws the losses of several constant rates, and names the best.

    bounds: the lowest and the highest rate; None: a tenth and ten times the rate at
        which the loss falls fastest.
    """
    report = Reporter()
    if bounds is None:
        steepest = as_field(find_rate(config, report).steepest, config)
        report.line(f"steepest: --config.{FIELD}={steepest:.2g}")
        bounds = steepest / 10, steepest * 10
    rates = np.array([float(f"{rate:.3g}") for rate in np.geomspace(*bounds, count)])
    result = compare_rates(config, rates, report)
    best, last = result.best, result.smoothed[-1]
    save(losses_by_rate(rates, result.smoothed, result.diverged, best), path)
    print(f"{count} constant rates, {len(result.losses)} updates with each:")
    print(f"{'learning_rate':>13}  {'smoothed loss':>13}  diverged")
    for rate, loss, diverged in zip(rates, last, result.diverged):
        print(f"{rate:13g}  {loss:13.4f}  {'yes' if diverged else 'no'}")
    print(f"best: --config.{FIELD}={rates[best]:g}")
    print(path)


def as_field(rate: float, config: ConfigDict) -> float:
    """Returns the value of optimizer.learning_rate that makes training use this rate.

    They differ if the config has optimizer.base_batch_size.
    """
    settings = config.optimizer
    if settings.base_batch_size is None:
        return rate
    images = config.batch_size * settings.accumulate_steps
    return rate * settings.base_batch_size / images


def with_found_rate(config: ConfigDict, workdir: Path | None) -> ConfigDict:
    """Returns the config with the rate at which the loss falls fastest, to two digits.

    workdir: if it holds a run, its rate is kept.
    """
    report = Reporter()
    if workdir is not None and (workdir / "config.json").exists():
        rate = read_config(workdir).optimizer.learning_rate
        report.line(f"optimizer.learning_rate = {rate:g}, that of the run in {workdir}")
    else:
        rate = float(f"{as_field(find_rate(config, report).steepest, config):.2g}")
        report.line(f"optimizer.learning_rate = {rate:g}: there the loss falls fastest")
    config = config.copy_and_resolve_references()
    config.optimizer.learning_rate = rate
    return config
