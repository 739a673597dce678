"""Packs the records of a set into shards: can be resumed, and checks the result."""

import hashlib
import io
import itertools
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
from PIL import Image

from cnn_jax.console import Reporter
from cnn_jax.data.images import read_image
from cnn_jax.data.records import Records, StoredRecords, digest
from cnn_jax.data.shard_index import save_index, scan
from cnn_jax.data.shard_writer import PackedShard, Sample, fill, write_shard
from cnn_jax.errors import InputError, RunError, one_line
from cnn_jax.files import read_json, write_atomically, write_json

RECORD = "pack.json"
CLASSES = "classes.txt"
_EXTENSIONS = {"BMP": ".bmp", "GIF": ".gif", "JPEG": ".jpg", "PNG": ".png",
               "PPM": ".ppm", "TIFF": ".tif", "WEBP": ".webp", "MPO": ".jpg"}
_IN_FLIGHT = 64  # pictures that are decoded ahead of the one that is written
T = TypeVar("T")
U = TypeVar("U")


class Options(msgspec.Struct, frozen=True):
    """The options on which the bytes of the shards depend."""

    longest_side: int | None = None  # pixels; None keeps the bytes of all pictures
    quality: int = 90                # of the JPEG of a picture that is made smaller
    shard_size: float = 256.0        # MB, millions of bytes
    order: str = "listed"            # or "shuffled"


class Bad(msgspec.Struct, frozen=True):
    """A picture that cannot be read."""

    position: int  # in the order of packing
    reason: str    # with its name


class PackedSplit(msgspec.Struct):
    """The progress of a split."""

    fingerprint: str  # of its records
    names: str        # hash of their names and labels
    shards: list[PackedShard] = []
    bad: list[Bad] = []
    stop: int = 0     # position of the first picture that is not packed yet


class Packed(msgspec.Struct):
    """The content of OUT: pack.json."""

    options: Options
    splits: dict[str, PackedSplit]


def pack(source: StoredRecords, out: Path, options: Options, skip: bool,
         report: Reporter) -> Packed:
    """Packs all splits of a set into `out`.

    Raises:
        InputError: broken pictures where `skip` is false, a class without a picture, or
            an `out` that this command did not make.
        RunError: shards whose bytes are not those that were written.
    """
    if (out / RECORD).exists():
        report.line(f"{out} is packed already, it is checked again")
        packed = _resume(out, source, options)
        _verify(source, out, packed, report)
        return packed
    if out.exists():
        raise InputError(f"{out} exists and was not packed by this command; delete it, "
                         "or name another folder")
    work = out.with_name(out.name + ".partial")
    work.mkdir(parents=True, exist_ok=True)
    packed = _resume(work, source, options, repaired=True)
    for split in packed.splits.values():
        if split.bad and not skip:
            _go_back(split)
    for name, records in source.splits.items():
        _pack_split(name, records, work, packed, report)
    _check_bad(source, packed, skip, report)
    write_atomically(work / CLASSES, "\n".join(source.class_names) + "\n")
    _verify(source, work, packed, report)
    os.rename(work, out)
    return packed


def _resume(work: Path, source: StoredRecords, options: Options,
            repaired: bool = False) -> Packed:
    """Reads the progress of an earlier call, which must have packed the same set.

    repaired: whether a split with broken pictures may have changed, except its names
        and labels. It is then packed again from the first broken picture on.
    """
    fresh = Packed(options, {
        name: PackedSplit(records.fingerprint, _hash_names(records))
        for name, records in source.splits.items()})
    if not (work / RECORD).exists():
        return fresh
    packed = read_json(work / RECORD, Packed, f"delete {work}")
    if packed.options != options:
        raise InputError(f"{work} was packed with {_flags(packed.options)}, now it is "
                         f"{_flags(options)}; use the same options, or delete it")
    if packed.splits.keys() != fresh.splits.keys():
        raise InputError(f"{work} was packed with the splits "
                         f"{', '.join(packed.splits)}; delete it")
    for name, split in packed.splits.items():
        current = fresh.splits[name]
        if split.fingerprint != current.fingerprint:
            if not (repaired and split.bad and split.names == current.names):
                raise InputError(f"{work} was packed from other pictures than the "
                                 f"{name} split has now; delete it")
            _go_back(split)
            split.fingerprint = current.fingerprint
    return packed


def _hash_names(records: Records) -> str:
    names = "\n".join(map(records.name, range(len(records))))
    return digest(os.fsencode(names), records.labels)


def _go_back(split: PackedSplit) -> None:
    """Goes back to the first broken picture, which may have been repaired."""
    first = split.bad[0].position
    split.shards = [shard for shard in split.shards if shard.stop <= first]
    split.stop = split.shards[-1].stop if split.shards else 0
    split.bad = []


def _flags(options: Options) -> str:
    return " ".join(f"--{name}={value}" for name, value in
                    msgspec.structs.asdict(options).items() if value is not None)


def _pack_split(name: str, records: Records, work: Path, packed: Packed,
                report: Reporter) -> None:
    """Writes the missing shards of a split."""
    split, options, folder = packed.splits[name], packed.options, work / name
    folder.mkdir(exist_ok=True)
    order = _order(len(records), options.order)
    digits = max(6, len(str(len(records))))
    with (ThreadPoolExecutor(os.cpu_count()) as pool,
          report.progress_bar(f"packing {name}", len(records), split.stop)):
        def encode(position: int) -> Sample | Bad:
            return _encode(records, int(order[position]), position, options)

        results = _map_ahead(pool, encode, range(split.stop, len(records)))
        bad: list[Bad] = []

        def good_samples() -> Iterator[Sample]:
            for result in results:
                report.advance(result.position + 1, f"{len(split.shards)} shards")
                if isinstance(result, Bad):
                    bad.append(result)
                else:
                    yield result

        samples = good_samples()
        for sample in samples:
            path = folder / f"{len(split.shards):06d}.tar"
            first = sum(shard.count for shard in split.shards)
            members = fill(itertools.chain([sample], samples), options.shard_size * 1e6)
            shard = write_shard(path, members, first, digits)
            split.shards.append(shard)
            split.bad += [item for item in bad if item.position < shard.stop]
            bad = [item for item in bad if item.position >= shard.stop]
            split.stop = shard.stop
            write_json(work / RECORD, packed)
        split.bad, split.stop = split.bad + bad, len(records)
        write_json(work / RECORD, packed)


def _order(count: int, order: str) -> np.ndarray:
    if order == "listed":
        return np.arange(count)
    return np.random.default_rng(0).permutation(count)


def _map_ahead(pool: ThreadPoolExecutor, function: Callable[[T], U],
               items: Iterable[T]) -> Iterator[U]:
    """Yields function(item) in order, while the pool works a little ahead."""
    waiting: deque[Future[U]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= _IN_FLIGHT:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _encode(records: Records, index: int, position: int,
            options: Options) -> Sample | Bad:
    """Checks a picture, and makes it smaller if it exceeds `options.longest_side`."""
    try:
        content, label = records.read(index)
        if isinstance(content, bytes):
            pixels = read_image(io.BytesIO(content), name=records.name(index))
            with Image.open(io.BytesIO(content)) as opened:
                extension = _EXTENSIONS[str(opened.format)]
        else:
            pixels, extension = content, ".png"
    except InputError as error:
        return Bad(position, str(error))
    scale = (options.longest_side or math.inf) / max(pixels.shape[:2])
    if isinstance(content, bytes) and scale >= 1:
        return Sample(position, extension, content, int(label))
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    if scale < 1:
        extension = ".jpg"
        width, height = (max(1, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        image.save(file, "JPEG", quality=options.quality)
    else:
        image.save(file, "PNG")
    return Sample(position, extension, file.getvalue(), int(label))


def _check_bad(source: StoredRecords, packed: Packed, skip: bool,
               report: Reporter) -> None:
    """Lists the broken pictures. Raises InputError unless they may be skipped."""
    bad = [item for split in packed.splits.values() for item in split.bad]
    for item in bad:
        report.line(one_line(item.reason))
    if bad and not skip:
        total = sum(map(len, source.splits.values()))
        raise InputError(
            f"{len(bad):,} of {total:,} pictures cannot be read, as listed; repair "
            "them and run this again, or leave them out with --on_error=skip")


def _verify(source: StoredRecords, out: Path, packed: Packed,
            report: Reporter) -> None:
    """Reads all shards back: checks bytes, members, and the pictures of each class."""
    total = sum(len(split.shards) for split in packed.splits.values())
    done = 0
    with report.progress_bar("verifying", total):
        for name, split in packed.splits.items():
            indexed = []
            for shard in split.shards:
                path = out / name / shard.name
                with path.open("rb") as file:
                    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
                if sha256 != shard.sha256:
                    raise RunError(f"{path} is not what was written to it; delete "
                                   f"{out} and pack again, or on another disk")
                index = scan(path)
                indexed.append(index._replace(
                    file=msgspec.structs.replace(index.file, sha256=sha256)))
                done += 1
                report.advance(done, name)
            _check_counts(source, name, split, [index.labels for index in indexed])
            if indexed:
                save_index(out / name, indexed)


def _check_counts(source: StoredRecords, name: str, split: PackedSplit,
                  labels: list[np.ndarray]) -> None:
    """Compares the pictures of each class in the shards with those of the source."""
    records, classes = source.splits[name], len(source.class_names)
    packed = np.bincount(np.concatenate([*labels, np.empty(0, np.int32)]).astype(int),
                         minlength=classes)
    in_source = np.bincount(records.labels, minlength=classes)
    if packed.sum() != len(records) - len(split.bad) or (packed > in_source).any():
        raise RunError(f"the {name} split has {packed.sum():,} pictures instead of "
                       f"{len(records) - len(split.bad):,}; delete it and pack again")
    empty = np.flatnonzero((packed == 0) & (in_source > 0))
    if len(empty) and name == "train":
        raise InputError(f"no picture of the class {source.class_names[empty[0]]} can "
                         "be read; repair or remove the class")
