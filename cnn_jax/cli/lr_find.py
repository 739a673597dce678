"""Suggests a learning rate, for --mode=lr_find and optimizer.learning_rate=auto."""

from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.cli.request import Request, required_config
from cnn_jax.console import Reporter
from cnn_jax.inspection.draw.lr_find import loss_of_rates
from cnn_jax.inspection.draw.picture import check_format, save
from cnn_jax.training.lr_find import LOW, UPDATES, find_rate
from cnn_jax.workdir.folder import read_config

FIELD = "optimizer.learning_rate"


def lr_find(request: Request) -> None:
    """Prints rates for a config, and draws the loss against the rate."""
    path = request.output or Path("lr_find.png")
    check_format(path)
    config = required_config(request)
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
