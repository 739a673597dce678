"""Pictures and histograms of a run for TensorBoard, beside its scalars."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tensorboardX.summary import histogram, image

from cnn_jax.files import named
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.workdir.event_file import EventFile

FOLDER = "inspection"  # of a workdir; TensorBoard shows it as a run
# Pictures whose arrays are values by layer: they become histograms too.
HISTOGRAMS = ("weights", "activations")
BINS = 40


@contextlib.contextmanager
def open_events(workdir: Path) -> Iterator[EventFile]:
    """Opens what `add` writes to; of the same tag and step the later entry counts."""
    with contextlib.closing(EventFile(workdir / FOLDER)) as events:
        yield events


def add(events: EventFile, picture: Picture, file: Path, step: int) -> None:
    """Adds the picture in `file` as pictures/NAME, and the values of each layer whose
    distribution it shows as NAME/LAYER; only finite values count."""
    with Image.open(file) as content:
        pixels = np.asarray(content.convert("RGB"))
    summaries = [image(f"pictures/{picture.name}", pixels, dataformats="HWC")]
    if picture.name in HISTOGRAMS:
        for layer, values in picture.arrays.items():
            values = values[np.isfinite(values)]
            summaries.append(histogram(f"{picture.name}/{layer}", values, BINS))
    with named(events.folder):
        events.add(summaries, step)
