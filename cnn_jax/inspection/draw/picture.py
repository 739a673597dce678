"""Defines a picture with its texts, and the folder that holds both."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.files import file_errors, read_json, write_json
from cnn_jax.inspection.draw.fonts import use_fonts

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INDEX = "pictures.json"
DPI = 120
FORMATS = (".png", ".pdf", ".svg")  # of a file that the user names


class Picture(NamedTuple):
    """Holds a figure, the arrays that it draws, and the texts that a report needs."""

    name: str      # of its file, without suffix
    title: str
    caption: str   # how to read it, in one or two sentences
    alt: str       # the alternative text, for readers who cannot see it
    figure: Figure
    arrays: dict[str, np.ndarray]


class IndexRow(msgspec.Struct):
    """Holds the texts of one picture in pictures.json."""

    name: str
    title: str
    caption: str
    alt: str
    step: int  # of the checkpoint that the picture shows


def render(picture: Picture, file: Path | io.BytesIO) -> None:
    """Draws a picture into a file in the format of its name, or as PNG."""
    use_fonts(picture.figure)
    picture.figure.savefig(file, dpi=DPI,
                           format="png" if isinstance(file, io.BytesIO) else None)


def check_format(path: Path) -> None:
    """Raises InputError for a file that matplotlib does not write."""
    if path.suffix not in FORMATS:
        raise InputError(f"--output={path} must end in {' or '.join(FORMATS)}")


def save(picture: Picture, path: Path) -> None:
    """Writes a file that the user named. Raises InputError if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        render(picture, path)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): name "
                         "another file with --output") from error


def write(picture: Picture, folder: Path, step: int) -> Path:
    """Writes a picture as NAME.png and its texts into pictures.json.

    The texts replace those of an earlier picture of this name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{picture.name}.png"
    with file_errors(path):
        render(picture, path)
    rows = {row.name: row for row in read_index(folder)}
    rows[picture.name] = IndexRow(picture.name, picture.title, picture.caption,
                                  picture.alt, step)
    write_json(folder / INDEX, list(rows.values()))
    return path


def read_index(folder: Path) -> list[IndexRow]:
    """Reads the texts of the pictures in a folder, in the order of their first drawing.

    Raises InputError if the file is damaged.
    """
    path = folder / INDEX
    return (read_json(path, list[IndexRow], f"delete {folder}, then draw again")
            if path.exists() else [])
