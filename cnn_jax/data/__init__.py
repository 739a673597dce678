"""Loads data sets by name: uint8 images [N, H, W, C], labels [N], class names.

`load` reads a set from its source, converts colour and size, and splits it. The images
of a set that is streamed are lazy: see lazy.py.
`open_records` makes the same splits of a set that stays in its files.
"""

import difflib
import re
from collections.abc import Callable
from typing import NamedTuple

from ml_collections import ConfigDict

from cnn_jax import tasks, user_code
from cnn_jax.console import counted
from cnn_jax.data import arrays as own_arrays
from cnn_jax.data import folders, shapes, shards, sources, table
from cnn_jax.data.arrays import Arrays
from cnn_jax.data.decoded import decode
from cnn_jax.data.examples import Dataset, Examples, Stored, split, split_rows
from cnn_jax.data.images import (convert_images, find_images, preprocessing_of,
                                 read_image)
from cnn_jax.data.lazy import lazy_dataset, streams
from cnn_jax.data.memory import return_freed
from cnn_jax.data.own_source import own_source
from cnn_jax.data.records import (InMemory, RecordDataset, Records, StoredRecords,
                                  Subset)
from cnn_jax.errors import InputError
from cnn_jax.tasks import TASKS, Task, find_task
from cnn_jax.tasks.task import LabelStatistics

__all__ = [
    "Dataset", "Examples", "SOURCES", "accept", "load", "open_records", "task_of"]


class Source(NamedTuple):
    """Says where a set comes from and what its labels mean."""

    # From the `data` config: arrays, or records that are not decoded yet.
    read: Callable[[ConfigDict], Stored | StoredRecords]
    task: Task = tasks.classify.TASK
    about: str = ""  # what --mode=list prints; '' is the docstring of `read`


def _catalogue(config: ConfigDict) -> StoredRecords:
    """Loads a set of the tensorflow-datasets catalogue."""
    # Imported here: tensorflow-datasets takes a second to import.
    from cnn_jax.data import builders
    return builders.catalogue(config)


SOURCES = {
    "digits": Source(sources.digits),
    "mnist": Source(
        sources.official_set,
        about="60,000 + 10,000 handwritten digits of 28 x 28 x 1 pixels."),
    "fashion_mnist": Source(
        sources.official_set,
        about="60,000 + 10,000 pictures of clothes, 28 x 28 x 1 pixels."),
    "cifar10": Source(
        sources.official_set,
        about="50,000 + 10,000 photographs of ten classes, 32 x 32 x 3 pixels."),
    "imagenet": Source(sources.imagenet),
    "folder": Source(folders.class_folders),
    "csv": Source(table.table_of_numbers, tasks.regress.TASK),
    "shards": Source(shards.tar_shards),
    "shapes_colour": Source(shapes.colour),
    "shapes_shape": Source(shapes.shape),
    "shapes_both": Source(shapes.both),
    "shapes_segmentation": Source(shapes.segmentation, tasks.segment.TASK),
    "shapes_multilabel": Source(shapes.multilabel, tasks.multilabel.TASK),
    **{task.set_name: Source(own_arrays.refuse, task,
                             "Takes arrays that a program passes to training.run.")
       for task in TASKS.values()},
}
CATALOGUE = Source(_catalogue)  # tfds:NAME
FOLDERS = ("folder", "shards", "csv")  # data.dir is needed
# Sets that may have train and validation alone
_NO_TEST = (*FOLDERS, "imagenet", *(task.set_name for task in TASKS.values()))
_BIASED = ("shapes_colour", "shapes_shape")
SPLITS = ("stratified", "random", "first", "last")
PROTOCOLS = ("held_out", "published")
MAX_SIDE = 4096  # pixels
# NAME, NAME/config, NAME:1.2.3; no namespaces, which tfds would look up online.
_TFDS_NAME = r"tfds:[A-Za-z]\w*(/[\w.=,+-]+)?(:[\d.*]+)?"


def load(config: ConfigDict, seed: int, stored: Stored | None = None) -> Dataset:
    """Loads the set that the `data` config names.

    Args:
        config: the `data` section of a config that `cnn_jax.config.check` accepts.
        seed: decides which examples are held out, 0 <= seed < 2**32.
        stored: a set that is in memory already, so that no source is read; see
            `arrays.py`.

    Raises:
        InputError: a value that `check` refuses, or files that are missing, damaged or
            not what their name says.
    """
    if stored is not None:
        check(config)
    source = stored or _read(config)
    if user_code.is_reference(config.task) or _is_reference(config.name):
        _check_labels(source, task_of(config))
    records = None
    if isinstance(source, StoredRecords) and config.limit:  # decode what a split uses
        records = _split_records(source, config, seed)
        source = _used(source, records)
    streamed, reason = streams(source, preprocessing_of(config), config)
    if streamed:
        records = records or _split_records(_as_records(source, config), config, seed)
        return lazy_dataset(records, preprocessing_of(config),
                            config.on_error == "skip", reason)
    if isinstance(source, StoredRecords):
        whole = decode(source, preprocessing_of(config))
    else:
        whole = source._replace(splits={
            name: examples._replace(images=convert_images(
                examples.images, preprocessing_of(config)))
            for name, examples in source.splits.items()})
    if records:  # it is split already
        empty = whole.splits["train"].take(slice(0))
        return _dataset(whole, config, *(whole.splits.get(name, empty)
                                         for name in ("train", "validation", "test")))
    return _dataset(whole, config, *split(whole, config, seed, task_of(config)))


def _dataset(whole: Stored, config: ConfigDict, train: Examples, validation: Examples,
             test: Examples) -> Dataset:
    height, width, channels = train.images.shape[1:]
    shape = f"{height} x {width} x {channels}, {_outputs(whole, config)}"
    return Dataset(config.name, train, validation, test, whole.class_names,
                   f"{_describe(whole, config, train, validation, test)}; {shape}")


def _outputs(stored: Stored | StoredRecords, config: ConfigDict) -> str:
    """Counts the classes, or the numbers, that a label consists of."""
    count = len(stored.class_names)
    return (counted(count, "number") if task_of(config).figures == "values"
            else f"{count} classes")


def _used(source: StoredRecords, records: RecordDataset) -> StoredRecords:
    """Leaves out the records of a set that no split uses."""
    splits = {"train": records.train, "validation": records.validation,
              "test": records.test}
    return source._replace(splits={
        name: split for name, split in splits.items() if len(split)})


def accept(arrays: Arrays, config: ConfigDict) -> tuple[ConfigDict, Stored]:
    """Checks arrays that a program passes; see arrays.py.

    Returns a copy of the whole config whose data.name is the kind of the arrays, and
    the set for `load`.
    """
    task, stored = own_arrays.stored(arrays, config.data.task)
    config = config.copy_and_resolve_references()
    with config.unlocked():
        config.data.dir = None
        config.data.name = task.set_name if task.set_name in SOURCES else "arrays"
    return config, stored


def open_records(config: ConfigDict, seed: int) -> RecordDataset:
    """Opens the set that the `data` config names, without decoding its pictures.

    Its splits have the same images in the same order as those of `load`, at their
    stored size. Arguments and errors are those of `load`.
    """
    return _split_records(open_stored(config), config, seed)


def _split_records(stored: StoredRecords, config: ConfigDict,
                   seed: int) -> RecordDataset:
    records = stored.splits
    labels = {name: split.labels for name, split in records.items()}
    train, validation, test = (
        Subset(records[selection.stored], selection.rows)
        for selection in split_rows(labels, stored.class_names, config, seed,
                                    task_of(config)))
    return RecordDataset(
        config.name, train, validation, test, stored.class_names,
        f"{_describe(stored, config, train, validation, test)}; "
        f"{_outputs(stored, config)}")


def open_stored(config: ConfigDict) -> StoredRecords:
    """Opens the set that the `data` config names, before any cut."""
    return _as_records(_read(config), config)


def _as_records(stored: Stored | StoredRecords, config: ConfigDict) -> StoredRecords:
    if isinstance(stored, StoredRecords):
        return stored
    return StoredRecords({name: InMemory(examples, f"{name} image of {config.name}")
                          for name, examples in stored.splits.items()},
                         stored.class_names, stored.origin)


def _read(config: ConfigDict) -> Stored | StoredRecords:
    check(config)
    if _is_reference(config.name):
        return own_source(config, task_of(config))
    stored = SOURCES.get(config.name, CATALOGUE).read(config)
    return_freed()
    return stored


def _describe(stored: Stored | StoredRecords, config: ConfigDict,
              train: Examples | Records, validation: Examples | Records,
              test: Examples | Records) -> str:
    """Describes a set and the sizes of its splits for the log."""
    counts = (f"train {len(train.labels):,}, validation {len(validation.labels):,}, "
              f"test {len(test.labels):,}")
    if config.limit:
        counts += f" (training limited to {config.limit:,} by data.limit)"
    if config.protocol == "published":
        counts += " (validation and test are the same images: data.protocol)"
    return f"{config.name}: {stored.origin}; {counts}"


def task_of(config: ConfigDict, targets: LabelStatistics | None = None) -> Task:
    """Returns the task of the set that the `data` config names.

    Sets of tensorflow-datasets have one class for each image.

    targets: of `DataInfo`, for predictions in the units of the labels.
    """
    task = find_task(config.task) if config.task else _task_of_source(config.name)
    return task.standardized(targets) if targets and task.standardized else task


def _is_reference(name: str) -> bool:
    """Tells whether data.name is MODULE:FUNCTION; tfds:NAME looks the same."""
    return user_code.is_reference(name) and not name.startswith("tfds:")


def _task_of_source(name: str) -> Task:
    return SOURCES.get(name, CATALOGUE).task


def _check_labels(stored: Stored | StoredRecords, task: Task) -> None:
    """Raises InputError unless labels have the shape and dtype that a task defines."""
    train = stored.splits["train"]
    image_shape = (train.images.shape[1:] if isinstance(train, Examples) else (1, 1, 1))
    shape = task.label_shape(image_shape, len(stored.class_names))
    if train.labels.shape[1:] != shape or train.labels.dtype != task.label_dtype:
        raise InputError(
            f"data.task: the task {task.name} has labels {task.label_dtype} "
            f"{(len(train.labels), *shape)}, these are {train.labels.dtype} "
            f"{train.labels.shape}")


def check(config: ConfigDict) -> None:
    """Raises `InputError` for values that the named set does not accept.

    It reads no file. The rules of single fields are in cnn_jax/config/fields.py.
    """
    name = config.name
    if _is_reference(name):
        try:
            user_code.load(name)
        except ValueError as error:
            raise InputError(f"data.name = {error}") from error
    elif name not in SOURCES and not re.fullmatch(_TFDS_NAME, name):
        near = difflib.get_close_matches(name, SOURCES, 5)
        raise InputError(
            f"data.name is {name!r}; "
            + (f"did you mean {' or '.join(near)}? " if near else "")
            + f'known are {", ".join(SOURCES)}, tfds:NAME with '
            "a name from the tensorflow-datasets catalogue, and MODULE:FUNCTION of "
            "your own")
    if config.task is not None:
        task = task_of(config)
        if not (user_code.is_reference(config.task) or _is_reference(name)
                or task == _task_of_source(name)):
            raise InputError(
                f"data.task is {config.task} but the labels of {name} are for "
                f"{_task_of_source(name).name}; leave data.task out (it is for arrays "
                "and sources of your own, and for MODULE:TASK)")
    if name in FOLDERS and not config.dir:
        raise InputError(f"data.name is {name} but data.dir is not set; name the "
                         "folder of the pictures, as in --config.data.dir=PHOTOS")
    if name.startswith("shapes_") and config.dir:
        raise InputError(
            f"data.dir is {config.dir!r} but {name} is drawn, not read; leave data.dir "
            "out")
    if config.biased_triangles and name not in _BIASED:
        raise InputError(
            f"data.biased_triangles is true but data.name is {name!r}; only "
            f'{" and ".join(_BIASED)} were published with biased triangles')
    if config.validation_is_test and name in SOURCES and name not in _NO_TEST:
        raise InputError(
            f"data.validation_is_test is true but data.name is {name!r}; it is only "
            f'for {", ".join(_NO_TEST)} and tfds:NAME')
    if config.shorter_side and (
            not config.image_size or config.shorter_side < max(config.image_size)):
        raise InputError(
            f"data.shorter_side is {config.shorter_side} but data.image_size is "
            f"{config.image_size or 'not set'}: pictures are resized to the shorter "
            "side, then image_size is cut out, so it must be set and not be larger")
    if task_of(config).unit == "pixel" and config.image_size is not None:
        raise InputError(
            f"data.image_size is {config.image_size} but {name} is drawn with a label "
            f"for each of its {shapes.LARGE_SIDE} x {shapes.LARGE_SIDE} pixels; leave "
            "data.image_size out")
