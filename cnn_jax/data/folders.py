"""Folders of pictures, one sub-folder per class, as Keras and Kaggle lay them out.

    flowers/{daisy,rose}/*.jpg                    split by us
    flowers/{train,val,test}/{daisy,rose}/*.jpg   split already, wholly or in part
    flowers/training/training/{daisy,rose}/*.jpg  the same, doubled
    anything/flowers/...                          the same, wrapped once

or a .tar.gz of such a folder, as CIFAR-10 is passed around in JPEG files
(cifar-10-images/{train,test}/CLASS/K.jpg); it is read without being unpacked.
"""

import collections
import csv
import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np

from cnn_jax.data import cache, formats
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.data.images import (EXTENSIONS, empty, is_image, is_image_name,
                                 read_image)
from cnn_jax.errors import InputError
from cnn_jax.files import expanded

PART_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}
ARCHIVES = (".tar.gz", ".tgz")
MAX_TABLE_BYTES = 2**20
MAX_DEPTH = 32  # of folders in folders
_LOSSY = (".jpg", ".jpeg", ".webp")

# A folder: name -> folder, or the file itself, or its content where it was in an
# archive. Only pictures and tables of labels are listed.
Tree = dict[str, "Tree | Path | bytes"]
# The name for messages, the file or its content.
Picture = tuple[str, Path | bytes]


def class_folders(config) -> Stored:
    """Reads `config.dir` at `config.image_size` and `config.channels`.

    With size (0, 0) or 0 channels all pictures must agree in it. Within a part the
    classes alternate, so that the first n pictures (`config.limit`) hold all classes.

    Raises:
        InputError: no class folders, an empty one, classes that training does not
            have, a picture that cannot be read or differs in shape, a bad archive.
    """
    root = expanded(config.dir, "data.dir")
    if root.is_dir():
        tree = _folder_tree(root, (root.resolve(),))
    elif root.is_file() and root.name.endswith(ARCHIVES):
        tree = _archive_tree(root)
    else:
        raise InputError(
            f"data.dir is {config.dir!r}, which is not a folder nor a "
            f'{" or ".join(ARCHIVES)} file; name what holds the class folders')
    tree = _unwrapped(tree)
    parts = {part: _classes(folder, name)
             for part, (name, folder) in _part_folders(root, tree).items()}
    classes = _class_list(root, parts)
    names = _class_names(root, tree, classes)
    listed = {part: _alternate(found, classes) for part, found in parts.items()}
    pictures = [picture for examples in listed.values() for picture, _ in examples]
    images, how = _decode_cached(root, pictures, tuple(config.image_size),
                                 config.channels)
    stored, start = {}, 0
    for part, examples in listed.items():
        labels = np.array([label for _, label in examples], np.int32)
        stored[part] = Examples(images[start:start + len(labels)], labels)
        start += len(labels)
    return Stored(stored, names, f"{_kinds(pictures)} in {root}, {how}")


def _check_depth(depth: int, root: Path) -> None:
    if depth > MAX_DEPTH:
        raise InputError(f"{root} has folders in folders more than {MAX_DEPTH} deep; "
                         "put the pictures of each class into one folder")


def _folder_tree(folder: Path, above: tuple[Path, ...], depth: int = 0) -> Tree:
    """What lies in a folder and below; without hidden files and folders, and without
    the resource forks that macOS leaves in zips.

    above: where the root and the links on the way lead. A link into or above one of
    these would give pictures a second label.
    """
    _check_depth(depth, above[0])
    tree = {}
    for path in folder.iterdir():
        if path.name.startswith(".") or path.name == "__MACOSX":
            continue
        try:
            path.name.encode()
        except UnicodeEncodeError:
            raise InputError(f"{str(path)!r} has a name that is not UTF-8: rename it"
                             ) from None
        if path.is_dir():
            further = above
            if path.is_symlink():
                target = path.resolve()
                if any(target.is_relative_to(place) or place.is_relative_to(target)
                       for place in above):
                    raise InputError(f"{path} is a link to {target}, whose pictures "
                                     "would have two labels: remove the link")
                further = *above, target
            tree[path.name] = _folder_tree(path, further, depth + 1)
        elif is_image(path) or (path.name.endswith("labels.txt") and path.is_file()):
            tree[path.name] = path
    return tree


def _archive_tree(path: Path) -> Tree:
    """The same of a .tar.gz, whose files are read into memory (bounded, see
    formats.py)."""
    tree = {}
    for name, content in formats.tar_members(path):
        *folders, name = PurePosixPath(name).parts
        _check_depth(len(folders), path)
        hidden = any(part.startswith(".") or part == "__MACOSX" for part in folders)
        if hidden or not (is_image_name(name) or name.endswith("labels.txt")):
            continue
        inner = tree
        for folder in folders:
            inner = inner.setdefault(folder, {})
            if not isinstance(inner, dict):
                raise InputError(f"{path} holds {folder} both as a file and as a "
                                 "folder; the archive is not used")
        inner[name] = content
    return tree


def _subfolders(tree: Tree) -> dict[str, Tree]:
    """By name, sorted."""
    return {name: tree[name] for name in sorted(tree) if isinstance(tree[name], dict)}


def _unwrapped(tree: Tree) -> Tree:
    """The folder inside, where one is all there is, as zips unpack to."""
    folders = _subfolders(tree)
    if len(folders) == 1:
        (name, inner), = folders.items()
        if name.lower() not in PART_NAMES and _subfolders(inner):
            return inner
    return tree


def _part_folders(root: Path, tree: Tree) -> dict[str, tuple[str, Tree]]:
    """Part -> (name, folder). A root without part folders is one training part."""
    found = {}
    for name, folder in _subfolders(tree).items():
        part, inner = PART_NAMES.get(name.lower()), _subfolders(folder)
        # A part folder holds folders; a class may be called train, as a vehicle.
        if part is None or not inner:
            continue
        if part in found:
            raise InputError(
                f"{root} has both {found[part][0]} and {name} for the {part} part; "
                "keep one")
        doubled = len(inner) == 1 and next(iter(inner)).lower() in PART_NAMES
        found[part] = name, next(iter(inner.values())) if doubled else folder
    if found and "train" not in found:
        raise InputError(
            f'{root} has a {" and a ".join(found)} folder but none named train or '
            "training; add it")
    return found or {"train": ("", tree)}


def _classes(folder: Tree, place: str) -> dict[str, list[Picture]]:
    """Class folder name -> its pictures, in it and below, sorted."""
    return {name: _pictures(inner, f"{place}/{name}")
            for name, inner in _subfolders(folder).items()}


def _pictures(folder: Tree, place: str) -> list[Picture]:
    found = []
    for name in sorted(folder):
        inner, path = folder[name], f"{place}/{name}"
        if isinstance(inner, dict):
            found += _pictures(inner, path)
        elif is_image_name(name):
            found.append((str(inner) if isinstance(inner, Path) else path, inner))
    return found


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


def _alternate(found, classes) -> list[tuple[Picture, int]]:
    """(picture, label): the first of each class, then the second of each, ..."""
    ranked = [(rank, label, picture) for label, name in enumerate(classes)
              for rank, picture in enumerate(found.get(name, ()))]
    ranked.sort(key=lambda item: item[:2])
    return [(picture, label) for _, label, picture in ranked]


def _kinds(pictures: list[Picture]) -> str:
    """'1,370 pictures (.jpg, lossy)'"""
    counts = collections.Counter(Path(name).suffix.lower() for name, _ in pictures)
    kinds = ", ".join(f"{kind}, lossy" if kind in _LOSSY else kind
                      for kind in sorted(counts))
    return f"{len(pictures):,} pictures ({kinds})"


def _decode_cached(root, pictures, size, channels) -> tuple[np.ndarray, str]:
    """All pictures in one array, and how they were got, for the log."""
    path = cache.cache_path((content for _, content in pictures), size, channels)
    images = cache.read(path, len(pictures))
    if images is not None:
        return images, f"decoded earlier, read from {path}"
    images = _decode(root, pictures, size, channels)
    return images, cache.write(path, images)


def _decode(root, pictures, size, channels) -> np.ndarray:
    def read(index):
        name, content = pictures[index]
        if isinstance(content, Path):
            return read_image(content, size, channels)
        return read_image(io.BytesIO(content), size, channels, f"{root}: {name}")

    first = read(0)
    images = empty(len(pictures), first.shape)

    def decode(index):
        image = read(index)
        if image.shape != first.shape:
            raise InputError(
                f"{pictures[index][0]} is {_shape(image)} but {pictures[0][0]} is "
                f"{_shape(first)}; set data.image_size and data.channels so that all "
                "become alike")
        images[index] = image

    # Pillow decodes and resizes without the interpreter lock.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for _ in pool.map(decode, range(len(pictures))):
                pass
        except InputError:
            pool.shutdown(cancel_futures=True)
            raise
    return images


def _shape(image: np.ndarray) -> str:
    return " x ".join(str(n) for n in image.shape)


def _table(path: Path) -> bytes:
    """The content of a small file."""
    with path.open("rb") as file:
        content = file.read(MAX_TABLE_BYTES + 1)
    if len(content) > MAX_TABLE_BYTES:
        raise InputError(f"{path} has over {MAX_TABLE_BYTES:,} bytes, too many for a "
                         "table of class names; shorten or remove it")
    return content


def _class_names(root: Path, tree: Tree, classes: list[str]) -> tuple[str, ...]:
    """Common names from a table as in Kaggle's monkey_labels.txt, else folder names."""
    found, source = tuple(classes), root
    for name in sorted(tree):
        table = tree[name]
        if isinstance(table, dict) or not name.endswith("labels.txt"):
            continue
        content = _table(table) if isinstance(table, Path) else table
        text = io.StringIO(content.decode("utf-8", "replace"), newline="")
        try:
            rows = [[cell.strip() for cell in row] for row in csv.reader(text)]
        except csv.Error as error:
            raise InputError(
                f"{table if isinstance(table, Path) else name} cannot be read as a "
                f"table of class names ({error}); correct or remove it") from error
        if rows and "Label" in rows[0] and "Common Name" in rows[0]:
            label, common = rows[0].index("Label"), rows[0].index("Common Name")
            names = {row[label]: row[common] for row in rows[1:]
                     if len(row) > max(label, common)}
            if set(classes) <= set(names):
                found = tuple(names[name] for name in classes)
                source = table if isinstance(table, Path) else name
                break
    for strange in (name for name in found if not name.isprintable()):
        raise InputError(f"{source} names a class {strange!r}, which cannot be "
                         "printed; correct or remove it")
    return found
