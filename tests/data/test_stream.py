"""Streamed batches equal those of the set in memory, from any step, in any process."""

import collections
import multiprocessing
from types import SimpleNamespace

import numpy as np
import pytest
from tests.support.data_samples import data_config, save_class_folders
from tests.support.tiny_runs import tiny

from cnn_jax import data
from cnn_jax.data import memory, packed_strings
from cnn_jax.data.batches import EvalOrder, TrainOrder, eval_order, train_order
from cnn_jax.data.crops import random_resized_crop, training_crop
from cnn_jax.data.info import describe
from cnn_jax.data.lazy import LazyImages
from cnn_jax.data.progressive import Ramp
from cnn_jax.data.shares import HostBatch, Share
from cnn_jax.data.stream import Reading, Stream, choose_reading
from cnn_jax.data.records import read_pixels
from cnn_jax.errors import InputError, RunError
from cnn_jax.files import write_json
from cnn_jax.workdir.folder import load_data

THREADS = Reading(workers=0, threads=2, ahead=2)
PROCESSES = Reading(workers=2, threads=1, ahead=2)
BATCH, EVAL_BATCH, EPOCHS = 70, 50, 100  # 70 images are three pieces


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    save_class_folders(root / "set", {"ant": 61, "bee": 57, "cat": 79})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CNN_JAX_CACHE", str(root / "cache"))
        yield data_config(name="folder", dir=str(root / "set"), test=0.2, channels=3)


@pytest.fixture(scope="module")
def in_memory(settings):
    return data.load(settings, seed=3)


@pytest.fixture(scope="module")
def lazy(settings):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_strings, "LARGE", 0)  # as in a set of many files
        return data.load(data_config(**settings.to_dict() | {"stream": True}), seed=3)


def open_stream(dataset, reading: Reading, positions=slice(None),
                **crop) -> Stream[HostBatch]:
    """Opens a stream of the share of a process: some positions of each batch."""
    def share(split, order):
        images, labels = getattr(dataset, split)
        return Share(images, labels, order, np.arange(order.batch_size)[positions],
                     **crop)
    shares = {"train": share("train", TrainOrder(5, len(dataset.train.labels), BATCH)),
              "validation": share("validation", EvalOrder(
                  len(dataset.validation.labels), EVAL_BATCH))}
    return Stream(shares, EPOCHS, reading, to_device=lambda batch: batch)


def expected_batches(examples, epoch: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [examples.take(rows) for rows in train_order(
        5, epoch, range(len(examples.labels)), BATCH)]


def assert_batches(batches, expected) -> None:
    for batch, (images, labels) in zip(batches, expected, strict=True):
        np.testing.assert_array_equal(batch.images, images)
        np.testing.assert_array_equal(batch.labels, labels)
        assert batch.mask is None and not batch.skipped


def assert_stream_is_exact(stream, in_memory) -> None:
    """Compares what a stream reads from the middle of an epoch on."""
    assert_batches(stream.batches("train", 1, start=1),
                   expected_batches(in_memory.train, 1)[1:])
    batches, validation = list(stream.batches("validation", 1)), in_memory.validation
    assert_batches(stream.batches("train", 2), expected_batches(in_memory.train, 2))
    for batch, (rows, mask) in zip(batches, zip(*eval_order(
            range(len(validation.labels)), EVAL_BATCH)), strict=True):
        np.testing.assert_array_equal(batch.mask, mask)
        counted = mask == 1
        np.testing.assert_array_equal(batch.images[counted],
                                      validation.images[rows[counted]])
        np.testing.assert_array_equal(batch.labels, validation.labels[rows])


def test_batches_are_those_of_the_set_in_memory(in_memory, lazy):
    stream = open_stream(lazy, THREADS)
    assert_stream_is_exact(stream, in_memory)
    stream.close()


@pytest.mark.slow
def test_worker_processes_read_the_same_and_their_end_is_an_error(in_memory, lazy):
    """Nothing hangs when a worker is killed, for example because memory is short."""
    stream = open_stream(lazy, PROCESSES)
    assert_stream_is_exact(stream, in_memory)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    workers[0].kill()
    with pytest.raises(RunError, match="exit code -9.*data.workers"):
        for epoch in range(3, EPOCHS):
            list(stream.batches("validation", epoch - 1))
            list(stream.batches("train", epoch))
    stream.close()
    assert not multiprocessing.active_children()


def test_shares_make_up_the_batch(in_memory, lazy):
    """Each process reads its positions, and nothing else."""
    read = collections.Counter()

    class Counted(LazyImages):
        def read(self, row, crop=None):
            read[row] += 1
            return super().read(row, crop)

    images = lazy.train.images
    lazy = lazy._replace(train=lazy.train._replace(images=Counted(
        images.records, images.preprocessing, images.image_shape)))
    shares = []
    for positions in (slice(0, 35), slice(35, 70)):
        stream = open_stream(lazy, Reading(0, 1, 1), positions)
        shares.append(list(stream.batches("train", EPOCHS - 1)))
        stream.close()
    for one, two, (images, labels) in zip(*shares, expected_batches(
            in_memory.train, EPOCHS - 1), strict=True):
        np.testing.assert_array_equal(np.r_[one.images, two.images], images)
        np.testing.assert_array_equal(np.r_[one.labels, two.labels], labels)
    assert sum(read.values()) == 3 * BATCH  # three steps an epoch


def test_reading_continues_past_the_end_of_an_epoch(lazy):
    """Neither the next epoch nor validation between them opens the stream again."""
    stream = open_stream(lazy, THREADS)
    opened = []
    stream.open = lambda *where: (opened.append(where), Stream.open(stream, *where))
    for epoch in (0, 1):
        list(stream.batches("train", epoch))
        list(stream.batches("validation", epoch))
    assert opened == [("train", 0, 0)]
    list(stream.batches("train", 0))  # another order is possible
    assert opened == 2 * [("train", 0, 0)]
    stream.close()


def test_a_stream_starts_at_any_step(lazy):
    """Its first batch is that of the step."""
    stream = open_stream(lazy, Reading(0, 1, 1))
    rows = train_order(5, 1, range(len(lazy.train.labels)), BATCH)
    batch = next(stream.batches("train", 1, start=2))
    stream.close()
    np.testing.assert_array_equal(batch.labels, lazy.train.labels[rows[2]])


def test_lazy_images_are_indexed_like_an_array(in_memory, lazy):
    ours, theirs = lazy.train.images, in_memory.train.images
    assert isinstance(ours, LazyImages)
    assert ours.shape == theirs.shape and len(ours) == len(theirs)
    for index in (3, -1, slice(2, 9, 3), np.array([5, 5, 0])):
        np.testing.assert_array_equal(ours[index], theirs[index])
    taken = lazy.train.take(np.array([7, 1]))
    assert isinstance(taken.images, np.ndarray)


def test_a_lazy_set_is_described_without_its_pixels(settings, in_memory, lazy):
    ours, theirs = describe(lazy, settings), describe(in_memory, settings)
    assert (ours.counts, ours.image_shape, ours.scaling) == (
        theirs.counts, theirs.image_shape, theirs.scaling)
    assert ours.sha256 != theirs.sha256
    assert "streamed" in ours.source


@pytest.mark.parametrize("scaling", ["standard", "minmax"])
def test_scaling_is_measured_on_a_stated_sample(settings, in_memory, lazy, scaling,
                                                monkeypatch):
    settings = data_config(**settings.to_dict() | {"scaling": scaling})
    info = describe(lazy, settings)
    assert info.scaling == describe(in_memory, settings).scaling  # of all: they are few
    assert "measured on" not in info.source
    monkeypatch.setattr("cnn_jax.data.lazy.SAMPLE", 5)
    info = describe(lazy, settings)
    assert "measured on 5 training images" in info.source
    assert info.scaling != describe(in_memory, settings).scaling


@pytest.mark.parametrize("name, share", [("MAX_BYTES", 1), ("available_bytes", 4),
                                         ("jax", 2)])
def test_a_set_that_would_not_fit_is_streamed(settings, monkeypatch, name, share):
    """The limit is 8 GiB, a quarter of the host's memory, or half of a device's."""
    for pixels, streamed in ((197 * 4 * 5 * 3, False), (197 * 4 * 5 * 3 - 1, True)):
        device = SimpleNamespace(memory_stats=lambda: {"bytes_limit": share * pixels})
        monkeypatch.setattr(memory, name, {
            "MAX_BYTES": pixels, "available_bytes": lambda: share * pixels,
            "jax": SimpleNamespace(process_count=lambda: 1,
                                   local_devices=lambda: [device])}[name])
        dataset = data.load(settings, 3)
        assert isinstance(dataset.train.images, LazyImages) == streamed
        assert ("streamed, more than " in dataset.source) == streamed


def test_images_that_no_split_uses_need_no_memory(settings, monkeypatch):
    """Of the 197 images, data.limit keeps 5 for training."""
    settings = data_config(**settings.to_dict() | {"limit": 5})
    counts = [len(split.labels) for split in data.load(settings, 3)[1:4]]
    assert counts[0] == 5 and sum(counts) < 190
    for images, streamed in ((sum(counts), False), (sum(counts) - 1, True)):
        monkeypatch.setattr(memory, "MAX_BYTES", images * 4 * 5 * 3)
        train = data.load(settings, 3).train
        assert isinstance(train.images, LazyImages) == streamed


def test_a_resumed_run_streams_as_it_did_first(settings, in_memory, lazy, tmp_path):
    """Otherwise its data would change where less memory is available."""
    config = tiny(seed=3)
    config.data = settings
    for dataset in (in_memory, lazy):
        write_json(tmp_path / "data.json", describe(dataset, settings))
        again = load_data(tmp_path, config)
        assert type(again.train.images) is type(dataset.train.images)


def test_the_available_memory_is_read():
    assert memory.available_bytes() is None or 2**26 < memory.available_bytes() < 2**50


@pytest.mark.parametrize("most, expected", [("max", 9 * 2**20), ("5000000", 1_300_000),
                                            ("10", 0)])
def test_the_limit_of_a_container_counts(tmp_path, monkeypatch, most, expected):
    """5,000,000 - 4,000,000 used + 300,000 of cached files are left."""
    (tmp_path / "meminfo").write_text("MemTotal: 99999 kB\nMemAvailable: 9216 kB\n")
    for name, text in (("memory.max", most + "\n"), ("memory.current", "4000000\n"),
                       ("memory.stat", "anon 77\ninactive_file 300000\n")):
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_GROUP", tmp_path)
    assert memory.available_bytes() == expected


def test_pictures_of_several_shapes_are_refused_by_name(tmp_path):
    save_class_folders(tmp_path, {"ant": 9, "bee": 9})
    from PIL import Image
    Image.new("L", (7, 9)).save(tmp_path / "bee" / "005.png")
    settings = data_config(name="folder", dir=str(tmp_path), stream=True,
                           validation=0, test=0)
    images = data.load(settings, 0).train.images
    with pytest.raises(InputError, match="bee/005.png is 9 x 7 x 1.*4 x 5 x 1"):
        images[:]


def test_default_reading_follows_the_cores(monkeypatch):
    for cores, workers, expected in ((2, None, (0, 2)), (16, None, (0, 16)),
                                     (64, None, (8, 8)), (16, 4, (4, 4)),
                                     (2, 4, (4, 1))):
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores),
                            raising=False)
        assert choose_reading(workers, None, 1)[:2] == expected
    assert choose_reading(None, None, 1).ahead == 4
    assert choose_reading(None, None, 8).ahead == 16
    assert choose_reading(None, 3, 8).ahead == 3


class Broken(LazyImages):
    """Images of which some rows cannot be decoded."""

    rows: set[int] = set()

    def read(self, row, crop=None):
        if row in self.rows:
            raise InputError(f"row {row} cannot be read")
        return super().read(row, crop)


def with_broken(lazy, skip: bool, **rows: set[int]):
    """Makes a set in which some rows of some splits cannot be decoded."""
    def broken(split):
        images, labels = getattr(lazy, split)
        images = Broken(images.records, images.preprocessing, images.image_shape, skip)
        object.__setattr__(images, "rows", rows[split])
        return lazy.train._replace(images=images, labels=labels)
    return lazy._replace(**{split: broken(split) for split in rows})


def test_skipped_images_do_not_change_the_others(in_memory, lazy):
    """Training takes the next image that can be read, evaluation leaves them out."""
    stream = open_stream(with_broken(lazy, True, train={7, 8, 140}, validation={2}),
                         THREADS)
    batches, validation = (list(stream.batches(split, 0))
                           for split in ("train", "validation"))
    stream.close()
    count = len(in_memory.train.labels)
    instead = np.arange(count)
    instead[[7, 8, 140]] = [9, 9, 141 % count]
    rows = instead[train_order(5, 0, range(count), BATCH)]
    for batch, (images, labels) in zip(batches, map(in_memory.train.take, rows),
                                       strict=True):
        np.testing.assert_array_equal(batch.images, images)
        np.testing.assert_array_equal(batch.labels, labels)
        assert batch.mask is None
    names = [lazy.train.images.records.name(row) for row in (7, 8, 140)]
    assert {name for batch in batches for name in batch.skipped} == {*names}
    assert np.flatnonzero(validation[0].mask == 0).tolist()[0] == 2
    assert validation[0].skipped == (lazy.validation.images.records.name(2),)


def test_random_crops_are_cut_from_whole_pictures(settings):
    """They depend on (seed, epoch, row) alone, and evaluation has none."""
    settings = data_config(**settings.to_dict() | {
        "stream": True, "image_size": (3, 3)})
    lazy = data.load(settings, seed=3)
    crop = {"crop_scale": (0.2, 0.5), "crop_ratio": (0.5, 2.0)}
    stream = open_stream(lazy, THREADS, **crop)
    batch = next(stream.batches("train", 2, 1))
    evaluated = next(stream.batches("validation", 2))
    stream.close()
    rows = train_order(5, 2, range(len(lazy.train.labels)), BATCH)[1]
    for image, row in zip(batch.images, rows.tolist(), strict=True):
        box = random_resized_crop(5, 2, row, 4, 5, *crop.values())
        pixels, _ = read_pixels(lazy.train.images.records, row,
                                lazy.train.images.preprocessing, lambda *size: box)
        np.testing.assert_array_equal(image, pixels)
    np.testing.assert_array_equal(evaluated.images[0], lazy.validation.images[0])


@pytest.mark.parametrize("reading", [
    THREADS, pytest.param(PROCESSES, marks=pytest.mark.slow)])
def test_random_crops_have_the_size_of_their_epoch(settings, reading):
    """They are resized once, from the picture; images of evaluation keep their size."""
    settings = data_config(**settings.to_dict() | {
        "stream": True, "image_size": (6, 6)})
    lazy = data.load(settings, seed=3)
    crop = {"crop_scale": (0.2, 0.5), "crop_ratio": (0.5, 2.0)}
    stream = open_stream(lazy, reading, **crop, ramp=Ramp((2, 5), (0, 3), 2))
    for epoch, side in enumerate((2, 4, 4, 5, 5)):
        batch = next(stream.batches("train", epoch, 2))
        evaluated = next(stream.batches("validation", epoch))
        rows = train_order(5, epoch, range(len(lazy.train.labels)), BATCH)[2]
        expected = lazy.train.images.at_size((side, side)).read_rows(
            rows, lambda row: training_crop(5, epoch, row, *crop.values()))
        np.testing.assert_array_equal(batch.images, expected)
        assert batch.images.shape == (BATCH, side, side, 3)
        assert evaluated.images.shape == (EVAL_BATCH, 6, 6, 3)
    stream.close()


def test_a_picture_that_cannot_be_read_stops_by_default(lazy):
    stream = open_stream(with_broken(lazy, False, train={7}), THREADS)
    with pytest.raises(InputError, match="row 7.*data.on_error=skip"):
        list(stream.batches("train", 0))
    stream.close()


def test_a_split_without_a_picture_that_can_be_read_is_refused(lazy):
    rows = {*range(len(lazy.train.labels))}
    stream = open_stream(with_broken(lazy, True, train=rows), THREADS)
    with pytest.raises(InputError, match=f" {len(rows)} "):
        list(stream.batches("train", 0))
    stream.close()
