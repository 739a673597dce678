"""Pictures and histograms of a run for TensorBoard, beside its scalars."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX import SummaryWriter

from cnn_jax.inspection.picture import Picture

FOLDER = "inspection"  # of a workdir; TensorBoard shows it as a run
# Pictures whose arrays are values by layer: they become histograms too.
HISTOGRAMS = ("weights", "activations")
BINS = 40


@contextlib.contextmanager
def open_events(workdir: Path) -> Iterator[SummaryWriter]:
    """What `add` writes to. Where a tag and step come again, the later one counts."""
    writer = SummaryWriter(str(workdir / FOLDER))
    try:
        yield writer
    finally:
        writer.close()


def add(writer: SummaryWriter, picture: Picture, file: Path, step: int) -> None:
    """A picture, which lies in `file`, as pictures/NAME; and the values of each layer
    that it shows the distribution of as NAME/LAYER, those that are finite."""
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB"))
    writer.add_image(f"pictures/{picture.name}", pixels, step, dataformats="HWC")
    if picture.name in HISTOGRAMS:
        for layer, values in picture.arrays.items():
            values = values[np.isfinite(values)]
            writer.add_histogram(f"{picture.name}/{layer}", values, step, bins=BINS)
