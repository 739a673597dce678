"""Reads tar shards of pictures, with random access: the layout of WebDataset.

    set/{000000..000146}.tar                     one training split, split by us
    set/{train,val,test}/000000.tar              already split; some may be missing
    set/imagenet1k-train-0000.tar, ...           split by a word of the file's name
    set/train-{000000..000009}.tar as data.dir   these shards alone

Class names come from a file beside the shards, see class_names.py; without one they are
the numbers. `python -m cnn_jax.pack` writes such sets.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.console import counted
from cnn_jax.data.class_names import is_table, numbered_names
from cnn_jax.data.listing import SPLIT_NAMES
from cnn_jax.data.packed_strings import PackedStrings, compact, in_file
from cnn_jax.data.records import Record, StoredRecords, digest, read_each
from cnn_jax.data.shard_index import index_shards
from cnn_jax.errors import InputError
from cnn_jax.files import expanded

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclasses.dataclass(frozen=True, eq=False)
class ShardRecords:
    """The pictures of a split in tar shards.

    A shard is opened for each read, which takes microseconds. So threads share no file,
    forks inherit none, and there may be any number of shards.
    """

    shards: tuple[str, ...]
    shard: np.ndarray     # [N], into `shards`
    members: Sequence[str]
    offsets: np.ndarray   # [N], bytes
    sizes: np.ndarray     # [N], bytes
    labels: np.ndarray    # int32 [N]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Record:
        try:
            file = os.open(self.shards[self.shard[index]], os.O_RDONLY)
            try:
                content = os.pread(file, self.sizes[index], self.offsets[index])
            finally:
                os.close(file)
        except OSError as error:
            raise InputError(f"{self.name(index)} cannot be read ({error.strerror}); "
                             "replace the shard") from error
        if len(content) != self.sizes[index]:
            raise InputError(f"{self.name(index)} is cut short, though it was whole "
                             "when the shard was indexed; replace the shard")
        return content, self.labels[index]

    __iter__ = read_each

    def name(self, index: int) -> str:
        return f"{self.shards[self.shard[index]]}: {self.members[index]}"


def tar_shards(config: ConfigDict) -> StoredRecords:
    """Opens the shards that `data.dir` names, a folder or a pattern with braces.

    Raises:
        InputError: no shards, a shard or an index that `index_shards` refuses, labels
            without a class, or a class without a label where no file names the classes.
    """
    root = expanded(config.dir, "data.dir")
    paths = _find(root)
    splits, notes = {}, []
    for split, files in paths.items():
        splits[split], note = _open(files)
        notes.append(f"{split} {note}")
    folder = root if root.is_dir() else root.parent
    for split, records in splits.items():
        if not len(records):
            raise InputError(f"{paths[split][0].parent} has no picture in its {split} "
                             "shards; pack it again")
    class_names = _class_names(folder, splits)
    empty = len(class_names) - len(np.unique(splits["train"].labels))
    if empty:
        notes.append(f"{empty:,} classes have no training picture")
    pictures = sum(len(split) for split in splits.values())
    shards = sum(len(files) for files in paths.values())
    return StoredRecords(
        dict(splits), class_names,
        f"{pictures:,} pictures in {counted(shards, 'shard')} in {root}; "
        + ", ".join(notes))


def is_shards(root: Path) -> bool:
    """Tells whether a path names shards, not class folders."""
    folders = [root, *(root / name for name in SPLIT_NAMES)]
    return bool(_BRACES.search(root.name)) or any(map(find_shards, folders))


def find_shards(folder: Path) -> list[Path]:
    """Lists the shards in a folder, sorted by name."""
    return sorted(path for path in folder.glob("*.tar")
                  if not path.name.startswith("."))


def _find(root: Path) -> dict[str, list[Path]]:
    """Finds the shards of each split."""
    if _BRACES.search(root.name):
        return {"train": _expand(root)}
    if not root.is_dir():
        raise InputError(f"data.dir is {str(root)!r}, which is neither a folder nor a "
                         "pattern such as set/{000000..000009}.tar; name the shards")
    splits: dict[str, list[Path]] = {}
    for path in find_shards(root):
        words = re.split(r"[^a-z]+", path.name.lower())
        split = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")
        splits.setdefault(split, []).append(path)
    named = {split: files for split, files in splits.items() if split}
    if named and "" in splits:
        raise InputError(
            f"{root} has {splits[''][0].name}, though other shards in it have train, "
            "val or test in their names; name all of them so, or none")
    splits = named or ({"train": splits[""]} if splits else {})
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split, files = SPLIT_NAMES.get(folder.name.lower(), ""), find_shards(folder)
        if split and files:
            if split in splits:
                raise InputError(f"{root} has shards for the {split} split in "
                                 f"{splits[split][0].parent} and in {folder}; keep one")
            splits[split] = files
    if "train" not in splits:
        content = f"only {' and '.join(splits)} shards" if splits else "no .tar shards"
        raise InputError(f"{root} has {content}; put training shards into it, or into "
                         "a folder train")
    return splits


def _expand(pattern: Path) -> list[Path]:
    """Expands the braces in a file's name; all files must exist."""
    match = _BRACES.search(pattern.name)
    if match is None:
        if not pattern.is_file():
            raise InputError(f"data.dir names the shard {pattern}, which does not "
                             "exist; correct the numbers")
        return [pattern]
    first, last = match.groups()
    before, after = pattern.name[:match.start()], pattern.name[match.end():]
    return [path for number in range(int(first), int(last) + 1) for path in _expand(
        pattern.with_name(f"{before}{number:0{len(first)}d}{after}"))]


def _open(paths: list[Path]) -> tuple[ShardRecords, str]:
    """Opens the shards of a split; also returns how they were indexed, for the log."""
    shards, note = index_shards(paths)
    counts = [shard.file.count for shard in shards]
    members = PackedStrings.concatenate(shard.names for shard in shards)
    sizes = np.concatenate([shard.sizes for shard in shards])
    labels = np.concatenate([shard.labels for shard in shards])
    fingerprint = digest(*(os.fsencode(path.name) for path in paths), np.array(counts),
                         members.block, sizes, labels)
    return ShardRecords(
        tuple(map(str, paths)),
        np.repeat(compact(np.arange(len(paths))), counts), in_file(members),
        compact(np.concatenate([shard.offsets for shard in shards])), compact(sizes),
        labels, fingerprint), note


def _class_names(folder: Path, splits: dict[str, ShardRecords]) -> tuple[str, ...]:
    """Returns the names of the classes 0, 1, ... from a table, else their numbers.

    Without a table the training labels say how many classes there are, so each class
    must occur.
    """
    present = np.unique(splits["train"].labels)
    class_names = None
    for parent in (folder, folder.parent):
        if class_names is None and (parent == folder or folder.name in SPLIT_NAMES):
            tables = {path.name: path.read_bytes() for path in parent.iterdir()
                      if is_table(path.name)}
            class_names = numbered_names(tables, parent)
    if class_names is None:
        gaps = np.flatnonzero(present != np.arange(len(present)))
        if len(gaps):
            raise InputError(
                f"{folder} has no training picture with the label {gaps[0]}, though "
                f"one has {present[-1]}; labels count from 0, or classes.txt names all "
                "classes, one per line")
        class_names = tuple(str(label) for label in present)
    if len(class_names) < 2:
        raise InputError(f"{folder} has {len(class_names)} classes; at least 2 are "
                         "needed")
    for records in splits.values():
        unknown = np.flatnonzero(records.labels >= len(class_names))
        if len(unknown):
            raise InputError(
                f"{records.name(unknown[0])} has the label "
                f"{records.labels[unknown[0]]} but {folder} has {len(class_names):,} "
                "classes, numbered from 0; correct the label or the names")
    return class_names
