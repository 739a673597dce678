"""One picture of a run with what it shows in words, and the folder that holds them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np
from ml_collections import ConfigDict

from cnn_jax.errors import InputError
from cnn_jax.files import named, write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from cnn_jax.inspection.inspected_run import InspectedRun  # noqa: F401

INDEX = "pictures.json"
FORMATS = (".png", ".pdf", ".svg")  # of a file that the user names


class Picture(NamedTuple):
    """A figure, the arrays that it draws, and the words that a report needs."""

    name: str      # of its file, without suffix
    title: str
    caption: str   # how to read it, in one or two sentences
    alt: str       # what a reader who cannot see it must know
    figure: Figure
    arrays: dict[str, np.ndarray]


# A row of the registry: (run, config.inspect) -> pictures, one after another.
Row = Callable[["InspectedRun", ConfigDict], Iterable[Picture]]


class IndexRow(msgspec.Struct):
    """The words of one picture in pictures.json."""

    name: str
    title: str
    caption: str
    alt: str
    step: int | None = None  # of the checkpoint that the picture shows


def check_format(path: Path) -> None:
    """Raises InputError for a file that matplotlib does not write."""
    if path.suffix not in FORMATS:
        raise InputError(f"--output={path} must end in {' or '.join(FORMATS)}")


def save(picture: Picture, path: Path) -> None:
    """Writes a file that the user named. Raises InputError where it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.figure.savefig(path, dpi=120)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): name "
                         "another file with --output") from error


def write(pictures: list[Picture], folder: Path, step: int | None = None) -> list[Path]:
    """Writes each picture as NAME.png and its words into pictures.json.

    The words replace those of an earlier picture of the same name, or follow the
    others. Returns the files.

    step: of the checkpoint that the pictures show.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    rows = {row.name: row for row in read_index(folder)}
    for picture in pictures:
        path = folder / f"{picture.name}.png"
        with named(path):
            picture.figure.savefig(path, dpi=120)
        rows[picture.name] = IndexRow(picture.name, picture.title, picture.caption,
                                      picture.alt, step)
        paths.append(path)
    text = msgspec.json.format(msgspec.json.encode(list(rows.values()))).decode()
    write_atomically(folder / INDEX, text + "\n")
    return paths


def read_index(folder: Path) -> list[IndexRow]:
    """Reads the words of the pictures in a folder, in the order they were first
    written. Raises InputError where the file is damaged."""
    path = folder / INDEX
    if not path.exists():
        return []
    try:
        return msgspec.json.decode(path.read_bytes(), type=list[IndexRow])
    except (OSError, msgspec.DecodeError) as error:
        raise InputError(f"{path} is damaged ({error}): delete {folder}, then draw "
                         "again") from error
