"""Computes the figures at the top of a report: accuracies, best epoch, time."""

import math
from collections.abc import Mapping
from typing import Any

from cnn_jax import data
from cnn_jax.inspection.draw.learning_curves import capitalized, caption
from cnn_jax.inspection.pages.record import Record
from cnn_jax.tasks.metrics import metric_names

Fact = tuple[str, str, str]  # name, value, note


def headline(record: Record) -> list[Fact]:
    """Returns the most important figures, the main one first."""
    results, best = record.results, record.best
    rows = []
    if results is not None and results.test_examples:
        rows += accuracies(record, "test", results.flat(), "test_",
                           results.test_examples)
    if best is not None and record.info.counts["validation"]:
        rows += accuracies(record, "validation", best, "val_",
                           record.info.counts["validation"])
    if best is not None:
        if not rows:
            epoch = f"epoch {best['epoch']:.0f}"
            rows.append(fact("training accuracy", f"{best['accuracy']:.2%}", epoch)
                        if "accuracy" in best else
                        fact("training loss", f"{best['loss']:.4f}", epoch))
        rows.append(fact("best epoch", f"{best['epoch']:.0f} of {len(record.history)}",
                         f"by {record.config.checkpoint.monitor}"))
    if record.summary is not None:
        rows.append(fact("parameters", f"{record.summary.params:,}"))
    if results is not None:
        rows.append(fact("training time", duration(results.train_seconds),
                         f"{results.images_per_second:,.0f} images/s"))
    elif best is not None:
        rows.append(fact("training time", duration(
            sum(row["seconds"] for row in record.history))))
    return rows


def accuracies(record: Record, split: str, figures: Mapping[str, Any], prefix: str,
               count: int) -> list[Fact]:
    """Returns the figures of one split: those that the task adds, then the accuracy."""
    task = data.task_of(record.config.data)
    names = (*task.monitors, *metric_names(record.config.eval.metrics))
    rows = [fact(f"{split} {caption(name)}", f"{figures[prefix + name]:.4f}",
                 f"{count:,} images")
            for name in names if figures.get(prefix + name) is not None]
    accuracy = figures.get(prefix + "accuracy")
    if accuracy is None:
        return rows
    simple = guesses(record, split)
    if task.unit == "pixel":  # pixels of an image are not independent
        return [*rows, fact(f"{split} pixel accuracy", f"{accuracy:.2%}", simple)]
    return [*rows, fact(f"{split} accuracy", f"{accuracy:.2%}", "; ".join(
        filter(None, (precision(accuracy, count), simple))))]


def guesses(record: Record, split: str) -> str:
    """Says how accurate a random guess is, and a constant guess if that is better.

    A random guess among C classes is right with probability 1 / C, however frequent
    they are. The constant guess is the most frequent class. Returns '' if an image may
    have several classes.
    """
    metrics, classes = record.metrics, len(record.info.class_names)
    if not data.task_of(record.config.data).exclusive or classes < 2:
        return ""
    text = chance(classes)
    if metrics is not None and metrics.split == split:
        most = max(metrics.classes, key=lambda row: row.examples)
        fraction = most.examples / metrics.examples
        if fraction * classes > 1.01:
            text += f"; the most frequent class, {most.name}, has {fraction:.1%}"
    return text


def chance(classes: int) -> str:
    """Says how accurate a random guess among `classes` classes is."""
    return f"chance is {100 / classes:.3g}%"


def fact(name: str, value: str, note: str = "") -> Fact:
    """Returns one of the figures at the top of the page."""
    return capitalized(name), value, note


def precision(fraction: float, count: int) -> str:
    """Writes the standard error of a fraction p of n independent images.

    It is sqrt(p (1 - p) / n). That is 0 if all of them are right, or none. Then it is
    the one-sided 95 % bound of Clopper and Pearson, 0.05^(1 / n) or 1 minus that.
    """
    if fraction in (0, 1):
        bound = 0.05 ** (1 / count)
        side = f"above {bound:.1%}" if fraction else f"below {1 - bound:.1%}"
        return f"{count:,} images, {side} with 95% confidence"
    error = math.sqrt(fraction * (1 - fraction) / count)
    return f"{count:,} images, standard error {error:.2%}"


def duration(seconds: float) -> str:
    """Formats '12.3 s', '4 min 10 s', '3 h 5 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, remainder = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {remainder} s"
    return f"{minutes // 60} h {minutes % 60} min"
