"""Tar shards: layouts, the index and when it is rebuilt, and files that are refused."""

import json
import os
import tarfile

import numpy as np
import pytest
from tests.support.data_samples import data_config, png, write_shard

from cnn_jax import data
from cnn_jax.data import shard_index
from cnn_jax.data.records import read_pixels
from cnn_jax.errors import InputError


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def config(root, **changes):
    return data_config(**(dict(
        name="shards", dir=str(root), validation=0, test=0) | changes))


def samples(labels, start=0) -> dict[str, bytes]:
    """Makes the members of a shard: a picture and a .cls for each label."""
    files = {}
    for number, label in enumerate(labels, start):
        files[f"{number:06d}.png"] = png(number)
        files[f"{number:06d}.cls"] = f"{label}\n".encode()
    return files


def make(root, *shards, start=0):
    """Writes shards with these labels."""
    for number, labels in enumerate(shards):
        write_shard(root / f"{number:06d}.tar", samples(labels, start))
        start += len(labels)


def refused(root, **changes) -> str:
    with pytest.raises(InputError) as caught:
        data.open_records(config(root, **changes), 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_shards_are_opened_as_they_are_loaded(tmp_path):
    make(tmp_path / "set", [0, 1, 2, 1, 0], [2, 2, 0, 1], [])
    opened = data.open_records(config(tmp_path / "set"), 0)
    assert opened.class_names == ("0", "1", "2")
    assert opened.train.labels.tolist() == [0, 1, 2, 1, 0, 2, 2, 0, 1]
    assert opened.train.labels.dtype == np.int32
    contents = [opened.train.read(index)[0] for index in range(9)]
    assert contents == [png(number) for number in range(9)]
    assert opened.train.name(5) == f"{tmp_path / 'set' / '000001.tar'}: 000005.png"
    loaded = data.load(config(tmp_path / "set"), 0)
    for index in range(9):
        image, label = read_pixels(opened.train, index)
        np.testing.assert_array_equal(image, loaded.train.images[index])
        assert label == loaded.train.labels[index]


@pytest.mark.parametrize("names", [
    ("train/0.tar", "val/0.tar", "test/0.tar"),
    ("training/a.tar", "validation/a.tar", "testing/a.tar"),
    ("x-train-00.tar", "x-validation-00.tar", "x_test_00.tar")])
def test_splits_by_folder_or_by_name(tmp_path, names):
    for number, name in enumerate(names):
        write_shard(tmp_path / name, samples([0, 1, 1][number:], 10 * number))
    opened = data.open_records(config(tmp_path, validation=0.5, test=0.5), 0)
    assert [len(split) for split in
            (opened.train, opened.validation, opened.test)] == [3, 2, 1]
    assert opened.test.read(0)[0] == png(20)


def test_a_pattern_names_some_shards(tmp_path):
    make(tmp_path / "set" / "train", [0, 1], [1, 0], [0, 1])
    (tmp_path / "set" / "classes.txt").write_text("no\nyes\n")
    pattern = tmp_path / "set" / "train" / "00000{1..2}.tar"
    opened = data.open_records(config(pattern), 0)
    assert opened.class_names == ("no", "yes")
    assert opened.train.read(0)[0] == png(2) and len(opened.train) == 4
    assert "000003.tar" in refused(tmp_path / "set" / "train" / "{000000..000003}.tar")


def test_members_may_be_in_any_order_among_other_files(tmp_path):
    files = {"a/x.json": json.dumps({"label": 1, "width": 5}).encode(),
             "a/y.cls": b"0", "a/x.png": png(0), "a/y.v1.txt": b"note",
             "b/x.PNG": png(2), "b/x.cls": b" 0 ", "b/x.json": b"[]",
             "a/y.png": png(1), "a/" + "n" * 150 + ".png": png(3),
             "a/" + "n" * 150 + ".cls": b"1", "a/x.seg.png": b"mask"}
    write_shard(tmp_path / "0.tar", files)
    with tarfile.open(tmp_path / "0.tar", "a", format=tarfile.PAX_FORMAT) as archive:
        folder = tarfile.TarInfo("folder")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
    train = data.open_records(config(tmp_path), 0).train
    assert train.labels.tolist() == [1, 0, 0, 1]
    assert [train.read(index)[0] for index in range(4)] == [
        png(0), png(2), png(1), png(3)]


def indexed(monkeypatch) -> list[str]:
    """Records which shards are read to index them."""
    names = []
    scan = shard_index.scan

    def record(path):
        names.append(path.name)
        return scan(path)
    monkeypatch.setattr(shard_index, "scan", record)
    return names


def test_an_index_is_rebuilt_only_for_shards_that_changed(tmp_path, monkeypatch):
    names = indexed(monkeypatch)
    make(tmp_path, [0, 1], [1, 0])
    first = data.open_records(config(tmp_path), 0)
    assert names == ["000000.tar", "000001.tar"] and "kept in" in first.source
    second = data.open_records(config(tmp_path), 0)
    assert len(names) == 2 and "indexed earlier" in second.source
    assert second.train.fingerprint == first.train.fingerprint

    time = (tmp_path / "000001.tar").stat().st_mtime
    os.utime(tmp_path / "000001.tar", (time, time + 5))
    third = data.open_records(config(tmp_path), 0)
    assert names[2:] == ["000001.tar"] and "changed" in third.source
    assert third.train.fingerprint == first.train.fingerprint

    write_shard(tmp_path / "000001.tar", samples([1, 0] * 9, 2))
    os.utime(tmp_path / "000001.tar", (time, time + 5))  # another size, the same time
    fourth = data.open_records(config(tmp_path), 0)
    assert names[3:] == ["000001.tar"] and len(fourth.train) == 20
    assert fourth.train.fingerprint != first.train.fingerprint

    write_shard(tmp_path / "000002.tar", samples([1], 20))
    assert len(data.open_records(config(tmp_path), 0).train) == 21
    assert names[4:] == ["000002.tar"]


@pytest.mark.parametrize("damage", [b"", b"PK\3\4 no zip", None])
def test_a_damaged_index_is_built_again(tmp_path, monkeypatch, damage):
    make(tmp_path, [0, 1])
    data.open_records(config(tmp_path), 0)
    index = tmp_path / shard_index.INDEX_NAME
    content = bytearray(index.read_bytes())
    content[len(content) // 2] ^= 255
    index.write_bytes(content if damage is None else damage)
    names = indexed(monkeypatch)
    assert len(data.open_records(config(tmp_path), 0).train) == 2
    assert names == ["000000.tar"]


def test_a_folder_that_cannot_be_written_has_its_index_in_the_cache(
        tmp_path, monkeypatch, cache_dir):
    make(tmp_path / "set", [0, 1])
    (tmp_path / "set" / shard_index.INDEX_NAME).mkdir()  # root may write anywhere
    assert str(cache_dir) in data.open_records(config(tmp_path / "set"), 0).source
    names = indexed(monkeypatch)
    data.open_records(config(tmp_path / "set"), 0)
    assert not names
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "set" / "000000.tar"))
    assert "not kept" in data.open_records(config(tmp_path / "set"), 0).source


@pytest.mark.parametrize("cut", ["member", "data", "header", "end"])
def test_a_shard_that_was_cut_short(tmp_path, cut):
    make(tmp_path, [0, 1, 0, 1])
    path = tmp_path / "000000.tar"
    with tarfile.open(path) as archive:
        member = archive.getmembers()[4]  # 000002.png
        last = archive.getmembers()[-1]
    stop = {"member": member.offset, "data": member.offset_data + 10,
            "header": member.offset + 100, "end": last.offset_data + 512}[cut]
    os.truncate(path, stop)
    message = refused(tmp_path)
    name = "000003.cls" if cut == "end" else "000001.cls"
    assert str(path) in message and name in message
    assert not (tmp_path / shard_index.INDEX_NAME).exists()


def test_a_shard_that_is_cut_after_it_was_opened(tmp_path):
    make(tmp_path, [0, 1, 0, 1])
    train = data.open_records(config(tmp_path), 0).train
    os.truncate(tmp_path / "000000.tar", 600)
    with pytest.raises(InputError, match="000000.tar: 000003.png"):
        train.read(3)
    os.remove(tmp_path / "000000.tar")
    with pytest.raises(InputError, match="000000.tar: 000003.png"):
        train.read(3)


@pytest.mark.parametrize("files, fact", [
    ({"0.png": b"x"}, "0.png"),
    ({"0.cls": b"1"}, "0.cls"),
    ({"0.png": b"x", "1.cls": b"0"}, "0.png"),
    ({"0.png": b"x", "0.json": b"{}"}, "0.png"),
    ({"0.png": b"x", "0.json": b"{"}, "0.json"),
    ({"0.png": b"x", "0.cls": b"cat"}, "'cat'"),
    ({"0.png": b"x", "0.cls": b"-1"}, "'-1'"),
    ({"0.png": b"x", "0.cls": b"99999999999"}, "99999999999"),
    ({"0.png": b"x", "0.json": b'{"label": true}'}, "'True'"),
    ({"0.png": b"x", "0.cls": b"1", "0.json": b'{"label": 2}'}, "label 2"),
    ({"0.png": b"x", "0.jpg": b"x", "0.cls": b"1"}, "0.jpg"),
    ({}, "no picture"), ({"notes.txt": b"x"}, "no picture")])
def test_members_that_are_refused(tmp_path, files, fact):
    write_shard(tmp_path / "0.tar", files)
    message = refused(tmp_path)
    assert fact in message and str(tmp_path) in message


def test_labels_that_are_refused(tmp_path):
    make(tmp_path / "from one", [1, 2, 2])
    assert "label 0" in refused(tmp_path / "from one")
    make(tmp_path / "one", [0, 0])
    assert "1 classes" in refused(tmp_path / "one")
    make(tmp_path / "gap", [0, 1, 3])
    assert "label 2" in refused(tmp_path / "gap")
    (tmp_path / "gap" / "classes.txt").write_text("a\nb\nc\nd\n")
    opened = data.open_records(config(tmp_path / "gap"), 0)
    assert opened.class_names == ("a", "b", "c", "d")
    assert "1 classes" in opened.source
    (tmp_path / "gap" / "classes.txt").write_text("a\nb\nc\n")
    message = refused(tmp_path / "gap")
    assert "label 3" in message and "000002.png" in message


def test_layouts_that_are_refused(tmp_path):
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")
    assert "no .tar" in refused(tmp_path)
    make(tmp_path / "a" / "val", [0, 1])
    assert "only validation" in refused(tmp_path / "a")
    write_shard(tmp_path / "b" / "train-0.tar", samples([0, 1]))
    write_shard(tmp_path / "b" / "other-0.tar", samples([0, 1]))
    assert "other-0.tar" in refused(tmp_path / "b")
    write_shard(tmp_path / "c" / "train-0.tar", samples([0, 1]))
    make(tmp_path / "c" / "train", [0, 1])
    assert "keep one" in refused(tmp_path / "c")
    (tmp_path / "d").mkdir()
    with tarfile.open(tmp_path / "d" / "0.tar", "w:gz") as archive:
        archive.add(tmp_path / "b" / "train-0.tar", "0.png")
    assert "uncompressed" in refused(tmp_path / "d")
    (tmp_path / "d" / "0.tar").write_bytes(b"")
    assert "0.tar" in refused(tmp_path / "d")
