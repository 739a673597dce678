"""Draws pictures into a workdir, with TensorBoard's events, metrics and the report."""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.files import file_errors
from cnn_jax.inspection.draw import (activation_stats, classification_metrics,
                                     embedding, error_analysis, feature_maps, kernels,
                                     learning_curves, maximize, mistake_maps,
                                     receptive_field, saliency)
from cnn_jax.inspection.draw.network import draw_network
from cnn_jax.inspection.draw.picture import Picture, write
from cnn_jax.inspection.explain.classification_metrics import save
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.pages.report import PICTURE_FOLDER, write_report
from cnn_jax.inspection.predictions_csv import save_predictions
from cnn_jax.inspection.selection import NotForThisNetwork, split_names
from cnn_jax.workdir.event_file import EventFile
from cnn_jax.workdir.tensorboard_x import summary

# Name -> function of (run, config.inspect) that yields pictures
PICTURES: dict[str, Callable[[InspectedRun, ConfigDict], Iterable[Picture]]] = {
    "learning_curves": learning_curves.of_run,
    "classification_metrics": classification_metrics.metrics,
    "error_analysis": error_analysis.error_analysis,
    "mistake_maps": mistake_maps.mistake_maps,
    "weights": activation_stats.weights,
    "activation_stats": activation_stats.activations,
    "embedding": embedding.embedding,
    "kernels": kernels.first_layer,
    "feature_maps": feature_maps.feature_maps,
    "receptive_field": receptive_field.receptive_fields,
    "saliency": saliency.saliency,
    "maximized_filters": maximize.filters,
    "maximized_classes": maximize.classes,
}
# Every run draws these when it ends: they need one forward pass over the split.
# --mode=inspect draws the others.
AT_END = ("classification_metrics", "weights")
# Pictures whose arrays are {layer: values}: TensorBoard gets histograms of them too.
HISTOGRAMS = ("weights", "activations")
BINS = 40


def chosen_names(only: str | None) -> list[str]:
    """Lists the pictures named in 'saliency,kernels', or all pictures for None."""
    names = split_names(only)
    for name in names:
        if name not in PICTURES:
            raise InputError(f"config.inspect.only = {only!r}: there is no picture "
                             f"{name!r}; known are {', '.join(PICTURES)}")
    return [name for name in PICTURES if not names or name in names]


def draw_at_end(run: InspectedRun, workdir: Path, progress: Reporter) -> None:
    """Draws the pictures and the report that every run makes at its end.

    A run that started from other weights also draws its mistakes with Grad-CAM.
    """
    names = (*AT_END, "mistake_maps") if run.config.model.init_from else AT_END
    draw_pictures(run, names, run.config.inspect, workdir, progress)


def draw_pictures(run: InspectedRun, names: Sequence[str], settings: ConfigDict,
                  workdir: Path, progress: Reporter) -> list[Path]:
    """Draws some of `PICTURES`, writes the report, and returns the picture files.

    A picture that does not exist for this kind of network is skipped with a line that
    says so, unless `settings.only` names it.
    """
    paths: list[Path] = []
    done, name = 0, ""
    run = run.with_progress(lambda text: progress.advance(done, text))
    events = EventFile(workdir / "inspection")  # TensorBoard shows it as a run
    with progress.progress_bar("pictures", len(names)), contextlib.closing(events):
        for done, name in enumerate(names):
            progress.advance(done, name)
            try:
                for picture in PICTURES[name](run, settings):
                    paths.append(write(picture, workdir / PICTURE_FOLDER, run.step))
                    add_event(events, picture, paths[-1], run.step)
            except NotForThisNetwork as error:
                if name in split_names(settings.only):
                    raise
                progress.line(f"without {name}: {error}")
    draw_network(run, workdir, progress)
    with progress.under_way("writing the report", plain=False):
        if ("classification_metrics" in names and len(run.examples.labels)
                and run.task.figures != "values"):
            save(classification_metrics.measure_run(run), workdir)
        if "error_analysis" in names and len(run.examples.labels):
            save_predictions(run, workdir)
        write_report(workdir)
    return paths


def add_event(events: EventFile, picture: Picture, file: Path, step: int) -> None:
    """Adds a picture as pictures/NAME, and its histograms as NAME/LAYER."""
    with Image.open(file) as content:
        pixels = np.asarray(content.convert("RGB"))
    summaries = [summary.image(f"pictures/{picture.name}", pixels, dataformats="HWC")]
    if picture.name in HISTOGRAMS:
        summaries += [
            summary.histogram(f"{picture.name}/{layer}", values[np.isfinite(values)],
                              BINS) for layer, values in picture.arrays.items()]
    with file_errors(events.folder):
        events.add(summaries, step)
