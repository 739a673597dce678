"""--mode=inspect: from a workdir to an `InspectedRun`, and to pictures in the workdir.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data
from cnn_jax.console import Reporter
from cnn_jax.data.images import find_images, read_image
from cnn_jax.data.info import describe
from cnn_jax.inspection.inspected_run import InspectedRun, make_inspected_run
from cnn_jax.inspection.output import draw_rows
from cnn_jax.inspection.pages.record import read_history
from cnn_jax.inspection.pictures import chosen_rows
from cnn_jax.inspection.selection import check_names
from cnn_jax.workdir import trained
from cnn_jax.workdir.folder import check_same_data


def draw(workdir: Path, config: ConfigDict | None = None, images: Sequence[str] = (),
         invert: bool = False, quiet: bool = False) -> list[Path]:
    """Draws what `config.inspect` asks for and returns the picture files.

    The pictures go into WORKDIR/pictures, TensorBoard's events and the report.

    config: may differ from the run's own in `inspect` and in where the data lie.
    images: files to explain instead of test images; at most `config.inspect.images`
        of them are used. `invert` exchanges their dark and bright.
    Raises InputError, also for a name in `config.inspect` that does not exist.
    """
    report = Reporter(quiet)
    run = load_run(workdir, config, images, invert, report)
    settings = (config or run.config).inspect
    rows = chosen_rows(settings.only)
    with report.under_way("tracing the network"):
        check_names(run, settings)
    source = "your own images" if images else f"images of the {run.split} split"
    report.line(f"{run.name}, step {run.step}: explaining {len(run.pixels)} {source} "
                f"(config.inspect.images = {settings.images})")
    return draw_rows(run, rows, settings, workdir, report)


def load_run(workdir: Path, config: ConfigDict | None = None,
             images: Sequence[str] = (), invert: bool = False,
             report: Reporter | None = None) -> InspectedRun:
    """Loads the best checkpoint of a run and the images to explain.

    Raises InputError for a workdir without a checkpoint, for data that have changed,
    and for a file that is not a picture.
    """
    report = report or Reporter(quiet=True)
    with report.under_way("reading the checkpoint"):
        best = trained.load(workdir)
    config = config or best.config
    with report.under_way("loading the data"):
        dataset = data.load(config.data, config.seed)
        check_same_data(workdir, describe(dataset, config.data.scaling))
    run = make_inspected_run(
        workdir, best.config, best.info, best.network, best.variables,
        best.step,
        read_history(workdir / "history.csv", best.config.checkpoint.monitor), dataset,
        config.inspect.images)
    if not images:
        return run
    height, width, channels = best.info.image_shape
    paths = find_images(images)[:config.inspect.images]
    pixels = np.stack([read_image(path, (height, width), channels) for path in paths])
    return dataclasses.replace(
        run, pixels=255 - pixels if invert else pixels, labels=None,
        titles=tuple(path.name for path in paths))
