"""Writes predictions_SPLIT.csv: a row for every image that was not trained on."""

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_jax.data.examples import Examples
from cnn_jax.files import write_atomically
from cnn_jax.inspection.explain.classification_metrics import image_ious
from cnn_jax.inspection.explain.label_errors import (find_label_errors,
                                                     normalized_margin)
from cnn_jax.inspection.inspected_run import InspectedRun, Outcome

FILES = "predictions_{}.csv"  # in a workdir, by split


class Suspect(NamedTuple):
    """Identifies an image whose label is probably wrong."""

    split: str
    row: int        # in the split
    suggested: int  # the class that it probably is


def suspects(run: InspectedRun) -> list[Suspect]:
    """Lists the probable label errors of all splits that were not trained on.

    Confident learning needs images that the network was not trained on, with one class
    each; for others the list is empty.
    """
    if not run.task.one_class_per_image or run.split == "train":
        return []
    images = [(split, row) for split, outcome in run.outcomes.items()
              for row in range(len(outcome.losses))]
    errors = find_label_errors(
        np.concatenate([examples_of(run, split).labels for split in run.outcomes]),
        np.concatenate([outcome.probabilities for outcome in run.outcomes.values()]))
    return [Suspect(split, row, int(suggested))
            for (split, row), suggested in zip((images[i] for i in errors.rows),
                                               errors.suggested)]


def examples_of(run: InspectedRun, split: str) -> Examples:
    """Returns the examples of a split."""
    return run.examples if split == run.split else run.splits[split]


def save_predictions(run: InspectedRun, workdir: Path) -> None:
    """Writes a file for each split of `run.outcomes`."""
    ranked = suspects(run)
    for split, outcome in run.outcomes.items():
        ranks = {suspect.row: (rank, run.class_name(suspect.suggested))
                 for rank, suspect in enumerate(ranked, 1) if suspect.split == split}
        text = io.StringIO()
        rows = list(table(run, split, outcome, ranks))
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(workdir / FILES.format(split), text.getvalue())


def table(run: InspectedRun, split: str, outcome: Outcome,
          ranks: Mapping[int, tuple[int, str]]) -> Iterator[dict[str, object]]:
    """Yields a row for each image of a split.

    ranks: index -> (rank among the probable label errors, name of the suggested class).
    """
    labels, predicted = examples_of(run, split).labels, outcome.predicted
    ious = image_ious(labels, predicted) if run.task.unit == "pixel" else None
    probabilities = outcome.probabilities if run.task.one_class_per_image else None
    margin = None if probabilities is None else normalized_margin(labels, probabilities)
    for i, (label, prediction) in enumerate(zip(labels, predicted)):
        row: dict[str, object] = {"step": run.step, "index": i,
                                  "image": run.image_name(split, i)}
        if run.task.figures == "values":
            for name, truth, value in zip(run.class_names, label, prediction):
                row |= {name: f"{truth:.6g}", f"predicted {name}": f"{value:.6g}"}
        else:
            row |= {"label": run.label_text(label),
                    "prediction": run.label_text(prediction)}
        row["loss"] = f"{outcome.losses[i]:.6g}"
        if outcome.correct is not None:
            row["correct"] = f"{outcome.correct[i]:.6g}"
        if ious is not None:
            row["mean_iou"] = f"{ious[i]:.6g}"
        if probabilities is not None and margin is not None:
            rank, suggested = ranks.get(i, ("", ""))
            row |= {"label_probability": f"{probabilities[i, label]:.6g}",
                    "prediction_probability": f"{probabilities[i, prediction]:.6g}",
                    "margin": f"{margin[i]:.6g}", "label_error": rank,
                    "suggested_label": suggested}
        yield row
