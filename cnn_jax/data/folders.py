"""Reads folders of pictures, with one sub-folder per class as in Keras and Kaggle.

    flowers/{daisy,rose}/*.jpg                    split by us
    flowers/{train,val,test}/{daisy,rose}/*.jpg   already split; some may be missing
    flowers/training/training/{daisy,rose}/*.jpg  each split inside one more folder
    anything/flowers/...                          all of it inside one more folder

A .tar.gz of such a folder works too, such as CIFAR-10 in JPEG files
(cifar-10-images/{train,test}/CLASS/K.jpg). It is read into memory, not unpacked.
"""

import collections
import csv
import io
import os
import tarfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import NamedTuple, cast

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data import cache
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.data.images import (EXTENSIONS, Preprocessing, allocate, is_image,
                                 is_image_name, preprocessing_of, read_image)
from cnn_jax.errors import InputError
from cnn_jax.files import expanded

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}
ARCHIVES = (".tar.gz", ".tgz")
MAX_ARCHIVE_BYTES = 2**28  # of encoded pictures, which are all kept in memory
_LOSSY = (".jpg", ".jpeg", ".webp")

# A folder: name -> a folder, a file's path, or the content of a file in an archive. It
# holds only pictures and tables of class names.
Tree = dict[str, "Tree | Path | bytes"]


class Picture(NamedTuple):
    """A picture that is not decoded yet."""

    name: str  # for messages
    content: Path | bytes


def class_folders(config: ConfigDict) -> Stored:
    """Reads `config.dir`, with the preprocessing of the config.

    Where `config.image_size` and `config.channels` are not set, all pictures must have
    one size and one number of channels.
    Within a split the classes alternate, so that the first n pictures (`config.limit`)
    contain all classes.

    Raises:
        InputError: no class folders, an empty class folder, a class without training
            pictures, a picture that is damaged or differs in shape, a bad archive.
    """
    root = expanded(config.dir, "data.dir")
    if root.is_dir():
        tree = _folder_tree(root)
    elif root.is_file() and root.name.endswith(ARCHIVES):
        tree = _archive_tree(root)
    else:
        raise InputError(
            f"data.dir is {config.dir!r}, which is neither a folder nor a "
            f'{" or ".join(ARCHIVES)} file; name what holds the class folders')
    tree = _unwrapped(tree)
    splits = {split: _classes(folder, name)
              for split, (name, folder) in _split_folders(root, tree).items()}
    classes = _class_list(root, splits)
    class_names = _class_names(root, tree, classes)
    alternated = {split: _alternate(pictures, classes)
                  for split, pictures in splits.items()}
    pictures = [picture for pairs in alternated.values() for picture, _ in pairs]
    images, how = _decode_cached(root, pictures, preprocessing_of(config))
    stored, start = {}, 0
    for split, pairs in alternated.items():
        labels = np.array([label for _, label in pairs], np.int32)
        stored[split] = Examples(images[start:start + len(labels)], labels)
        start += len(labels)
    return Stored(stored, class_names, f"{_kinds(pictures)} in {root}, {how}")


def _is_hidden(name: str) -> bool:
    """Tells whether a folder is hidden, or is the one that macOS adds to zips."""
    return name.startswith(".") or name == "__MACOSX"


def _folder_tree(root: Path) -> Tree:
    """Lists a folder and everything below it.

    It refuses a link to a folder, because pictures found under two names could get two
    labels.
    """
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be listed ({error.strerror}); "
                         "correct its permissions or remove it") from error

    trees: dict[str, Tree] = {str(root): {}}
    for folder, names, files in os.walk(root, onerror=refuse, followlinks=False):
        tree = trees[folder]
        names[:] = [name for name in names if not _is_hidden(name)]
        for name in names:
            path = os.path.join(folder, name)
            if os.path.islink(path):
                raise InputError(f"{path} is a link to a folder, which is not "
                                 "followed; replace it with the folder or remove it")
            tree[name] = trees[path] = {}
        for name in files:
            file = Path(folder, name)
            if is_image(file) or _is_table(name):
                tree[name] = file
    return trees[str(root)]


def _archive_tree(path: Path) -> Tree:
    """Reads the pictures and tables of a .tar.gz into memory."""
    root: Tree = {}
    size_bytes = 0
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                *folders, name = PurePosixPath(member.name).parts or ("",)
                if any(map(_is_hidden, folders)) or member.isdir():
                    continue
                if not (is_image_name(name) or _is_table(name)):
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    raise InputError(f"{path} holds {member.name}, which is not a "
                                     "plain file; pack the folder without links")
                size_bytes += member.size
                if size_bytes > MAX_ARCHIVE_BYTES:
                    raise InputError(
                        f"{path} holds more than {MAX_ARCHIVE_BYTES:,} bytes of "
                        "pictures, the limit; unpack it and name the folder")
                tree = root
                for folder in folders:
                    tree = cast(Tree, tree.setdefault(folder, {}))
                tree[name] = content.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as a .tar.gz archive ({error}); "
                         "fetch or pack it again") from error
    return root


def _is_table(name: str) -> bool:
    return name.endswith("labels.txt")


def _subfolders(tree: Tree) -> dict[str, Tree]:
    """Selects the folders, sorted by name."""
    folders = ((name, tree[name]) for name in sorted(tree))
    return {name: inner for name, inner in folders if isinstance(inner, dict)}


def _unwrapped(tree: Tree) -> Tree:
    """Enters the only folder in a folder, since zips often unpack to one."""
    folders = _subfolders(tree)
    if len(folders) == 1:
        (name, inner), = folders.items()
        if name.lower() not in SPLIT_NAMES and _subfolders(inner):
            return inner
    return tree


def _split_folders(root: Path, tree: Tree) -> dict[str, tuple[str, Tree]]:
    """Finds the folder of each split: split -> (its name, the folder).

    A root without such folders is one training split.
    """
    splits: dict[str, tuple[str, Tree]] = {}
    for name, folder in _subfolders(tree).items():
        split, inner = SPLIT_NAMES.get(name.lower()), _subfolders(folder)
        # A folder without folders is a class that is called "train", the vehicle.
        if split is None or not inner:
            continue
        if split in splits:
            raise InputError(
                f"{root} has both {splits[split][0]} and {name} for the {split} split; "
                "keep one")
        doubled = len(inner) == 1 and next(iter(inner)).lower() in SPLIT_NAMES
        splits[split] = name, next(iter(inner.values())) if doubled else folder
    if splits and "train" not in splits:
        raise InputError(
            f'{root} has a {" and a ".join(splits)} folder but none named train or '
            "training; add it")
    return splits or {"train": ("", tree)}


def _classes(folder: Tree, path: str) -> dict[str, list[Picture]]:
    """Lists the pictures of each class folder, sorted by path."""
    return {name: _pictures(inner, f"{path}/{name}")
            for name, inner in _subfolders(folder).items()}


def _pictures(folder: Tree, path: str) -> list[Picture]:
    """Lists the pictures in a folder and below it, sorted by path."""
    pictures = []
    for name in sorted(folder):
        inner, inner_path = folder[name], f"{path}/{name}"
        if isinstance(inner, dict):
            pictures += _pictures(inner, inner_path)
        elif is_image_name(name):
            pictures.append(
                Picture(str(inner) if isinstance(inner, Path) else inner_path, inner))
    return pictures


def _class_list(root: Path, splits: dict[str, dict[str, list[Picture]]]) -> list[str]:
    """Sorts the names of the training split's class folders, and checks all splits."""
    classes = sorted(splits["train"])
    if len(classes) < 2:
        raise InputError(
            f"{root} has {len(classes)} class folders for training; at least 2 are "
            "needed, each with the pictures of one class")
    for name in classes:
        if not splits["train"][name]:
            raise InputError(
                f"{root} has no picture in the class folder {name}; add pictures "
                f'({", ".join(EXTENSIONS)}) or remove it')
    for split, pictures in splits.items():
        unknown = sorted(set(pictures) - set(classes))
        if unknown:
            raise InputError(
                f"{root} has the class {unknown[0]!r} in its {split} split but not in "
                "training; every class must be in training")
    return classes


def _alternate(pictures: dict[str, list[Picture]],
               classes: list[str]) -> list[tuple[Picture, int]]:
    """Lists (picture, label): the first of each class, the second of each, and so on.
    """
    ranked = [(rank, label, picture) for label, name in enumerate(classes)
              for rank, picture in enumerate(pictures.get(name, ()))]
    ranked.sort(key=lambda item: item[:2])
    return [(picture, label) for _, label, picture in ranked]


def _kinds(pictures: list[Picture]) -> str:
    """Describes pictures for the log: '1,370 pictures (.jpg, lossy)'."""
    counts = collections.Counter(
        Path(picture.name).suffix.lower() for picture in pictures)
    kinds = ", ".join(f"{kind}, lossy" if kind in _LOSSY else kind
                      for kind in sorted(counts))
    return f"{len(pictures):,} pictures ({kinds})"


def _decode_cached(root: Path, pictures: list[Picture],
                   preprocessing: Preprocessing) -> tuple[np.ndarray, str]:
    """Returns all pictures as one array, and says for the log how it was made."""
    path = cache.cache_path([picture.content for picture in pictures], preprocessing)
    images = cache.read(path, len(pictures))
    if images is not None:
        return images, f"decoded earlier, read from {path}"
    images = _decode(root, pictures, preprocessing)
    return images, cache.write(path, images)


def _decode(root: Path, pictures: list[Picture],
            preprocessing: Preprocessing) -> np.ndarray:
    """Decodes all pictures into one array, on all cores."""
    def read(picture: Picture) -> np.ndarray:
        if isinstance(picture.content, Path):
            return read_image(picture.content, preprocessing)
        return read_image(io.BytesIO(picture.content), preprocessing,
                          f"{root}: {picture.name}")

    first = read(pictures[0])
    images = allocate(len(pictures), first.shape)

    def decode(index: int) -> None:
        image = read(pictures[index])
        if image.shape != first.shape:
            raise InputError(
                f"{pictures[index].name} is {_shape(image)} but {pictures[0].name} is "
                f"{_shape(first)}; set data.image_size and data.channels, so that all "
                "are converted to one shape")
        images[index] = image

    # Pillow releases the interpreter lock while it decodes and resizes.
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


def _class_names(root: Path, tree: Tree, classes: list[str]) -> tuple[str, ...]:
    """Returns the common names in a table of the root, else the names of the folders.

    The table is one like Kaggle's monkey_labels.txt.
    """
    class_names, source = tuple(classes), str(root)
    for file in sorted(tree):
        table = tree[file]
        if isinstance(table, dict) or not _is_table(file):
            continue
        content = table.read_bytes() if isinstance(table, Path) else table
        path = str(table) if isinstance(table, Path) else file
        text = io.StringIO(content.decode("utf-8", "replace"), newline="")
        rows = [[cell.strip() for cell in row] for row in csv.reader(text)]
        if rows and "Label" in rows[0] and "Common Name" in rows[0]:
            label, common = rows[0].index("Label"), rows[0].index("Common Name")
            names = {row[label]: row[common] for row in rows[1:]
                     if len(row) > max(label, common)}
            if set(classes) <= set(names):
                class_names, source = tuple(names[name] for name in classes), path
                break
    for name in class_names:
        if not name.isprintable():
            raise InputError(f"{source} names a class {name!r}, which cannot be "
                             "printed; correct or remove it")
    return class_names
