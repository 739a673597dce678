"""Loads a run and the images to explain for --mode=inspect, and draws its pictures."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax import data
from cnn_jax.console import Reporter, counted
from cnn_jax.data import Arrays
from cnn_jax.data.examples import Dataset, Examples
from cnn_jax.data.images import Preprocessing, find_images, read_image
from cnn_jax.data.lazy import LazyImages, leave_out
from cnn_jax.errors import InputError, one_line
from cnn_jax.inspection.inspected_run import InspectedRun, make_inspected_run
from cnn_jax.inspection.output import chosen_names, draw_pictures
from cnn_jax.inspection.selection import check_names
from cnn_jax.workdir import trained
from cnn_jax.workdir.folder import load_data
from cnn_jax.workdir.results import FILE, read_results
from cnn_jax.workdir.trained import Trained

__all__ = ["draw"]


def draw(workdir: str | Path, config: ConfigDict | None = None,
         images: Sequence[str] = (), invert: bool = False, quiet: bool = False,
         data: Arrays | None = None) -> list[Path]:
    """Draws the pictures of `config.inspect` and returns their files.

    They are written to WORKDIR/pictures, to TensorBoard's events and to the report.

    config: may differ from the run's own in `inspect` and in the location of the data.
    images: files to explain instead of test images; at most `config.inspect.images`
        of them are used. `invert` exchanges their dark and bright.
    data: the arrays that `training.run` was called with, if it was.
    Raises InputError for input that cannot be used, also for an unknown name in
    `config.inspect`.
    """
    report, workdir = Reporter(quiet), Path(workdir)
    run = load_run(workdir, config, images, invert, report, data)
    settings = (config or run.config).inspect
    names = chosen_names(settings.only)
    with report.under_way("tracing the network"):
        check_names(run, settings)
    source = "of your own" if images else f"of the {run.split} split"
    report.line(f"{run.name}, step {run.step}: explaining "
                f"{counted(len(run.pixels), 'image')} {source} "
                f"(config.inspect.images = {settings.images})")
    return draw_pictures(run, names, settings, workdir, report)


def load_run(workdir: Path, config: ConfigDict | None = None,
             images: Sequence[str] = (), invert: bool = False,
             report: Reporter | None = None,
             arrays: Arrays | None = None) -> InspectedRun:
    """Loads the best checkpoint of a run and the images to explain.

    Raises InputError for a workdir without a checkpoint, for data that have changed,
    and for a file that is not a picture.
    """
    report = report or Reporter(quiet=True)
    with report.under_way("reading the checkpoint"):
        best = trained.load(workdir)
    config = config or best.config
    paths = find_images(images)[:config.inspect.images] if images else []
    pixels = read_images(paths, best.info.preprocessing, invert) if paths else None
    titles = tuple(path.name for path in paths)
    if not best.info.has_images:
        if pixels is None:
            raise InputError(f"{workdir} holds a pretrained network, which has no "
                             "images: name some with --images FILE_OR_FOLDER ...")
        return inspect_images(workdir.name, best, pixels, titles)
    with report.under_way("loading the data"):
        dataset = load_data(workdir, config, arrays)
        if (workdir / FILE).exists():
            dataset = leave_out(dataset, read_results(workdir).skipped)
    run = make_inspected_run(
        workdir.name, best.config, best.info, best.network, best.variables, best.step,
        best.history, dataset, config.inspect.images)
    if arrays is None:
        run = dataclasses.replace(run, image_name=image_names(dataset, config))
    if pixels is None:
        return run
    return dataclasses.replace(run, pixels=pixels, labels=None, titles=titles)


def image_names(dataset: Dataset, config: ConfigDict) -> Callable[[str, int], str]:
    """Returns (split, index) -> the file of an image, or its index in the stored set.

    The set is opened at the first call, unless it is streamed.
    """
    opened = functools.cache(lambda: data.open_records(config.data, config.seed))

    def name(split: str, index: int) -> str:
        images = getattr(dataset, split).images
        records = (images.records if isinstance(images, LazyImages)
                   else getattr(opened(), split))
        return one_line(records.name(index))

    return name


def inspect_images(name: str, best: Trained, pixels: np.ndarray,
                   titles: tuple[str, ...]) -> InspectedRun:
    """Makes the run to inspect for a network without data and images without labels."""
    return InspectedRun(
        name=name, network=best.network, variables=best.variables,
        scaling=best.info.scaling, class_names=best.info.class_names, pixels=pixels,
        labels=None, titles=titles, split="given",
        examples=Examples(pixels, np.zeros(0, np.int32)), config=best.config,
        step=best.step, history=best.history,
        task=data.task_of(best.config.data, best.info.targets))


def read_images(paths: Sequence[Path], preprocessing: Preprocessing,
                invert: bool) -> np.ndarray:
    """Reads pictures as uint8 [N, H, W, C]; `invert` exchanges dark and bright."""
    pixels = np.stack([read_image(path, preprocessing) for path in paths])
    return 255 - pixels if invert else pixels
