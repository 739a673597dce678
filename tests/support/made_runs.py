"""Makes workdirs of runs that never trained, with figures that a test chooses."""

import csv
import functools
import json
from pathlib import Path

import numpy as np
from tests.support.tiny_runs import tiny

from cnn_jax import networks
from cnn_jax.inspection.explain.classification_metrics import (
    ClassificationMetrics, measure, save)
from cnn_jax.files import write_json
from cnn_jax.networks.summary import layer_table
from cnn_jax.networks.summary_files import Summary, summary_of
from cnn_jax.config import to_json
from cnn_jax.workdir.results import Results, write_results

DIGITS = tuple("0123456789")


def made_run(folder: Path, changes: dict | None = None, accuracy: float | None = 0.9,
             epochs: int = 3, class_names: tuple[str, ...] = DIGITS,
             **facts) -> Path:
    """Makes the workdir of a run of the tiny config.

    accuracy: on 100 test images; None: the run has no results yet.
    epochs: how many have ended. facts: replace values of data.json.
    """
    folder.mkdir(parents=True)
    config = tiny(changes, **{"checkpoint.monitor": "val_loss"})
    (folder / "config.json").write_text(to_json(config))
    (folder / "data.json").write_text(json.dumps({
        "name": "digits", "source": "digits: made for a test",
        "image_shape": [8, 8, 1], "class_names": class_names, "scaling": [0, 1 / 255],
        "counts": {"train": 128, "validation": 50, "test": 100},
        "sha256": f"of seed {config.seed}"} | facts))
    rows = [{"epoch": i, "step": 8 * i, "loss": 2 / i, "accuracy": 1 - 0.9 / i,
             "val_loss": 2.5 / i, "val_accuracy": 1 - 0.8 / i, "learning_rate": 1e-3,
             "seconds": 1.5, "images_per_second": 100.0} for i in range(1, epochs + 1)]
    if rows:
        with (folder / "history.csv").open("w", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            table.writerows(rows)
    write_json(folder / "summary.json", summary())
    if accuracy is not None:
        right = round(100 * accuracy)
        write_results(Results(
            network="baseline", dataset="digits", seed=config.seed, params=13_874,
            epochs=epochs, best_epoch=epochs,
            validation_accuracy=rows[-1]["val_accuracy"], test_accuracy=right / 100,
            test_loss=1 - accuracy, test_examples=100, task_metrics={},
            train_seconds=4.5, compile_seconds=2.0, images_per_second=100.0,
            peak_memory_mb=500.0, params_sha256="of a test",
            versions={"python": "3.11.7", "jax": "0.10.2"}, devices=["cpu: cpu"],
            machine="2 cores", convolutions={"lax": 2}, commit=None,
            command="python main.py --config=configs/default.py"), folder)
        save(made_metrics(right, class_names, 8 * epochs), folder)
    return folder


def made_metrics(right: int, class_names: tuple[str, ...],
                 step: int) -> ClassificationMetrics:
    """Makes the metrics of 100 images, ten a class, of which `right` are correct.

    The last ones are taken for the class before theirs.
    """
    labels = np.arange(100) // 10
    predicted = np.where(np.arange(100) < right, labels, labels - 1)
    return measure(labels, predicted, np.linspace(0.5, 1, 100), class_names, "test",
                   step, "image")


@functools.cache
def summary() -> Summary:
    return summary_of(layer_table(networks.create("baseline", 10), (8, 8, 1)))
