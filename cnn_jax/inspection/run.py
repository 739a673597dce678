"""Looking inside a trained run: its workdir -> a subject -> pictures in the workdir."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data
from cnn_jax.data.images import find_images, read_image
from cnn_jax.inspection.output import draw_rows
from cnn_jax.inspection.pictures import chosen
from cnn_jax.inspection.pages.record import read_history
from cnn_jax.inspection.explain.selection import check_names
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject, make_subject
from cnn_jax.workdir import trained
from cnn_jax.console import Reporter
from cnn_jax.data.info import describe
from cnn_jax.workdir.folder import check_same_data


def draw(workdir: Path, config: ConfigDict | None = None, images: Sequence[str] = (),
         invert: bool = False, quiet: bool = False) -> list[Path]:
    """Draws what `config.inspect` asks for into WORKDIR/pictures, TensorBoard's events
    and the report; returns the pictures.

    config: may differ from the run's own in `inspect` and in where the data lie.
    images: files to explain in place of images of the test part, at most as many as
        `config.inspect.images`; `invert` exchanges their dark and bright.
    Raises InputError, also for a name in `config.inspect` that does not exist.
    """
    report = Reporter(quiet)
    subject = load_subject(workdir, config, images, invert, report)
    settings = Settings(**(config or subject.config).inspect)
    rows = chosen(settings.only)
    with report.under_way("tracing the network"):
        check_names(subject, settings)
    whose = "of your own" if images else f"of the {subject.part} part"
    report.line(f"{subject.name}, step {subject.step}: explaining "
                f"{len(subject.pixels)} images {whose} (config.inspect.images = "
                f"{settings.images})")
    return draw_rows(subject, rows, settings, workdir, report)


def load_subject(workdir: Path, config: ConfigDict | None = None,
                 images: Sequence[str] = (), invert: bool = False,
                 report: Reporter | None = None) -> Subject:
    """The best checkpoint of a run with the images that are to be explained.

    report: is told what is under way.
    Raises InputError for a workdir without a checkpoint, for data that have changed,
    and for a file that is no picture.
    """
    report = report or Reporter(quiet=True)
    with report.under_way("reading the checkpoint"):
        run = trained.load(workdir)
    config = config or run.config
    with report.under_way("loading the data"):
        dataset = data.load(config.data, config.seed)
        check_same_data(workdir, describe(dataset, config.data.scaling))
    subject = make_subject(
        workdir, run.config, run.info, run.recipe.model, run.state, run.step,
        read_history(workdir / "history.csv", run.config.checkpoint.monitor), dataset,
        config.inspect.images)
    if not images:
        return subject
    *size, channels = run.info.image_shape
    paths = find_images(images)[:config.inspect.images]
    pixels = np.stack([read_image(path, tuple(size), channels) for path in paths])
    return dataclasses.replace(
        subject, pixels=255 - pixels if invert else pixels, labels=None,
        titles=tuple(path.name for path in paths))
