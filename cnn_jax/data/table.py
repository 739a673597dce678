"""Reads pictures and the numbers to predict for them, from a CSV file beside them.

    photos/ages.csv     file,age,weight        the first column names the pictures
                        ann/1.jpg,31,60.5
                        ben.png,47,81
    photos/ann/1.jpg, photos/ben.png

The other columns are the numbers; a column 'split' says train, validation or test.
"""

import csv
import math
from pathlib import Path, PurePosixPath

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data.folders import folder_records
from cnn_jax.data.listing import SPLIT_NAMES, Folder, Listing, Pictures
from cnn_jax.data.packed_strings import PackedStrings
from cnn_jax.data.records import StoredRecords
from cnn_jax.errors import InputError
from cnn_jax.files import expanded

SPLIT = "split"  # the column


def table_of_numbers(config: ConfigDict) -> StoredRecords:
    """Lists the pictures and numbers of the one CSV file in `data.dir`.

    Raises InputError for a folder without one, and for rows that cannot be used.
    """
    root = expanded(config.dir, "data.dir")
    tables = sorted(root.glob("*.csv"))
    if len(tables) != 1:
        raise InputError(f"data.dir is {config.dir!r}, which has {len(tables)} .csv "
                         "files; data.name=csv needs one, whose first column names "
                         "pictures and whose other columns are numbers")
    columns, rows = read_table(tables[0])
    numbers = [name for name in columns[1:] if name != SPLIT]
    if not numbers:
        raise InputError(f"{tables[0]} has no column of numbers beside "
                         f"{', '.join(columns)}; add one for each number to predict")
    by_split: dict[str, list[dict[str, str]]] = {}
    for number, row in enumerate(rows, 2):
        name = row.get(SPLIT, "train").strip().lower()
        if name not in SPLIT_NAMES:
            raise InputError(f"{tables[0]}, line {number}: split is {name!r}; it must "
                             "be train, validation or test")
        by_split.setdefault(SPLIT_NAMES[name], []).append(row)
        check_row(tables[0], number, row, columns[0], numbers)
    if "train" not in by_split:
        raise InputError(f"{tables[0]} has no rows for training")
    check_files(root, [row[columns[0]] for row in rows], tables[0])
    splits = {split: folder_records(Listing(root, Folder(""), {}),
                                    pictures(chosen, columns[0], numbers))
              for split, chosen in by_split.items()}
    return StoredRecords(splits, tuple(numbers), f"{len(rows):,} pictures with "
                         f"{', '.join(numbers)} of {tables[0]}")


def read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Reads a CSV file with a header: its columns and rows."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8 ({error})") from error
    return list(reader.fieldnames or []), rows


def check_row(path: Path, number: int, row: dict[str, str], file: str,
              numbers: list[str]) -> None:
    """Raises InputError for a number that is not finite, or a file elsewhere."""
    for name in numbers:
        try:
            value = float(row[name])
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(f"{path}, line {number}: {name} is {row[name]!r}; it must "
                             "be a finite number")
    picture = PurePosixPath(row[file])
    if picture.is_absolute() or ".." in picture.parts or not row[file]:
        raise InputError(f"{path}, line {number}: {file} is {row[file]!r}; it must be "
                         f"the path of a picture below {path.parent}")


def check_files(root: Path, names: list[str], table: Path) -> None:
    """Raises InputError if pictures are missing."""
    missing = [name for name in names if not (root / name).is_file()]
    if missing:
        raise InputError(f"{root} lacks {len(missing):,} of the {len(names):,} "
                         f"pictures of {table}, such as {missing[0]}")


def pictures(rows: list[dict[str, str]], file: str, numbers: list[str]) -> Pictures:
    """Lists the pictures of some rows; their labels are the numbers, float32 [N, K]."""
    paths = [PurePosixPath(row[file]) for row in rows]
    folders = {folder: i for i, folder in enumerate(
        dict.fromkeys(str(path.parent) for path in paths))}
    return Pictures(
        tuple("" if folder == "." else folder for folder in folders),
        np.array([folders[str(path.parent)] for path in paths], np.int32),
        PackedStrings([path.name for path in paths]),
        np.array([[float(row[name]) for name in numbers] for row in rows], np.float32))
