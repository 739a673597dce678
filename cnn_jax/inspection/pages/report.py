"""report.html: everything about one run in one file, for a screen, a phone or paper."""

import json
import math
from pathlib import Path
from typing import Any

from cnn_jax.inspection.draw.picture import read_index
from cnn_jax.inspection.draw.plots import curves
from cnn_jax.inspection.explain.classification_metrics import (SCORES, Quality,
                                                               calibration_error,
                                                               class_scores, means)
from cnn_jax.inspection.pages.record import Record, defaults, fields, read_record
from cnn_jax.inspection.pages.rendering import drawn, render, stored
from cnn_jax.files import write_atomically

FILE, PICTURES = "report.html", "pictures"  # in a workdir
AT_END = ("confusion", "calibration", "mistakes")  # shown among the results
DRAWN_ANEW = "learning_curves"
CONTENTS = (("curves", "Learning curves"), ("results", "Results"),
            ("pictures", "Pictures"), ("network", "Network"), ("config", "Config"),
            ("environment", "Environment"))
LAYER_COLUMNS = (("layer", "layer"), ("kind", "kind"), ("output_shape", "output"),
                 ("params", "parameters"), ("macs", "MACs"), ("memory_bytes", "bytes"),
                 ("field_size_vertical", "field"), ("field_stride_vertical", "stride"),
                 ("field_offset_vertical", "offset"))


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html from the files there; nothing is computed anew.

    A run that has not ended gets one too, which says so.
    Raises InputError for a folder that is no run, or has damaged files.
    """
    path = workdir / FILE
    write_atomically(path, render("report.html", **page_of(read_record(workdir))))
    return path


def page_of(record: Record) -> dict[str, Any]:
    """What the template shows of a run."""
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
        "scores": record.quality and score_table(record.quality, step),
        "quality": [image for image in images if image["name"] in AT_END],
        "pictures": [image for image in images if image["name"] not in AT_END],
        "inspected": len(images) > len(AT_END) + 1,
        "layers": record.layers and layer_table(record.layers),
        "changes": None if standard is None else [
            (name, text(value), text(standard[name]) if name in standard else "")
            for name, value in config.items()
            if name not in standard or standard[name] != value],
        "config": [(name, text(value)) for name, value in sorted(config.items())],
        "environment": environment(record.results or {})}


def text(value: Any) -> str:
    """A value of a config: 0.001, [28, 28], "" and words as they are."""
    return value if isinstance(value, str) and value else json.dumps(value)


def status(record: Record) -> str:
    """What is to be said of a run without results."""
    if record.results is not None:
        return ""
    ended, total = len(record.history), record.config.epochs
    words = (f"This run has no results yet: {ended} of {total} epochs have ended. It "
             "is still going on or was stopped; the command that started it goes on "
             "from the last checkpoint.")
    return words if ended else words.replace(
        "goes on from the last checkpoint", "goes on or starts again")


def headline(record: Record) -> list[dict[str, Any]]:
    """The figures to see first: name, value, note, and whether it is the main one."""
    results, best = record.results or {}, record.best or {}
    rows = []
    for part, accuracy, iou in (
            ("test", results.get("test_accuracy"), results.get("test_mean_iou")),
            ("validation", best.get("val_accuracy"), best.get("val_mean_iou"))):
        count = (results.get("test_examples", 0) if part == "test"
                 else record.info.counts["validation"])
        if accuracy is None or not count:
            continue
        unit = "pixel accuracy" if iou is not None else "accuracy"
        if iou is not None:
            rows.append(fact(f"{part} mean IoU", f"{iou:.4f}", f"{count:,} images"))
        rows.append(fact(f"{part} {unit}", f"{accuracy:.2%}",
                         "" if iou is not None else precision(accuracy, count)))
    if not rows and best:
        rows.append(fact("training accuracy", f"{best['accuracy']:.2%}",
                         f"epoch {best['epoch']:.0f}"))
    if rows:
        rows[0]["main"] = True
    if best:
        rows.append(fact("best epoch", f"{best['epoch']:.0f} of {len(record.history)}",
                         f"by {record.config.checkpoint.monitor}"))
    parameters = results.get("params", (record.layers or {}).get("params"))
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
    return {"name": name[0].upper() + name[1:], "value": value, "note": note,
            "main": False}


def precision(share: float, count: int) -> str:
    """How far a share of so many independent images can be off: its standard error,
    sqrt(p (1 - p) / n)."""
    error = math.sqrt(share * (1 - share) / count)
    return f"{count:,} images, standard error {error:.2%}"


def duration(seconds: float) -> str:
    """'12.3 s', '4 min 10 s', '3 h 5 min'"""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def score_table(quality: Quality, step: int | None) -> dict[str, Any]:
    """Precision, recall, F1 (and IoU of pixels) of every class, and their means."""
    scores = class_scores(quality.confusion)
    names = SCORES if quality.unit == "pixel" else SCORES[:-1]
    words = {"precision": "precision", "recall": "recall", "f1": "F1", "iou": "IoU"}
    rows = [(name, f"{scores['examples'][i]:,}",
             *(share(scores[key][i]) for key in names))
            for i, name in enumerate(quality.class_names)]
    average, total = means(scores), int(quality.confusion.sum())
    right = int(quality.confusion.trace())
    stale = ("" if quality.step == step else
             f" They are of step {quality.step}, which is not the best checkpoint.")
    return {
        "words": f"{right:,} of {total:,} {quality.unit}s of the {quality.part} part "
                 f"are right ({right / total:.2%}). The expected calibration error is "
                 f"{calibration_error(quality.bins):.4f}.{stale}",
        "caption": f"Every class on the {quality.part} part",
        "columns": [("class", False), (f"{quality.unit}s", True),
                    *((words[name], True) for name in names)],
        "rows": rows,
        "last": ("mean of the classes", f"{total:,}",
                 *(share(average[key]) for key in names))}


def share(value: float) -> str:
    """Three digits; a dash for 0 / 0."""
    return "-" if math.isnan(value) else f"{value:.3f}"


def layer_table(table: dict[str, Any]) -> dict[str, Any]:
    """summary.json as rows of text."""
    def cell(row, column):
        value = row.get(column)
        if value is None:
            return ""
        return f"{value:,}" if isinstance(value, int) else value

    size = "x".join(map(str, table["input_shape"]))
    return {
        "caption": f"Layers of {table['model']}",
        "words": f"{table['model']} on images of {size}: {table['params']:,} "
                 f"parameters. For one image, {table['macs']:,} multiply-adds (MACs) "
                 f"and {table['memory_bytes']:,} bytes of activations. An output "
                 "depends on as many input pixels as its field has, down the image.",
        "columns": [(words, i > 2) for i, (_, words) in enumerate(LAYER_COLUMNS)],
        "rows": [tuple(cell(row, column) for column, _ in LAYER_COLUMNS)
                 for row in table["layers"]]}


def environment(results: dict[str, Any]) -> list[tuple[str, str]]:
    """Where a run was made, from its results."""
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
    if isinstance(value, dict):  # {algorithm: number of layers}
        value = [f"{count} by {name}" for name, count in value.items()]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
