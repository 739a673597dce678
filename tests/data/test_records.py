"""Records that are read one at a time equal those in memory, in the same order."""

import os
import pickle
import resource
import tempfile

import numpy as np
import pytest
from tests.support.data_samples import data_config, save_class_folders
from PIL import Image

from cnn_jax import data
from cnn_jax.data import listing, packed_strings
from cnn_jax.data.examples import Examples
from cnn_jax.data.images import preprocessing_of
from cnn_jax.data.packed_strings import FileStrings, PackedStrings, in_file
from cnn_jax.data.records import InMemory, Subset, read_pixels
from cnn_jax.errors import InputError


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))


def config(root, **changes):
    return data_config(**(dict(name="folder", dir=str(root)) | changes))


def assert_equal_to_memory(settings, seed=3):
    loaded, opened = data.load(settings, seed), data.open_records(settings, seed)
    assert opened.class_names == loaded.class_names
    for name in ("train", "validation", "test"):
        examples, records = getattr(loaded, name), getattr(opened, name)
        np.testing.assert_array_equal(records.labels, examples.labels)
        assert len(records) == len(examples.labels)
        for index in range(len(records)):
            image, label = read_pixels(records, index, preprocessing_of(settings))
            np.testing.assert_array_equal(image, examples.images[index])
            np.testing.assert_array_equal(label, examples.labels[index])
    return opened


@pytest.mark.parametrize("shorter_side", [None, 6])
def test_a_folder_is_opened_as_it_is_loaded(tmp_path, shorter_side):
    save_class_folders(tmp_path / "set", {"ant": 11, "bee": 7, "cat": 9})
    settings = config(tmp_path / "set", validation=0.2, image_size=(3, 3), channels=3,
                      shorter_side=shorter_side)
    opened = assert_equal_to_memory(settings)
    assert opened.train.name(0).startswith(str(tmp_path / "set" / "ant"))
    assert "decoded" not in opened.source and "27 pictures" in opened.source


def test_sets_in_memory_are_records_too():
    assert_equal_to_memory(data_config(
        name="digits", split="last", limit=20, validation=0.01, test=0.01))


def test_records_can_be_pickled(tmp_path):
    save_class_folders(tmp_path / "set", {"ant": 3, "bee": 2})
    train = data.open_records(config(tmp_path / "set", test=0, validation=0), 0).train
    copy = pickle.loads(pickle.dumps(train))
    assert copy.fingerprint == train.fingerprint
    assert [copy.name(i) for i in range(5)] == [train.name(i) for i in range(5)]
    np.testing.assert_array_equal(copy.read(4)[0], train.read(4)[0])


def test_the_fingerprint_depends_on_names_sizes_labels_and_rows(tmp_path):
    root = tmp_path / "set"
    save_class_folders(root, {"ant": 5, "bee": 5})

    def fingerprint(**changes):
        return data.open_records(config(
            root, **(dict(test=0, validation=0) | changes)), 0).train.fingerprint
    seen = [fingerprint(), fingerprint(limit=3)]
    assert fingerprint() == seen[0]
    Image.new("L", (40, 40)).save(root / "ant" / "000.png")
    seen.append(fingerprint())
    os.rename(root / "ant" / "000.png", root / "ant" / "000b.png")
    seen.append(fingerprint())
    os.rename(root / "bee" / "000.png", root / "ant" / "000.png")
    seen.append(fingerprint())
    assert len(set(seen)) == len(seen)
    root.rename(tmp_path / "moved")
    root = tmp_path / "moved"
    assert fingerprint() == seen[-1]


def test_a_picture_that_vanished_is_named(tmp_path):
    save_class_folders(tmp_path / "set", {"ant": 3, "bee": 2})
    train = data.open_records(config(tmp_path / "set", test=0, validation=0), 0).train
    os.remove(train.name(2))
    with pytest.raises(InputError) as caught:
        train.read(2)
    assert train.name(2) in str(caught.value)


def test_subsets_of_subsets():
    images = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    records = InMemory(Examples(images, np.arange(6, dtype=np.int32)), "image")
    odd = Subset(records, np.array([1, 3, 5], np.int32))
    last = Subset(odd, np.array([2, 0], np.int32))
    assert last.labels.tolist() == [5, 1] and last.name(0) == "image 5"
    assert last.read(1)[0].item() == 1
    assert len({records.fingerprint, odd.fingerprint, last.fingerprint}) == 3


WORDS = ["", "a", "Zürich", "\udcff raw", "x" * 300]


def test_packed_strings():
    packed = PackedStrings(WORDS)
    assert list(packed) == WORDS and len(packed) == 5
    assert list(packed.slice(1, 4)) == WORDS[1:4]
    assert list(packed.take(np.array([4, 0, 4]))) == [WORDS[4], "", WORDS[4]]
    joined = PackedStrings.concatenate([packed, PackedStrings(), packed.slice(1, 3)])
    assert list(joined) == WORDS + WORDS[1:3]
    assert list(PackedStrings.concatenate([])) == []
    with pytest.raises(IndexError):
        packed[5]


def test_strings_in_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    strings = FileStrings(PackedStrings(WORDS))
    assert list(strings) == WORDS and len(strings) == 5 and strings[-1] == WORDS[4]
    assert not os.listdir(tmp_path)  # nothing remains after a kill
    copy = pickle.loads(pickle.dumps(strings))
    opened = strings.file
    del strings
    with pytest.raises(OSError):
        os.fstat(opened)
    assert list(copy) == WORDS
    with pytest.raises(IndexError):
        copy[5]
    many = FileStrings(PackedStrings(map(str, range(10_000))))
    assert many[9_876] == "9876" and len(pickle.dumps(many)) < 300


def test_strings_stay_in_memory_where_no_file_can_be_written(tmp_path, monkeypatch):
    few = PackedStrings(["few"])
    assert in_file(few) is few
    monkeypatch.setattr(packed_strings, "LARGE", 0)
    packed = PackedStrings(map(str, range(10_000)))
    assert list(in_file(packed)) == list(packed) and in_file(packed) is not packed
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        assert in_file(packed) is packed
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    assert in_file(packed) is packed


def test_files_and_folders_in_a_class_are_in_order_of_paths(tmp_path):
    for path in ("ant/b.png", "ant/c/2.png", "ant/c/1.png", "ant/d.png", "ant/a/9.png",
                 "ant/.hidden/0.png", "ant/._b.png", "bee/x/y/z.PNG"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    pictures, _ = listing.class_pictures(listing.list_folder(tmp_path))
    paths = [pictures["train"].path(i) for i in range(6)]
    assert paths == ["ant/a/9.png", "bee/x/y/z.PNG", "ant/b.png", "ant/c/1.png",
                     "ant/c/2.png", "ant/d.png"]
