"""Writes report.html: everything about one run in one file."""

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from cnn_jax.config import default_config
from cnn_jax.console import command, counted
from cnn_jax.files import write_atomically
from cnn_jax.inspection.draw.classification_metrics import describe_correct
from cnn_jax.inspection.draw.learning_curves import curves
from cnn_jax.inspection.draw.picture import read_index
from cnn_jax.inspection.explain.classification_metrics import MetricsFile
from cnn_jax.inspection.pages.diagram import embedded_diagram
from cnn_jax.inspection.pages.headline import headline
from cnn_jax.inspection.pages.record import Record, fields, read_record
from cnn_jax.inspection.pages.rendering import Table, drawn, render, stored
from cnn_jax.inspection.predictions_csv import FILES
from cnn_jax.networks.parts import part_of
from cnn_jax.networks.summary_files import SHORT, LayerRecord, Summary
from cnn_jax.workdir import profile
from cnn_jax.workdir.results import Results

FILE, PICTURE_FOLDER = "report.html", "pictures"  # in a workdir
# Pictures that are shown among the results.
AT_END = ("confusion", "class_scores", "calibration", "mistakes", "mistake_maps")
# Pictures of their own section.
ERRORS = ("highest_loss", "confusion_cells", "neighbours", "label_errors")
# With more than MANY classes, only the WORST worst are shown; the others are folded.
MANY, WORST = 30, 15
# Field of a row of summary.json -> heading
LAYER_COLUMNS = {"layer": "layer", "kind": "kind", "output_shape": "output",
                 "params": "parameters", "macs": "MACs", "memory_bytes": "bytes",
                 "field_size_vertical": "field", "field_stride_vertical": "stride",
                 "field_offset_vertical": "offset"}
# Field of results.json -> name on the page
ENVIRONMENT = {"command": "command", "machine": "machine", "devices": "devices",
               "convolutions": "convolutions", "commit": "commit",
               "peak_memory_mb": "peak memory, MB",
               "device_peak_memory_mb": "peak memory of a device, MB",
               "compile_seconds": "compiling, s",
               "params_sha256": "sha256 of the state"}


def write_report(workdir: Path) -> Path:
    """Writes WORKDIR/report.html from the files there; it computes nothing.

    An unfinished run gets a report too, which says so.
    Raises InputError for a folder that is not a run, or has damaged files.
    """
    path = workdir / FILE
    write_atomically(path, render("report.html", **page_of(read_record(workdir))))
    return path


def page_of(record: Record) -> dict[str, Any]:
    """Returns the values for the template."""
    best, step = record.best, int(record.best["step"]) if record.best else None
    images = [stored(record.folder / PICTURE_FOLDER, row, step)
              for row in read_index(record.folder / PICTURE_FOLDER)
              if row.name != "learning_curves"]  # the page draws its own
    config, standard = fields(record.config), fields(default_config())
    changes = [(name, text(value), text(standard[name]) if name in standard else "")
               for name, value in config.items()
               if name not in standard or standard[name] != value]
    heading = f"{record.config.model.name} on {record.config.data.name}"
    return {
        "title": f"{heading} - {record.name}", "heading": heading, "name": record.name,
        "source": record.info.source, "status": status(record),
        "trained_here": record.info.has_images,
        "headline": headline(record),
        "curves": [drawn(picture) for picture in curves(
            record.history, int(best["epoch"]) if best else None)],
        "metrics": record.metrics and describe_metrics(record.metrics, step),
        "scores": record.metrics and score_table(record.metrics),
        "worst": record.metrics and len(record.metrics.classes) > MANY
        and worst_classes(record.metrics),
        "results": by_width(image for image in images if image["name"] in AT_END),
        "errors": by_width(image for image in images if image["name"] in ERRORS),
        "predictions": sorted(path.name for path in record.folder.glob(
            FILES.format("*"))),
        "pictures": by_width(image for image in images
                             if image["name"] not in (*AT_END, *ERRORS)),
        "inspected": any(image["name"] not in (*AT_END, "weights") for image in images),
        "inspect_command": command("--mode=inspect", "--workdir=..."),
        "network": record.summary and describe_network(record.summary),
        "stages": stages(record.summary) if record.summary else [],
        "diagram": embedded_diagram(record.folder),
        "profile": record.profile and Table(
            profile.title(record.profile),
            ("operation", "source", "ms per step", "fraction"),
            profile.rows(record.profile), text_columns=2),
        "changes": changes and Table("Fields that differ from configs/default.py",
                                     ("field", "this run", "default"), changes,
                                     text_columns=3),
        "config": Table("All fields of the config", ("field", "value"), [
            (name, text(value)) for name, value in sorted(config.items())],
            text_columns=2),
        "environment": record.results and environment(record.results)}


def by_width(images: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sorts pictures: first those in columns, then those that take a row."""
    return sorted(images, key=lambda image: image["wide"])


def text(value: Any) -> str:
    """Formats a value of a config: 0.001, [28, 28], None; text is left as it is."""
    if value is None:
        return "None"
    return value if isinstance(value, str) and value else json.dumps(value)


def status(record: Record) -> str:
    """Says how far an unfinished run has come."""
    if record.results is not None or not record.info.has_images:
        return ""
    ended = len(record.history)
    effect = ("resumes it from the last checkpoint" if ended
              else "resumes or restarts it")
    return (f"This run has no results yet: {ended} of {record.config.epochs} epochs "
            "have ended. It is still running or was stopped; the command that started "
            f"it {effect}.")


def describe_metrics(metrics: MetricsFile, best_step: int | None) -> str:
    """Says how accurate and how well calibrated the network is."""
    stale = ("" if metrics.step == best_step else
             f" These figures are from step {metrics.step}, which is not the best "
             "checkpoint.")
    accuracy = metrics.correct / metrics.examples
    return (f"{describe_correct(metrics)} ({accuracy:.2%}). The expected calibration "
            f"error is {metrics.calibration_error:.4f}.{stale}")


def score_table(metrics: MetricsFile) -> Table:
    """Makes a row for each class with its scores, and a last row with their means."""
    scores = {"precision": "precision", "recall": "recall", "f1": "F1"}
    if metrics.unit == "pixel":
        scores["iou"] = "IoU"
    if metrics.confusion is None:
        scores["average_precision"] = "AP"
    return Table(
        f"Every class on the {metrics.split} split",
        ("class", f"{metrics.unit}s", *scores.values()),
        [(row.name, f"{row.examples:,}",
          *(three_digits(getattr(row, score)) for score in scores))
         for row in metrics.classes], text_columns=1,
        last=("mean", f"{metrics.examples:,}",
              *(three_digits(metrics.mean[score]) for score in scores)))


def worst_classes(metrics: MetricsFile) -> Table:
    """Makes the rows of the classes with the lowest F1."""
    worst = sorted(metrics.classes, key=lambda row: (row.f1 is None, row.f1))[:WORST]
    table = score_table(msgspec.structs.replace(metrics, classes=worst))
    return table._replace(
        caption=f"The {WORST} of {len(metrics.classes):,} classes with the lowest F1 "
        f"on the {metrics.split} split", last=None)


def three_digits(value: float | None) -> str:
    """Formats a fraction with three digits; a dash stands for 0 / 0."""
    return "-" if value is None else f"{value:.3f}"


def describe_network(summary: Summary) -> str:
    """Says how large a network is and how much it computes."""
    size = "x".join(map(str, summary.input_shape))
    return (f"{summary.model} on images of {size}: {summary.params:,} parameters. For "
            f"one image, {summary.macs:,} multiply-adds (MACs) and "
            f"{summary.memory_bytes:,} bytes of activations. The column "
            "'field' is the height of a unit's receptive field, in pixels.")


class Stage(NamedTuple):
    """Holds the layers that the page shows in one table."""

    title: str  # '' if the table is not folded
    layers: Table


def stages(summary: Summary) -> list[Stage]:
    """Makes a table for each part of a network, such as stage1; see `part_of`.

    A network with few layers has one table.
    """
    title = f"Layers of {summary.model}"
    if len(summary.layers) <= SHORT:
        return [Stage("", layer_table(title, summary.layers))]
    parts = itertools.groupby(summary.layers,
                              lambda row: part_of(row.layer.split("/")[0]))
    return [Stage(describe_part(name, layers), layer_table(f"Layers of {name}", layers))
            for name, layers in ((name, list(rows)) for name, rows in parts)]


def describe_part(name: str, layers: Sequence[LayerRecord]) -> str:
    """Returns 'stage1: 7 layers, output 8x8x16, 4,672 parameters, 295,936 MACs'."""
    return (f"{name}: {counted(len(layers), 'layer')}, output "
            f"{layers[-1].output_shape}, {sum(row.params for row in layers):,} "
            f"parameters, {sum(row.macs for row in layers):,} MACs")


def layer_table(title: str, layers: Sequence[LayerRecord]) -> Table:
    """Makes a row for each layer from summary.json."""
    def cell(value: str | int | None) -> str:
        return f"{value:,}" if isinstance(value, int) else value or ""

    return Table(title, tuple(LAYER_COLUMNS.values()),
                 [tuple(cell(getattr(layer, name)) for name in LAYER_COLUMNS)
                  for layer in layers], text_columns=3)


def environment(results: Results) -> Table:
    """Makes a table of the machine, the versions and the command of a run."""
    def cell(value: Any) -> str:
        if isinstance(value, dict):  # algorithm -> number of layers
            value = [f"{count} by {name}" for name, count in value.items()]
        return ", ".join(map(str, value)) if isinstance(value, list) else str(value)

    rows = [(label, cell(getattr(results, name)))
            for name, label in ENVIRONMENT.items()
            if getattr(results, name) is not None]
    return Table("Environment of the run", ("fact", "value"),
                 [*rows, *results.versions.items()], text_columns=2)
