"""Indexes tar shards: where each picture is and what its label is.

Members are named as in WebDataset: files that share a name up to the first dot are one
example, as 000123.jpg with 000123.cls (a number) or 000123.json (with "label").
Reading the headers of all members once makes every picture accessible by itself. The
index is kept beside the shards, or in `CNN_JAX_CACHE` where their folder cannot be
written. It is rebuilt for a shard whose size or time has changed.
"""

import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import numpy as np

from cnn_jax.data.images import EXTENSIONS
from cnn_jax.data.packed_strings import PackedStrings
from cnn_jax.errors import InputError
from cnn_jax.files import load_beside, save_beside

INDEX_NAME = "cnn_jax_index.npz"
_VERSION = 1
_LABELS = (".cls", ".json")
_ARRAYS = ("offsets", "sizes", "labels")


class ShardFile(msgspec.Struct, frozen=True):
    """Identifies the shard that an index describes."""

    name: str
    size: int
    mtime_ns: int
    count: int        # pictures
    sha256: str = ""  # of the file, where `pack` has written it


class Shard(NamedTuple):
    """The index of one shard: member, position and label of each picture."""

    file: ShardFile
    names: PackedStrings
    offsets: np.ndarray  # int64 [N], bytes
    sizes: np.ndarray    # int64 [N], bytes
    labels: np.ndarray   # int32 [N]


def index_shards(paths: Sequence[Path]) -> tuple[list[Shard], str]:
    """Reads the index of shards in one folder, and builds missing or outdated parts.

    Returns the shards, and what was done, for the log.

    Raises:
        InputError: a shard that is cut short or is not a tar file, a picture without a
            label, a label without a picture, a label that is not a number.
    """
    folder = paths[0].parent
    known = load_index(folder)
    shards, missing, old = [], 0, 0
    for path in paths:
        shard = known.get(path.name)
        if shard is None or not _is_of(shard.file, path):
            missing, old = missing + (shard is None), old + (shard is not None)
            shard = known[path.name] = scan(path)
        shards.append(shard)
    if not missing + old:
        return shards, "indexed earlier"
    location = save_index(folder, list(known.values()))
    changed = f", {old} of them again since the file had changed" if old else ""
    return shards, f"{missing + old} indexed{changed} ({location})"


def scan(path: Path) -> Shard:
    """Reads the headers of all members of a shard, and the labels."""
    status = path.stat()
    pictures: dict[str, tuple[str, int, int]] = {}  # key -> (member, offset, size)
    labels: dict[str, int] = {}
    with path.open("rb") as file:
        for member in _members(path, file):
            directory, _, base = member.name.rpartition("/")
            stem, dot, extension = base.partition(".")
            key, extension = f"{directory}/{stem}", (dot + extension).lower()
            if extension in EXTENSIONS:
                if key in pictures:
                    raise InputError(f"{path} has two pictures named {pictures[key][0]}"
                                     f" and {member.name}; keep one")
                pictures[key] = member.name, member.offset_data, member.size
            elif extension in _LABELS:
                content = os.pread(file.fileno(), member.size, member.offset_data)
                label = _label(content, extension, f"{path}: {member.name}")
                if label is not None and labels.setdefault(key, label) != label:
                    raise InputError(f"{path}: {member.name} has the label {label} "
                                     "but another file of this example has "
                                     f"{labels[key]}; correct one")
    for key, (name, _, _) in pictures.items():
        if key not in labels:
            raise InputError(f"{path} has the picture {name} but no label for it; add "
                             f'a .cls with its number, or a .json with "label"')
    for key in labels:
        if key not in pictures:
            raise InputError(f"{path} has a label {key.removeprefix('/')}.cls or .json "
                             "but no picture of that name; add or remove it")
    names, offsets, sizes = zip(*pictures.values()) if pictures else ((), (), ())
    return Shard(ShardFile(path.name, status.st_size, status.st_mtime_ns, len(names)),
                 PackedStrings(names), np.array(offsets, np.int64),
                 np.array(sizes, np.int64),
                 np.array([labels[key] for key in pictures], np.int32))


def load_index(folder: Path) -> dict[str, Shard]:
    """Reads the index of a folder, {file name: shard}; empty where there is none."""
    known: dict[str, Shard] = {}
    for arrays in load_beside(folder, INDEX_NAME):
        if arrays.get("version") != _VERSION:
            continue
        files = msgspec.json.decode(arrays["files"].tobytes(), type=list[ShardFile])
        names = PackedStrings.of(arrays["names"].tobytes(), arrays["starts"])
        start = 0
        for file in files:
            rows = slice(start, start + file.count)
            start += file.count
            shard = Shard(file, names.slice(rows.start, rows.stop),
                          *(arrays[name][rows] for name in _ARRAYS))
            if file.name not in known or _is_of(file, folder / file.name):
                known[file.name] = shard
    return known


def save_index(folder: Path, shards: list[Shard]) -> str:
    """Writes the index beside the shards, or into the cache; returns where it is."""
    names = PackedStrings.concatenate(shard.names for shard in shards)
    arrays = dict(
        version=np.int64(_VERSION),
        files=np.frombuffer(msgspec.json.encode([shard.file for shard in shards]),
                            np.uint8),
        names=np.frombuffer(names.block, np.uint8), starts=names.starts,
        **{name: np.concatenate([getattr(shard, name) for shard in shards])
           for name in _ARRAYS})
    return save_beside(folder, INDEX_NAME, **arrays)


def _is_of(file: ShardFile, path: Path) -> bool:
    """Tells whether the file has not changed since it was indexed."""
    status = path.stat() if path.exists() else None
    return (status is not None and status.st_size == file.size
            and status.st_mtime_ns == file.mtime_ns)


def _members(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Yields the plain files of a shard.

    Raises an InputError that names the last complete member, unless the zeros that end
    a tar file follow it.
    """
    size, last, end = os.fstat(file.fileno()).st_size, "", -1
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                # TarFile keeps all members that it has seen.
                archive.members.clear()  # type: ignore[attr-defined]
                if member.offset_data + member.size <= size:
                    last = member.name
                    if member.isreg():
                        yield member
            end = archive.offset
    except tarfile.TarError as error:
        if not last:
            raise InputError(f"{path} is not an uncompressed tar file ({error}); "
                             "unpack or replace it") from error
    if end < 0 or os.pread(file.fileno(), 512, end) != bytes(512):
        raise InputError(f"{path} is cut short or damaged: its last whole member is "
                         f"{last or '(none)'}; fetch or pack it again")


def _label(content: bytes, extension: str, name: str) -> int | None:
    """Parses a label, an integer from 0 on; None for a .json about something else."""
    label: object = content.strip().decode("ascii", "replace")
    if extension == ".json":
        try:
            described = json.loads(content)
        except ValueError as error:
            raise InputError(f"{name} is not JSON ({error}); correct it") from error
        if not isinstance(described, dict) or "label" not in described:
            return None
        label = described["label"]
    if isinstance(label, str) and label.isdecimal() and len(label) < 10:
        label = int(label)
    if not isinstance(label, int) or isinstance(label, bool) or not 0 <= label < 2**31:
        raise InputError(f"{name} has the label {str(label)[:40]!r}; a label is the "
                         "number of a class, from 0 on")
    return label
