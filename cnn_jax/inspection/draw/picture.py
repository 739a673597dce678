"""One picture of a run with what it shows in words, and the folder that holds them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import json_files
from cnn_jax.errors import InputError
from cnn_jax.files import named, write_atomically

INDEX = "pictures.json"
FORMATS = (".png", ".pdf", ".svg")  # of a file that the user names


class Picture(NamedTuple):
    """A figure, the arrays that it draws, and the words that a report needs."""

    name: str      # of its file, without suffix
    title: str
    caption: str   # how to read it, one or two sentences
    alt: str       # what a reader who cannot see it must know
    figure: object  # matplotlib.figure.Figure
    arrays: dict[str, np.ndarray]


def check_format(path: Path) -> None:
    if path.suffix not in FORMATS:
        raise InputError(f"--output={path} must end in {' or '.join(FORMATS)}")


def save(picture: Picture, path: Path) -> None:
    """Into a file of the user's. Raises InputError where that cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.figure.savefig(path, dpi=120)
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}): name "
                         "another file with --output") from error


def write(pictures: list[Picture], folder: Path, step: int | None = None) -> list[Path]:
    """Each as NAME.png, and their words in pictures.json, where they replace or follow
    those of earlier pictures. Returns the files.

    step: of the checkpoint that they are of.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    rows = {row["name"]: row for row in read_index(folder)}
    for picture in pictures:
        path = folder / f"{picture.name}.png"
        with named(path):
            picture.figure.savefig(path, dpi=120)
        rows[picture.name] = {"name": picture.name, "title": picture.title,
                              "caption": picture.caption, "alt": picture.alt,
                              "step": step}
        paths.append(path)
    index = folder / INDEX
    write_atomically(index, json.dumps(list(rows.values()), indent=2) + "\n")
    return paths


def read_index(folder: Path) -> list[dict[str, Any]]:
    """The words of the pictures in a folder, in the order they were first written.

    Raises InputError where the file is damaged.
    """
    path = folder / INDEX
    if not path.exists():
        return []
    try:
        rows = json_files.read(path)
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}): delete it, then draw again"
                         ) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path} is damaged: delete it, then draw again")
    if not all("name" in row for row in rows):
        raise InputError(f"{path} is damaged (a picture lacks name): delete it, then "
                         "draw again")
    return rows
