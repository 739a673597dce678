"""Lists class folders: which pictures there are, of which split and class.

    flowers/{daisy,rose}/*.jpg                    split by us
    flowers/{train,val,test}/{daisy,rose}/*.jpg   already split; some may be missing
    flowers/training/training/{daisy,rose}/*.jpg  each split inside one more folder
    anything/flowers/...                          all of it inside one more folder

ImageNet's train/n01440764/*.JPEG and val/n01440764/*.JPEG are the second of these. A
.tar.gz of such a folder is listed too, such as CIFAR-10 in JPEG files
(cifar-10-images/{train,test}/CLASS/K.jpg). It is read into memory, not unpacked.
"""

import bisect
import dataclasses
import os
import tarfile
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np

from cnn_jax.data.class_names import find_names, is_table
from cnn_jax.data.images import EXTENSIONS, is_image_name
from cnn_jax.data.packed_strings import PackedStrings
from cnn_jax.errors import InputError

SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation",
    "test": "test", "testing": "test",
}
ARCHIVES = (".tar.gz", ".tgz")
MAX_ARCHIVE_BYTES = 2**28  # of encoded pictures, which are all kept in memory


@dataclasses.dataclass
class Folder:
    """A folder: its sub-folders, and the names of its files, sorted."""

    path: str  # below the root; '' is the root
    folders: dict[str, "Folder"] = dataclasses.field(default_factory=dict)
    pictures: PackedStrings = dataclasses.field(default_factory=PackedStrings)
    tables: list[str] = dataclasses.field(default_factory=list)
    others: list[str] = dataclasses.field(default_factory=list)  # neither, not hidden


class Listing(NamedTuple):
    """A folder or an archive, and everything below it."""

    root: Path
    tree: Folder
    contents: dict[str, bytes]  # path -> content of each file in an archive

    def read(self, path: str) -> bytes:
        """Reads a file that the listing names."""
        return self.contents[path] if self.contents else (self.root / path).read_bytes()


class Pictures(NamedTuple):
    """The pictures of a split. Picture i is `directories[directory[i]]/files[i]`.

    The classes alternate: the first picture of each class, the second of each, and so
    on. So the first n pictures contain all classes.
    """

    directories: tuple[str, ...]  # below the root of the listing
    directory: np.ndarray         # int32 [N]
    files: PackedStrings
    labels: np.ndarray            # int32 [N]

    def path(self, index: int) -> str:
        """Returns the path of a picture below the root of the listing."""
        return _join(self.directories[self.directory[index]], self.files[index])


def class_pictures(listing: Listing) -> tuple[dict[str, Pictures], tuple[str, ...]]:
    """Lists the pictures of each split, and the names of the classes.

    Labels are the positions of the folders in alphabetical order. A table in the root
    may give the classes other names, see class_names.py.

    Raises:
        InputError: no class folders, an empty class folder, two of one name, a class
            without training pictures, pictures of a split that are in no class folder,
            or a table that does not fit.
    """
    root, tree = listing.root, _unwrapped(listing.tree)
    splits = _split_folders(root, tree)
    classes = _class_list(root, splits)
    tables = {name: listing.read(_join(folder.path, name))
              for folder in (listing.tree, tree) for name in folder.tables}
    class_names = find_names(tables, classes, root)
    pictures = {split: _pictures([folder.folders.get(name) for name in classes])
                for split, folder in splits.items()}
    return pictures, class_names


def other_files(listing: Listing) -> list[str]:
    """Lists the names of the files in class folders that are not read as pictures."""
    def below(folder: Folder) -> list[str]:
        return [name for inner in folder.folders.values()
                for name in (*inner.others, *inner.tables, *below(inner))]
    return below(_unwrapped(listing.tree))


def list_folder(root: Path) -> Listing:
    """Lists a folder and everything below it; it opens no file.

    It refuses a link to a folder, because pictures with two paths could get two labels.
    """
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename} cannot be listed ({error.strerror}); "
                         "correct its permissions or remove it") from error

    tree = Folder("")
    folders = {str(root): tree}
    for path, names, files in os.walk(root, onerror=refuse, followlinks=False):
        folder = folders.pop(path)
        names[:] = sorted(name for name in names if not _is_hidden(name))
        for name in names:
            child = os.path.join(path, name)
            if os.path.islink(child):
                raise InputError(f"{child} is a link to a folder, which is not "
                                 "followed; replace it with the folder or remove it")
            folder.folders[name] = folders[child] = Folder(_join(folder.path, name))
        pictures: list[str] = []
        for name in sorted(files):
            if is_image_name(name):
                pictures.append(name)
            elif is_table(name):
                folder.tables.append(name)
            elif not _is_hidden(name):
                folder.others.append(name)
        folder.pictures = PackedStrings(pictures)
    return Listing(root, tree, {})


def list_archive(path: Path) -> Listing:
    """Lists a .tar.gz and reads its pictures and tables into memory."""
    contents: dict[str, bytes] = {}
    others: list[str] = []
    size_bytes = 0
    try:
        with tarfile.open(path, "r|gz") as archive:
            for member in archive:
                *folders, name = PurePosixPath(member.name).parts or ("",)
                if any(map(_is_hidden, folders)) or member.isdir():
                    continue
                if not (is_image_name(name) or is_table(name)):
                    others += [] if _is_hidden(name) else ["/".join((*folders, name))]
                    continue
                file = archive.extractfile(member) if member.isreg() else None
                if file is None:
                    raise InputError(f"{path} holds {member.name}, which is not a "
                                     "plain file; pack the folder without links")
                size_bytes += member.size
                if size_bytes > MAX_ARCHIVE_BYTES:
                    raise InputError(
                        f"{path} holds more than {MAX_ARCHIVE_BYTES:,} bytes of "
                        "pictures, the limit; unpack it and name the folder")
                contents["/".join((*folders, name))] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read as a .tar.gz archive ({error}); "
                         "fetch or pack it again") from error
    return Listing(path, _archive_tree(sorted(contents), sorted(others)), contents)


def _archive_tree(paths: list[str], others: list[str]) -> Folder:
    """Arranges the pictures and tables of an archive in folders.

    others: other files; those in folders without pictures are left out.
    """
    tree = Folder("")
    pictures: dict[str, list[str]] = {}
    folders = {"": tree}
    for path in paths:
        directory, _, name = path.rpartition("/")
        folder = tree
        for step in directory.split("/") if directory else ():
            child = _join(folder.path, step)
            folder = folder.folders.setdefault(step, Folder(child))
            folders[child] = folder
        if is_image_name(name):
            pictures.setdefault(directory, []).append(name)
        else:
            folder.tables.append(name)
    for directory, names in pictures.items():
        folders[directory].pictures = PackedStrings(sorted(names))
    for path in others:
        directory, _, name = path.rpartition("/")
        if directory in folders:
            folders[directory].others.append(name)
    return tree


def _is_hidden(name: str) -> bool:
    """Tells whether a file or folder is hidden, or the folder that macOS adds to zips.
    """
    return name.startswith(".") or name == "__MACOSX"


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _unwrapped(tree: Folder) -> Folder:
    """Returns the only folder in a folder, since zips often unpack to one."""
    if len(tree.folders) == 1:
        (name, inner), = tree.folders.items()
        if name.lower() not in SPLIT_NAMES and inner.folders:
            return inner
    return tree


def _split_folders(root: Path, tree: Folder) -> dict[str, Folder]:
    """Finds the folder of each split.

    A root without such folders is one training split.
    """
    splits: dict[str, Folder] = {}
    names: dict[str, str] = {}
    for name, folder in sorted(tree.folders.items()):
        split = SPLIT_NAMES.get(name.lower())
        # A folder without folders is a class that is called "train", the vehicle.
        if split is None or not folder.folders:
            continue
        if split in splits:
            raise InputError(f"{root} has both {names[split]} and {name} for the "
                             f"{split} split; keep one")
        inner = next(iter(folder.folders.values()))
        doubled = (len(folder.folders) == 1
                   and next(iter(folder.folders)).lower() in SPLIT_NAMES)
        splits[split], names[split] = inner if doubled else folder, name
    if splits and "train" not in splits:
        raise InputError(
            f'{root} has a {" and a ".join(splits)} folder but none named train or '
            "training; add it")
    if splits:
        _check_flat_folders(root, tree)
    return splits or {"train": tree}


def _check_flat_folders(root: Path, tree: Folder) -> None:
    """Raises InputError for a validation folder whose pictures are in no class folder.

    A test folder may be like that: test pictures are often published without labels.
    """
    for name, folder in tree.folders.items():
        if (SPLIT_NAMES.get(name.lower()) == "validation" and not folder.folders
                and len(folder.pictures)):
            raise InputError(
                f"{root / folder.path} has {len(folder.pictures):,} pictures but no "
                "class folders; sort them into one folder for each class, or remove it")


def _class_list(root: Path, splits: dict[str, Folder]) -> list[str]:
    """Sorts the names of the training split's class folders, and checks all splits."""
    train = splits["train"].folders
    classes = sorted(train)
    if len(classes) < 2:
        raise InputError(
            f"{root} has {len(classes)} class folders for training; at least 2 are "
            "needed, each with the pictures of one class")
    normalized: dict[str, str] = {}
    for name in sorted({name for folder in splits.values() for name in folder.folders}):
        other = normalized.setdefault(
            unicodedata.normalize("NFC", name).strip().casefold(), name)
        if other != name:
            raise InputError(
                f"{root} has the class folders {other!r} and {name!r}, which differ "
                "only in case or spaces; give them one name or two different ones")
    for name in classes:
        for inside, folder in train[name].folders.items():
            if inside.lower() in SPLIT_NAMES and folder.folders:
                raise InputError(
                    f"{root / folder.path} has class folders, so {name} is a whole set "
                    "and no class; name one set, or put the pictures of all sets into "
                    "one")
        if not any(len(names) for _, names in _runs(train[name])):
            raise InputError(
                f"{root} has no picture in the class folder {name}; add pictures "
                f'({", ".join(EXTENSIONS)}) or remove it')
    for split, folder in splits.items():
        unknown = sorted(set(folder.folders) - set(classes))
        if unknown:
            raise InputError(
                f"{root} has the class {unknown[0]!r} in its {split} split but not in "
                "training; every class must be in training")
    return classes


def _runs(folder: Folder) -> Iterator[tuple[str, PackedStrings]]:
    """Yields (directory, names of pictures in it), for a folder in order of paths."""
    start = 0
    for name, inner in sorted(folder.folders.items()):
        stop = bisect.bisect(folder.pictures, name)
        if stop > start:
            yield folder.path, folder.pictures.slice(start, stop)
        yield from _runs(inner)
        start = stop
    if len(folder.pictures) > start:
        yield folder.path, folder.pictures.slice(start, len(folder.pictures))


def _pictures(classes: list[Folder | None]) -> Pictures:
    """Lists the pictures of the classes, alternating; None: a class without pictures.
    """
    runs = [(label, directory, names) for label, folder in enumerate(classes) if folder
            for directory, names in _runs(folder)]
    counts = [len(names) for _, _, names in runs]
    labels = np.repeat(np.array([label for label, _, _ in runs], np.int32), counts)
    directory = np.repeat(np.arange(len(runs), dtype=np.int32), counts)
    rank = np.arange(len(labels), dtype=np.int32)
    rank -= np.searchsorted(labels, labels).astype(np.int32)  # where the class starts
    order = np.lexsort((labels, rank))
    files = PackedStrings.concatenate(names for _, _, names in runs)
    return Pictures(tuple(name for _, name, _ in runs), directory[order],
                    files.take(order), labels[order])
