"""Describes a run in ten lines: what it is, its progress, metrics and next command."""

import dataclasses
from pathlib import Path

from cnn_jax import console
from cnn_jax.cli.request import Request, required_run
from cnn_jax.console import COUNTERS
from cnn_jax.errors import InputError
from cnn_jax.inspection.pages.record import Record, read_record
from cnn_jax.workdir.checkpoints import step_folders
from cnn_jax.workdir.folder import without_stop
from cnn_jax.workdir.progress import Row, should_stop


def describe(request: Request) -> None:
    """Prints the description of the run in --workdir, or in the only argument."""
    if request.paths:
        if request.workdir is not None or len(request.paths) > 1:
            raise InputError("--mode=describe describes one run: give one workdir")
        request = dataclasses.replace(request, workdir=Path(request.paths[0]))
    record = read_record(required_run(request))
    for title, text in described(record).items():
        print(f"{title + ':':12}{text}")


def described(record: Record) -> dict[str, str]:
    """Describes a run: {title: text}, one line each."""
    config, info, results = record.config, record.info, record.results
    lines = {"run": str(record.folder)}
    size = f", {record.summary.params:,} parameters" if record.summary else ""
    lines["network"] = f"{config.model.name}{size}, {config.dtype}"
    lines["data"] = info.source
    lines["recipe"] = (
        f"{config.optimizer.name}, rate {config.optimizer.learning_rate:g} "
        f"({config.schedule.name}), batches of {config.batch_size}, seed {config.seed}")
    lines["progress"] = progress(record)
    if record.best is not None:
        lines["best"] = (f"epoch {record.best['epoch']:.0f} by "
                         f"{config.checkpoint.monitor}: {figures(record.best)}")
    if results is not None:
        test = {"loss": results.test_loss, "accuracy": results.test_accuracy} | {
            name.removeprefix("test_"): value
            for name, value in results.task_metrics.items() if name.startswith("test_")}
        metrics = " - ".join(f"{name}: {value:.4f}" for name, value in test.items()
                             if value is not None)
        lines["test"] = f"{metrics or 'no loss'} on {results.test_examples:,} examples"
        lines["trained on"] = (
            f"{', '.join(results.devices)}, jax {results.versions.get('jax', '?')}, "
            f"in {results.train_seconds:,.0f} s, {results.images_per_second:,.0f} "
            "images/s")
    lines["continue"] = next_command(record)
    lines["report"] = (str(record.folder / "report.html") if results is not None else
                       command(record.folder, "--mode=report"))
    return lines


def ended(record: Record) -> bool:
    """Tells whether all epochs are trained, or early stopping has ended the run."""
    stop = record.config.early_stopping
    return len(record.history) >= record.config.epochs or should_stop(
        record.history, stop.monitor, stop.patience, stop.min_delta)


def progress(record: Record) -> str:
    """Says how many epochs have ended, and from which step the run can continue."""
    epochs = f"{len(record.history)} of {record.config.epochs} epochs"
    folders = step_folders(record.folder / "checkpoints")
    step = f"; last checkpoint: step {folders[-1].name}" if folders else ""
    if not ended(record):
        return f"{epochs}, not finished{step}"
    early = len(record.history) < record.config.epochs
    how = "ended by early stopping" if early else "finished"
    return f"{epochs}, {how}" + ", not evaluated" * (record.results is None) + step


def figures(row: Row) -> str:
    """Writes the metrics of an epoch."""
    return " - ".join(f"{name}: {value:.4f}" for name, value in row.items()
                      if name not in COUNTERS)


def next_command(record: Record) -> str:
    """Writes the command that resumes an unfinished run, or doubles its epochs.

    A run that early stopping has ended cannot train on: a new run starts from it.
    """
    if not ended(record) or record.results is None:
        return command(record.folder)
    if len(record.history) < record.config.epochs:
        return without_stop(record.folder)
    return command(record.folder, f"--config.epochs={2 * record.config.epochs}")


def command(workdir: Path, *flags: str) -> str:
    """Writes a command about a run."""
    return console.command(f"--workdir={workdir}", *flags)
