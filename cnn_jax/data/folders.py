"""Folders of pictures, one sub-folder per class, as Keras and Kaggle lay them out.

    flowers/{daisy,rose}/*.jpg                    split by us
    flowers/{train,val,test}/{daisy,rose}/*.jpg   split already, wholly or in part
    flowers/training/training/{daisy,rose}/*.jpg  the same, doubled
"""

import csv
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cnn_jax.data import cache
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.data.images import EXTENSIONS, is_image, read_image
from cnn_jax.errors import InputError

PART_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}


def class_folders(config) -> Stored:
    """Reads `config.dir` at `config.image_size` and `config.channels`.

    With size (0, 0) or 0 channels all pictures must agree in it. Within a part the
    classes alternate, so that the first n pictures (`config.limit`) hold all classes.

    Raises:
        InputError: no class folders, an empty one, classes that training does not
            have, a picture that cannot be read or differs in shape.
    """
    root = Path(config.dir).expanduser()
    if not root.is_dir():
        raise InputError(
            f"data.dir is {config.dir!r}, which is not a folder; name the folder that "
            "holds the class folders")
    parts = {part: _classes(folder) for part, folder in _part_folders(root).items()}
    classes = _class_list(root, parts)
    listed = {part: _alternate(found, classes) for part, found in parts.items()}
    files = [path for examples in listed.values() for path, _ in examples]
    images, how = _decode_cached(files, tuple(config.image_size), config.channels)
    stored, start = {}, 0
    for part, examples in listed.items():
        labels = np.array([label for _, label in examples], np.int32)
        stored[part] = Examples(images[start:start + len(labels)], labels)
        start += len(labels)
    return Stored(stored, _class_names(root, classes),
                  f"{len(files):,} pictures in {root}, {how}")


def _part_folders(root: Path) -> dict[str, Path]:
    """Part -> its folder. A root without part folders is one training part."""
    found = {}
    for folder in _subfolders(root):
        part = PART_NAMES.get(folder.name.lower())
        # A part folder holds folders; a class may be called train, as a vehicle.
        if part is None or not _subfolders(folder):
            continue
        if part in found:
            raise InputError(
                f"{root} has both {found[part].name} and {folder.name} for the {part} "
                "part; keep one")
        inner = _subfolders(folder)
        doubled = len(inner) == 1 and inner[0].name.lower() in PART_NAMES
        found[part] = inner[0] if doubled else folder
    if found and "train" not in found:
        raise InputError(
            f'{root} has a {" and a ".join(found)} folder but none named train or '
            "training; add it")
    return found or {"train": root}


def _subfolders(folder: Path) -> list[Path]:
    """Sorted; without hidden ones and the resource forks that macOS leaves in zips."""
    return sorted(path for path in folder.iterdir() if path.is_dir()
                  and not path.name.startswith(".") and path.name != "__MACOSX")


def _classes(folder: Path) -> dict[str, list[Path]]:
    """Class folder name -> its pictures, in it and below, sorted."""
    return {sub.name: sorted(path for path in sub.rglob("*") if is_image(path))
            for sub in _subfolders(folder)}


def _class_list(root: Path, parts) -> list[str]:
    """Sorted names of the class folders of the training part."""
    classes = sorted(parts["train"])
    if len(classes) < 2:
        raise InputError(
            f"{root} has {len(classes)} class folders for training; at least 2 are "
            "needed, each with the pictures of one class")
    for name in classes:
        if not parts["train"][name]:
            raise InputError(
                f"{root} has no picture in the class folder {name}; add pictures "
                f'({", ".join(EXTENSIONS)}) or remove it')
    for part, found in parts.items():
        unknown = sorted(set(found) - set(classes))
        if unknown:
            raise InputError(
                f"{root} has the class {unknown[0]!r} in its {part} part but not in "
                "training; every class must be in training")
    return classes


def _alternate(found, classes) -> list[tuple[Path, int]]:
    """(picture, label): the first of each class, then the second of each, ..."""
    ranked = [(rank, label, path) for label, name in enumerate(classes)
              for rank, path in enumerate(found.get(name, ()))]
    return [(path, label) for _, label, path in sorted(ranked)]


def _decode_cached(files, size, channels) -> tuple[np.ndarray, str]:
    """All pictures in one array, and how they were got, for the log."""
    path = cache.cache_path(files, size, channels)
    images = cache.read(path, len(files))
    if images is not None:
        return images, f"decoded earlier, read from {path}"
    images = _decode(files, size, channels)
    return images, cache.write(path, images)


def _decode(files, size, channels) -> np.ndarray:
    first = read_image(files[0], size, channels)
    images = np.empty((len(files), *first.shape), np.uint8)

    def decode(index):
        image = read_image(files[index], size, channels)
        if image.shape != first.shape:
            raise InputError(
                f"{files[index]} is {_shape(image)} but {files[0]} is {_shape(first)}; "
                "set data.image_size and data.channels so that all become alike")
        images[index] = image

    # Pillow decodes and resizes without the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(decode, range(len(files))):
                pass
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def _shape(image: np.ndarray) -> str:
    return " x ".join(str(n) for n in image.shape)


def _class_names(root: Path, classes: list[str]) -> tuple[str, ...]:
    """Common names from a table as in Kaggle's monkey_labels.txt, else folder names."""
    for path in sorted(root.glob("*labels.txt")):
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file)]
        if rows and "Label" in rows[0] and "Common Name" in rows[0]:
            label, common = rows[0].index("Label"), rows[0].index("Common Name")
            names = {row[label]: row[common] for row in rows[1:]
                     if len(row) > max(label, common)}
            if set(classes) <= set(names):
                return tuple(names[name] for name in classes)
    return tuple(classes)
