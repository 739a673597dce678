"""Looking inside a trained run: its workdir -> a subject -> pictures in the workdir."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data
from cnn_jax.data.examples import Examples
from cnn_jax.data.images import find_images, read_image
from cnn_jax.inspection.picture import write
from cnn_jax.inspection.pictures import chosen
from cnn_jax.inspection.record import read_history
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.subject import Subject
from cnn_jax.training import trained
from cnn_jax.training.metrics import Reporter
from cnn_jax.training.workdir import check_same_data, describe

FOLDER = "pictures"  # of a workdir


def draw(workdir: Path, config: ConfigDict | None = None, images: Sequence[str] = (),
         invert: bool = False, quiet: bool = False) -> list[Path]:
    """Draws what `config.inspect` asks for into WORKDIR/pictures; returns the files.

    config: may differ from the run's own in `inspect` and in where the data lie.
    images: files to explain in place of images of the test part; `invert` exchanges
        their dark and bright.
    Raises InputError, also for a name in `config.inspect` that does not exist.
    """
    report = Reporter(quiet)
    subject = dataclasses.replace(
        load_subject(workdir, config, images, invert),
        progress=lambda text: report.advance(done, text))
    settings = Settings(**(config or subject.config).inspect)
    rows = chosen(settings.only)
    report.line(f"{subject.name}, step {subject.step}: {len(subject.pixels)} images of "
                + (f"the {subject.part} part" if not images else "your own"))
    paths, done = [], 0
    report.start("pictures", len(rows))
    try:
        for done, (name, row) in enumerate(rows.items()):
            report.advance(done, name)
            for picture in row(subject, settings):
                paths += write([picture], workdir / FOLDER)
    finally:
        report.stop()
    return paths


def load_subject(workdir: Path, config: ConfigDict | None = None,
                 images: Sequence[str] = (), invert: bool = False) -> Subject:
    """The best checkpoint of a run with the images that are to be explained.

    Raises InputError for a workdir without a checkpoint, for data that have changed,
    and for a file that is no picture.
    """
    run = trained.load(workdir)
    config = config or run.config
    dataset = data.load(config.data, config.seed)
    check_same_data(workdir, describe(dataset, config.data.scaling))
    part = next(part for part in ("test", "validation", "train")
                if len(getattr(dataset, part).labels))
    examples = getattr(dataset, part)
    if images:
        *size, channels = run.info.image_shape
        paths = find_images(images)
        pixels = np.stack([read_image(path, tuple(size), channels) for path in paths])
        pixels, labels = 255 - pixels if invert else pixels, None
        titles = tuple(path.name for path in paths)
    else:
        index = sample(examples, config.inspect.images)
        pixels, labels = examples.take(index)
        titles = tuple(f"{part} {i}" for i in index)
    return Subject(
        name=workdir.name, network=run.recipe.model,
        variables={"params": run.state.average or run.state.params,
                   "batch_stats": run.state.batch_stats},
        scaling=run.info.scaling, class_names=run.info.class_names, pixels=pixels,
        labels=labels, titles=titles, part=part, examples=examples, config=run.config,
        info=run.info, step=run.step, history=read_history(workdir / "history.csv"),
        workdir=workdir)


def sample(examples: Examples, count: int) -> np.ndarray:
    """The places of `count` examples: the first of every class, the second of every
    class, and so on; of masks, the first ones."""
    labels = examples.labels
    if labels.ndim > 1:
        return np.arange(min(count, len(labels)))
    order = np.argsort(labels, kind="stable")
    firsts = np.searchsorted(labels[order], labels[order])  # where its class begins
    turn = np.empty(len(labels), int)
    turn[order] = np.arange(len(labels)) - firsts
    return np.lexsort((labels, turn))[:count]
