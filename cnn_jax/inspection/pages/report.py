"""report.html: everything about one run in one file, for screen, phone and paper."""

import json
import math
from pathlib import Path
from typing import Any

from cnn_jax import data
from cnn_jax.files import write_atomically
from cnn_jax.inspection.draw.classification_metrics import describe_right
from cnn_jax.inspection.draw.learning_curves import CURVES, curves
from cnn_jax.inspection.draw.picture import read_index
from cnn_jax.inspection.explain.classification_metrics import (
    ClassificationMetrics, calibration_error, class_scores, mean_known)
from cnn_jax.inspection.pages.record import Record, defaults, fields, read_record
from cnn_jax.inspection.pages.rendering import drawn, render, stored
from cnn_jax.networks.summary_files import LayerRecord, Summary

FILE, PICTURES = "report.html", "pictures"  # in a workdir
# Pictures that are shown among the results.
AT_END = ("confusion", "class_scores", "calibration", "mistakes")
DRAWN_ANEW = "learning_curves"
CONTENTS = (("curves", "Learning curves"), ("results", "Results"),
            ("pictures", "Pictures"), ("network", "Network"), ("config", "Config"),
            ("environment", "Environment"))
LAYER_COLUMNS = (("layer", "layer"), ("kind", "kind"), ("output_shape", "output"),
                 ("params", "parameters"), ("macs", "MACs"), ("memory_bytes", "bytes"),
                 ("field_size_vertical", "field"), ("field_stride_vertical", "stride"),
                 ("field_offset_vertical", "offset"))


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html from the files there; it computes nothing.

    A run that has not ended gets a report too, which says so.
    Raises InputError for a folder that is not a run, or has damaged files.
    """
    path = workdir / FILE
    write_atomically(path, render("report.html", **page_of(read_record(workdir))))
    return path


def page_of(record: Record) -> dict[str, Any]:
    """Returns what the template shows of a run."""
    best, step = record.best, int(record.best["step"]) if record.best else None
    images = [stored(record.folder / PICTURES, row, step)
              for row in read_index(record.folder / PICTURES)]
    images = [image for image in images if image["name"] != DRAWN_ANEW]
    config, standard = fields(record.config), defaults()
    heading = f"{record.config.model.name} on {record.config.data.name}"
    return {
        "title": f"{heading} - {record.name}", "heading": heading, "name": record.name,
        "source": record.info.source, "contents": CONTENTS,
        "status": status(record), "headline": headline(record),
        "curves": [drawn(picture) for picture in curves(
            record.history, int(best["epoch"]) if best else None)],
        "scores": record.metrics and score_table(record.metrics, step),
        "metrics": [image for image in images if image["name"] in AT_END],
        "pictures": sorted((image for image in images if image["name"] not in AT_END),
                           key=lambda image: image["wide"]),  # columns, then rows
        "inspected": any(image["name"] not in (*AT_END, "weights") for image in images),
        "layers": record.summary and layer_table(record.summary),
        "changes": None if standard is None else [
            (name, text(value), text(standard[name]) if name in standard else "")
            for name, value in config.items()
            if name not in standard or standard[name] != value],
        "config": [(name, text(value)) for name, value in sorted(config.items())],
        "environment": environment(record.results or {})}


def text(value: Any) -> str:
    """Formats a value of a config: 0.001, [28, 28], None, "" and words as they are."""
    if value is None:
        return "None"
    return value if isinstance(value, str) and value else json.dumps(value)


def status(record: Record) -> str:
    """Says how far a run without results has come."""
    if record.results is not None:
        return ""
    ended, total = len(record.history), record.config.epochs
    words = (f"This run has no results yet: {ended} of {total} epochs have ended. It "
             "is still going on or was stopped; the command that started it goes on "
             "from the last checkpoint.")
    return words if ended else words.replace(
        "goes on from the last checkpoint", "goes on or starts again")


def headline(record: Record) -> list[dict[str, Any]]:
    """Returns the figures to see first: name, value, note, whether it is the main one.
    """
    results, best = record.results or {}, record.best or {}
    task = data.task_of(record.config.data)
    rows = []
    for split, figures, prefix, count in (
            ("test", results, "test_", results.get("test_examples", 0)),
            ("validation", best, "val_", record.info.counts["validation"])):
        accuracy = figures.get(prefix + "accuracy")
        if accuracy is None or not count:
            continue
        rows += [fact(f"{split} {CURVES[name]}", f"{figures[prefix + name]:.4f}",
                      f"{count:,} images")
                 for name in task.monitors if figures.get(prefix + name) is not None]
        # Pixels of an image are not independent: no standard error.
        rows.append(fact(f"{split} pixel accuracy", f"{accuracy:.2%}")
                    if task.unit == "pixel" else
                    fact(f"{split} accuracy", f"{accuracy:.2%}",
                         precision(accuracy, count)))
    if not rows and best:
        rows.append(fact("training accuracy", f"{best['accuracy']:.2%}",
                         f"epoch {best['epoch']:.0f}"))
    if rows:
        rows[0]["main"] = True
    if best:
        rows.append(fact("best epoch", f"{best['epoch']:.0f} of {len(record.history)}",
                         f"by {record.config.checkpoint.monitor}"))
    parameters = results.get("params", record.summary and record.summary.params)
    if parameters is not None:
        rows.append(fact("parameters", f"{parameters:,}"))
    seconds = (results.get("train_seconds") if results
               else sum(row["seconds"] for row in record.history) or None)
    if seconds is not None:
        speed = results.get("images_per_second")
        rows.append(fact("training time", duration(seconds),
                         f"{speed:,.0f} images/s" if speed else ""))
    return rows


def fact(name: str, value: str, note: str = "") -> dict[str, Any]:
    """Returns one of the figures at the top."""
    return {"name": name[0].upper() + name[1:], "value": value, "note": note,
            "main": False}


def precision(share: float, count: int) -> str:
    """Returns the standard error of a share of independent images: sqrt(p (1 - p) / n).
    """
    error = math.sqrt(share * (1 - share) / count)
    return f"{count:,} images, standard error {error:.2%}"


def duration(seconds: float) -> str:
    """Formats '12.3 s', '4 min 10 s', '3 h 5 min'."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def score_table(metrics: ClassificationMetrics, step: int | None) -> dict[str, Any]:
    """Returns the scores of every class, and their means, as rows of text."""
    scores = class_scores(metrics.counts)
    columns = {"precision": scores["precision"], "recall": scores["recall"],
               "F1": scores["f1"]}
    if metrics.unit == "pixel":
        columns["IoU"] = scores["iou"]
    if metrics.average_precision is not None:
        columns["AP"] = metrics.average_precision
    rows = [(name, f"{scores['examples'][i]:,}",
             *(share(values[i]) for values in columns.values()))
            for i, name in enumerate(metrics.class_names)]
    stale = ("" if metrics.step == step else
             f" These figures are from step {metrics.step}, which is not the best "
             "checkpoint.")
    return {
        "words": f"{describe_right(metrics)} ({metrics.right / metrics.examples:.2%}). "
                 "The expected calibration error is "
                 f"{calibration_error(metrics.bins):.4f}.{stale}",
        "caption": f"Every class on the {metrics.split} split",
        "columns": [("class", False), (f"{metrics.unit}s", True),
                    *((name, True) for name in columns)],
        "rows": rows,
        "last": ("mean", f"{metrics.examples:,}",
                 *(share(mean_known(values)) for values in columns.values()))}


def share(value: float) -> str:
    """Formats three digits; a dash for 0 / 0."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def layer_table(summary: Summary) -> dict[str, Any]:
    """Returns summary.json as rows of text."""
    def cell(row: LayerRecord, column: str) -> str:
        value = getattr(row, column)
        if value is None:
            return ""
        return f"{value:,}" if isinstance(value, int) else str(value)

    size = "x".join(map(str, summary.input_shape))
    return {
        "caption": f"Layers of {summary.model}",
        "words": f"{summary.model} on images of {size}: {summary.params:,} "
                 f"parameters. For one image, {summary.macs:,} multiply-adds (MACs) "
                 f"and {summary.memory_bytes:,} bytes of activations. An output "
                 "depends on as many rows of input pixels as its field says.",
        "columns": [(words, i > 2) for i, (_, words) in enumerate(LAYER_COLUMNS)],
        "rows": [tuple(cell(row, column) for column, _ in LAYER_COLUMNS)
                 for row in summary.layers]}


def environment(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Says where a run was made, from its results."""
    named = {"command": "command", "machine": "machine", "devices": "devices",
             "convolutions": "convolutions", "commit": "commit",
             "peak_memory_mb": "peak memory, MB",
             "device_peak_memory_mb": "peak memory of a device, MB",
             "compile_seconds": "compiling, s", "params_sha256": "sha256 of the state"}
    rows = [(words, value_in_words(results[name])) for name, words in named.items()
            if results.get(name) is not None]
    return rows + [(package, str(version))
                   for package, version in results.get("versions", {}).items()]


def value_in_words(value: Any) -> str:
    """Joins a list by commas, and {algorithm: number of layers} too."""
    if isinstance(value, dict):
        value = [f"{count} by {name}" for name, count in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
