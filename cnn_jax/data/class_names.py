"""Reads the names of classes from a file beside the data.

    *labels.txt                  Kaggle's monkey_labels.txt: CSV, columns 'Label' (the
                                 folder) and 'Common Name'
    LOC_synset_mapping.txt       Kaggle's ImageNet: 'n01440764 tench, Tinca tinca'
    words.txt                    ImageNet's own: the same with a tab
    classes.txt, class_names.txt, imagenet_classes.txt
                                 one name per line, in the order of the labels
    classes.json, class_names.json, class_index.json, imagenet_class_index.json
                                 ["tench", ...], {"0": "tench", ...},
                                 {"0": ["n01440764", "tench"], ...} as Keras has it, or
                                 {"n01440764": "tench", ...}

If there are several, the first in this list counts.
"""

import collections
import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cnn_jax.errors import InputError

_SYNSETS = ("LOC_synset_mapping.txt", "words.txt")
_LISTS = ("classes.txt", "class_names.txt", "imagenet_classes.txt")
_INDICES = ("classes.json", "class_names.json", "class_index.json",
            "imagenet_class_index.json")


def is_table(name: str) -> bool:
    """Tells whether a file may hold names of classes."""
    return name.endswith("labels.txt") or name in (*_SYNSETS, *_LISTS, *_INDICES)


def find_names(tables: dict[str, bytes], classes: Sequence[str],
               root: Path) -> tuple[str, ...]:
    """Returns the names of classes from the first table, else those of the folders.

    Args:
        tables: file name -> content, of files that `is_table` accepts.
        classes: the class folders, in the order of the labels.
        root: where the tables are, for messages.

    Raises:
        InputError: a table that cannot be read, has no name for a class, or has names
            for other classes; a name that cannot be printed.
    """
    for name in sorted(tables, key=_rank):
        names = _reader(name)(_text(tables[name]), classes, root / name)
        if names is not None:
            return _checked(_distinct(names, classes), root / name)
    return _checked(tuple(classes), root)


def numbered_names(tables: dict[str, bytes], root: Path) -> tuple[str, ...] | None:
    """Returns the names of the classes 0, 1, ... from the first list or JSON.

    None if there is neither. Arguments and errors are those of `find_names`.
    """
    for name in sorted(tables, key=_rank):
        text, path = _text(tables[name]), root / name
        if name in _LISTS:
            names = _lines(text)
        elif name in _INDICES:
            numbers = [str(label) for label in range(len(_parse(text, path)))]
            names = _index(text, numbers, path)
        else:
            continue
        return _checked(_distinct(names, [str(label) for label in range(len(names))]),
                        path)
    return None


def _text(content: bytes) -> str:
    return content.decode("utf-8-sig", "replace")


def _checked(names: tuple[str, ...], source: Path) -> tuple[str, ...]:
    for name in names:
        if not name.isprintable():
            raise InputError(f"{source} names a class {name!r}, which cannot be "
                             "printed; correct or remove it")
    return names


def _rank(name: str) -> tuple[int, str]:
    kinds = [name.endswith("labels.txt"), *(name == other for other in
                                            (*_SYNSETS, *_LISTS, *_INDICES))]
    return kinds.index(True), name


def _reader(name: str) -> Callable[[str, Sequence[str], Path], list[str] | None]:
    if name in _SYNSETS:
        return _synsets
    if name in _LISTS:
        return _list
    return _index if name in _INDICES else _kaggle_table


def _kaggle_table(text: str, classes: Sequence[str], path: Path) -> list[str] | None:
    """Reads a CSV; None if it is about something else, as any labels.txt may be."""
    rows = [[cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(text, newline=""))]
    if not (rows and "Label" in rows[0] and "Common Name" in rows[0]):
        return None
    label, common = rows[0].index("Label"), rows[0].index("Common Name")
    return _by_folder({row[label]: row[common] for row in rows[1:]
                       if len(row) > max(label, common)}, classes, path)


def _synsets(text: str, classes: Sequence[str], path: Path) -> list[str] | None:
    """Reads 'n01440764 tench, Tinca tinca'; the first synonym names the class.

    If two classes share it ('crane' is a bird and a machine), all synonyms name each.
    None for a words.txt that is about something else.
    """
    pairs = (line.split(maxsplit=1) for line in text.splitlines())
    known = {pair[0]: pair[1].strip() for pair in pairs if len(pair) == 2}
    if path.name == "words.txt" and not set(classes) & set(known):
        return None
    synonyms = _by_folder(known, classes, path)
    first = [names.split(",")[0] for names in synonyms]
    counts = collections.Counter(first)
    return [short if counts[short] == 1 else names
            for short, names in zip(first, synonyms)]


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _list(text: str, classes: Sequence[str], path: Path) -> list[str]:
    """Reads one name per line; the names of the folders may be in any order."""
    names = _lines(text)
    unknown = sorted(set(names) - set(classes))
    if not unknown and len(names) == len(classes):
        return list(classes)
    if len(names) != len(classes) or len(unknown) < len(names):
        about = (f"{len(names):,} classes" if len(unknown) in (0, len(names))
                 else f"the class {unknown[0]!r}, which has no folder")
        raise InputError(
            f"{path} names {about}, but there are {len(classes):,} class folders from "
            f"{classes[0]} to {classes[-1]}; write a line for each, or remove the file")
    return names


def _index(text: str, classes: Sequence[str], path: Path) -> list[str]:
    """Reads the JSON forms of the module's docstring."""
    index = _parse(text, path)
    values = list(index.values())
    if all(isinstance(value, list) for value in values):
        if set(classes) <= set(index):  # the classes are numbers
            return [index[label][1] for label in classes]
        return _by_folder(dict(values), classes, path)
    if all(key.isdecimal() for key in index) and not set(index) & set(classes):
        names = [index.get(str(label)) for label in range(len(index))]
        return _list("\n".join(name or "" for name in names), classes, path)
    return _by_folder(index, classes, path)


def _parse(text: str, path: Path) -> dict[str, Any]:
    """Parses JSON: {key: name} or {key: [folder, name]}; a list counts its keys."""
    index: object = None
    try:
        index = json.loads(text)
    except ValueError:
        pass
    if isinstance(index, list):
        index = {str(label): name for label, name in enumerate(index)}
    if isinstance(index, dict) and index:
        if all(isinstance(name, str) for name in index.values()) or all(
                isinstance(pair, list) and len(pair) == 2
                and all(isinstance(name, str) for name in pair)
                for pair in index.values()):
            return index
    raise InputError(f"{path} is neither a JSON list of class names nor a mapping to "
                     "them; correct or remove it")


def _by_folder(names: dict[str, str], classes: Sequence[str], path: Path) -> list[str]:
    """Looks up the name of each folder; the table may know more folders."""
    missing = [name for name in classes if not names.get(name)]
    if missing:
        raise InputError(
            f"{path} has no name for the class {missing[0]}"
            + (f" and {len(missing) - 1:,} others" if len(missing) > 1 else "")
            + "; add them, or remove the file")
    return [names[name] for name in classes]


def _distinct(names: list[str], classes: Sequence[str]) -> tuple[str, ...]:
    """Appends the folder to a name that two classes share."""
    counts = collections.Counter(names)
    return tuple(name if counts[name] == 1 else f"{name} ({folder})"
                 for name, folder in zip(names, classes))
