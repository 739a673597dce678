"""Class folders and archives of them: their layouts, order and cache."""

import gzip
import os
import tarfile

import numpy as np
import pytest
from tests.support.data_samples import data_config, write_tar
from PIL import Image

from cnn_jax import data
from cnn_jax.data import listing, records
from cnn_jax.errors import InputError

CLASSES = ("ant", "bee", "cat")


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make(root, counts, start=0):
    """Makes class folders; picture k of a class has the grey value start + k."""
    for name, count in zip(CLASSES, counts):
        (root / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            Image.new("L", (4, 4), start + k).save(root / name / f"{k:03d}.png")


def config(root, **changes):
    return data_config(**(dict(
        name="folder", dir=str(root), validation=0, test=0) | changes))


def test_plain_folders_alternate_their_classes(tmp_path):
    make(tmp_path / "set", (3, 1, 2))
    loaded = data.load(config(tmp_path / "set"), 0)
    assert loaded.class_names == CLASSES
    assert loaded.train.labels.tolist() == [0, 1, 2, 0, 2, 0]
    assert loaded.train.images[:, 0, 0, 0].tolist() == [0, 0, 0, 1, 1, 2]
    assert loaded.train.labels.dtype == np.int32


def test_plain_folders_are_split_by_us(tmp_path):
    make(tmp_path / "set", (10, 10, 10))
    loaded = data.load(config(tmp_path / "set", validation_count=3, test=0.2), 0)
    counts = [np.bincount(split.labels).tolist()
              for split in (loaded.train, loaded.validation, loaded.test)]
    assert counts == [[7, 7, 7], [1, 1, 1], [2, 2, 2]]


@pytest.mark.parametrize("names", [
    ("train", "validation", "test"), ("training", "valid", "test"),
    ("Train", "val", "Test"),
    ("training/training", "validation/validation", "test/test")])
def test_split_folders_under_their_usual_names(tmp_path, names):
    for name, start in zip(names, (0, 50, 100)):
        make(tmp_path / "set" / name, (2, 1, 1), start)
    loaded = data.load(config(tmp_path / "set", validation=0.5, test=0.5), 0)
    assert [split.images[:, 0, 0, 0].tolist() for split in
            (loaded.train, loaded.validation, loaded.test)] == [
        [0, 0, 0, 1], [50, 50, 50, 51], [100, 100, 100, 101]]


def test_without_a_test_folder_the_test_split_is_cut_from_training(tmp_path):
    make(tmp_path / "set" / "train", (10, 10, 10))
    make(tmp_path / "set" / "val", (2, 2, 2))
    loaded = data.load(config(tmp_path / "set", test=0.1, validation=0.5), 0)
    sizes = [len(split.labels) for split in
             (loaded.train, loaded.validation, loaded.test)]
    assert sizes == [27, 6, 3]


def test_the_validation_folder_may_be_the_test_split(tmp_path):
    make(tmp_path / "set" / "train", (10, 10, 10))
    make(tmp_path / "set" / "val", (2, 2, 2), 50)
    loaded = data.load(
        config(tmp_path / "set", validation=0.1, validation_is_test=True), 0)
    assert [len(split.labels) for split in (loaded.train, loaded.validation)] == [27, 3]
    assert sorted(loaded.test.images[:, 0, 0, 0]) == [50, 50, 50, 51, 51, 51]
    make(tmp_path / "set" / "test", (1, 1, 1))
    assert "validation_is_test" in refused(tmp_path / "set", validation_is_test=True)


def test_the_published_protocol_validates_on_the_test_images(tmp_path):
    make(tmp_path / "set" / "train", (10, 10, 10))
    make(tmp_path / "set" / "test", (2, 2, 2), 50)
    chosen = config(tmp_path / "set", validation=0.1, protocol="published")
    loaded = data.load(chosen, 0)
    assert len(loaded.train.labels) == 30
    assert np.array_equal(loaded.validation.images, loaded.test.images)
    assert sorted(loaded.test.images[:, 0, 0, 0]) == [50, 50, 50, 51, 51, 51]
    opened = data.open_records(chosen, 0)
    assert len(opened.train) == 30 and len(opened.validation) == len(opened.test) == 6
    assert "has no test split" in refused(
        tmp_path / "set" / "train", protocol="published", test=0.0)
    make(tmp_path / "set" / "val", (1, 1, 1))
    assert "has a validation split" in refused(tmp_path / "set", protocol="published")


def test_a_wrapping_folder_is_opened(tmp_path):
    make(tmp_path / "set" / "flowers" / "train", (2, 1, 1))
    make(tmp_path / "set" / "flowers" / "test", (1, 1, 1))
    loaded = data.load(config(tmp_path / "set"), 0)
    assert len(loaded.train.labels) == 4 and len(loaded.test.labels) == 3


def archive(folder, path, name):
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, name)
    return path


@pytest.mark.parametrize("name", [".", "cifar-10-images"])
def test_an_archive_is_read_as_the_folder_is(tmp_path, cache_dir, name):
    make(tmp_path / "set" / "train", (3, 1, 2))
    make(tmp_path / "set" / "test", (1, 1, 1), 50)
    make(tmp_path / "set" / "train" / ".hidden", (1, 1, 1), 90)
    (tmp_path / "set" / "labels.txt").write_text(
        "Label,Common Name\nant,emmet\nbee,bumble\ncat,tom\n")
    path = archive(tmp_path / "set", tmp_path / "set.tar.gz", name)
    packed = data.load(config(path), 0)
    folder = data.load(config(tmp_path / "set"), 0)
    assert packed.class_names == folder.class_names == ("emmet", "bumble", "tom")
    for split in ("train", "test"):
        for ours, theirs in zip(getattr(packed, split), getattr(folder, split)):
            np.testing.assert_array_equal(ours, theirs)
    assert "9 pictures: .png, in" in packed.source and str(path) in packed.source
    assert "decoded earlier" in folder.source  # the cache knows the content
    assert not list(tmp_path.glob("cifar*"))  # nothing was unpacked


def test_an_archive_with_a_damaged_picture_names_both(tmp_path, cache_dir):
    make(tmp_path / "set", (1, 1, 1))
    bad = tmp_path / "set" / "bee" / "000.png"
    bad.write_bytes(bad.read_bytes()[:40])
    path = archive(tmp_path / "set", tmp_path / "set.tar.gz", "set")
    message = refused(path)
    assert str(path) in message and "bee/000.png" in message
    assert not cache_dir.exists()


def test_archives_that_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "set.tar.gz"
    write_tar(path, {"readme": b"x"})
    assert "0 class folders" in refused(path)
    link = tarfile.TarInfo("train/ant/a.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    write_tar(path, {}, link)
    assert "train/ant/a.png" in refused(path)
    link.type, link.size = tarfile.REGTYPE, 1
    write_tar(path, {}, link)
    monkeypatch.setattr(listing, "MAX_ARCHIVE_BYTES", 0)
    assert "0 bytes" in refused(path)
    for content in (b"no archive", b"", gzip.compress(b"x" * 5000),
                    path.read_bytes()[:60]):
        path.write_bytes(content)
        assert str(path) in refused(path)
    (tmp_path / "set.zip").touch()
    assert ".tar.gz" in refused(tmp_path / "set.zip")


def test_the_source_names_lossy_pictures(tmp_path):
    make(tmp_path / "set", (1, 1, 1))
    Image.new("L", (4, 4)).save(tmp_path / "set" / "ant" / "001.JPG")
    assert "4 pictures: .jpg (lossy), .png, in" in data.load(
        config(tmp_path / "set"), 0).source


def test_a_link_to_a_folder_is_refused(tmp_path):
    make(tmp_path / "set", (2, 2, 2))
    link = tmp_path / "set" / "dog"
    link.symlink_to(tmp_path / "set" / "ant")
    assert str(link) in refused(tmp_path / "set")
    link.unlink()
    (tmp_path / "set" / "ant" / "linked.png").symlink_to(
        tmp_path / "set" / "bee" / "000.png")  # a link to a picture is a picture
    assert len(data.load(config(tmp_path / "set"), 0).train.labels) == 7


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("L", (4, 4)).save(tmp_path / "set" / name / "a.png")
    assert data.load(config(tmp_path / "set"), 0).class_names == ("bus", "train")


def test_class_names_from_a_table(tmp_path):
    make(tmp_path / "set", (1, 1, 1))
    (tmp_path / "set" / "monkey_labels.txt").write_text(
        "Label,  Latin Name , Common Name , Train Images\r\n"
        "ant , a , big_ant , 1\r\nbee , b , busy_bee , 1\r\ncat , c , tom , 1\r\n")
    names = data.load(config(tmp_path / "set"), 0).class_names
    assert names == ("big_ant", "busy_bee", "tom")


def test_second_load_decodes_nothing(tmp_path, cache_dir, monkeypatch):
    make(tmp_path / "set", (2, 2, 2))
    first = data.load(config(tmp_path / "set", image_size=(3, 5), channels=3), 0)
    assert len(list(cache_dir.iterdir())) == 1

    def fail(*args):
        raise AssertionError("decoded again")
    monkeypatch.setattr(records, "read_image", fail)
    second = data.load(config(tmp_path / "set", image_size=(3, 5), channels=3), 0)
    np.testing.assert_array_equal(first.train.images, second.train.images)
    assert first.train.images.shape == (6, 3, 5, 3)
    assert "cached as" in first.source and "decoded earlier" in second.source


def test_a_limit_applies_before_decoding(tmp_path, cache_dir, monkeypatch):
    """The set equals one whose training split is cut later; fewer files are read."""
    make(tmp_path / "set", (10, 10, 10))
    settings = dict(validation_count=3, test=0.2)
    whole = data.load(config(tmp_path / "set", **settings), 0)
    decoded = []
    read = records.read_image
    monkeypatch.setattr(records, "read_image", lambda *arguments: decoded.append(
        arguments[2]) or read(*arguments))
    limited = data.load(config(tmp_path / "set", limit=4, **settings), 0)
    assert len(set(decoded)) <= 4 + 3 + 6 + 1  # and the first, for its size
    np.testing.assert_array_equal(limited.train.images, whole.train.images[:4])
    for split in ("validation", "test"):
        for ours, theirs in zip(getattr(limited, split), getattr(whole, split)):
            np.testing.assert_array_equal(ours, theirs)
    assert "limited to 4" in limited.source
    few = data.load(config(tmp_path / "set", limit=2), 0)
    assert len(few.test.labels) == len(few.validation.labels) == 0


@pytest.mark.parametrize("change", ["picture", "new picture", "size", "channels"])
def test_cache_is_not_used_after_a_change(tmp_path, change):
    make(tmp_path / "set", (2, 2, 2))
    before = data.load(config(tmp_path / "set"), 0)
    options = {}
    if change == "picture":
        Image.new("L", (4, 4), 99).save(tmp_path / "set" / "ant" / "000.png")
    elif change == "new picture":
        Image.new("L", (4, 4), 99).save(tmp_path / "set" / "ant" / "002.png")
    else:
        options = dict(image_size=(2, 2)) if change == "size" else dict(channels=3)
    after = data.load(config(tmp_path / "set", **options), 0)
    assert "cached as" in after.source
    assert not np.array_equal(before.train.images, after.train.images)


def test_a_copy_with_other_times_is_not_decoded_again(tmp_path):
    make(tmp_path / "set", (2, 2, 2))
    data.load(config(tmp_path / "set"), 0)
    (tmp_path / "set").rename(tmp_path / "moved")
    os.utime(tmp_path / "moved" / "ant" / "000.png", (1, 1))
    assert "decoded earlier" in data.load(config(tmp_path / "moved"), 0).source


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_damaged_cache_is_decoded_again(tmp_path, cache_dir, damage):
    make(tmp_path / "set", (2, 2, 2))
    before = data.load(config(tmp_path / "set"), 0)
    (file,) = cache_dir.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[content.index(b"\x93NUMPY") + 140] ^= 1
    file.write_bytes({"flip": content, "cut": content[:100], "empty": b"",
                      "other": b'cos\nsystem\n(S"x"\ntR.'}[damage])
    after = data.load(config(tmp_path / "set"), 0)
    assert "cached as" in after.source
    np.testing.assert_array_equal(before.train.images, after.train.images)


def test_a_cache_that_cannot_be_written_is_reported(tmp_path, monkeypatch):
    make(tmp_path / "set", (1, 1, 1))
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "file" / "inside"))
    assert "not be cached" in data.load(config(tmp_path / "set"), 0).source


def refused(root, **changes) -> str:
    with pytest.raises(InputError) as caught:
        data.load(config(root, **changes), 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_layouts_that_are_refused(tmp_path):
    assert str(tmp_path / "nowhere") in refused(tmp_path / "nowhere")
    root = tmp_path / "set"
    root.mkdir()
    assert "0 class folders" in refused(root)
    make(root, (1,))
    assert "1 class folders" in refused(root)
    make(root, (1, 0))
    assert "bee" in refused(root)
    make(tmp_path / "val only" / "val", (1, 1))
    assert "train" in refused(tmp_path / "val only")
    make(tmp_path / "both" / "train", (1, 1))
    make(tmp_path / "both" / "training", (1, 1))
    assert "train and training" in refused(tmp_path / "both")
    make(tmp_path / "more" / "train", (1, 1))
    make(tmp_path / "more" / "test", (1, 1, 1))
    assert "'cat'" in refused(tmp_path / "more")


def test_pictures_of_several_shapes_need_a_size(tmp_path):
    make(tmp_path / "set", (2, 2, 2))
    odd = tmp_path / "set" / "bee" / "001.png"
    Image.new("L", (4, 5)).save(odd)
    message = refused(tmp_path / "set")
    assert str(odd) in message and "data.image_size" in message
    shape = data.load(config(tmp_path / "set", image_size=(4, 4)), 0).train.images.shape
    assert shape == (6, 4, 4, 1)
    Image.new("RGB", (4, 4)).save(odd)
    assert "data.channels" in refused(tmp_path / "set")


def test_a_damaged_picture_is_named_and_nothing_cached(tmp_path, cache_dir):
    make(tmp_path / "set", (2, 2, 2))
    bad = tmp_path / "set" / "cat" / "001.png"
    bad.write_bytes(bad.read_bytes()[:40])
    message = refused(tmp_path / "set")
    for fact in (str(bad), "data.stream=true", "data.on_error=skip"):
        assert fact in message
    assert not cache_dir.exists()


@pytest.mark.parametrize("damaged", [[0], [0, 5, 11], [*range(1, 12)]])
def test_all_damaged_pictures_are_named_at_once(tmp_path, cache_dir, damaged):
    make(tmp_path / "set", (4, 4, 4))
    paths = sorted((tmp_path / "set").rglob("*.png"))
    for number in damaged:
        paths[number].write_bytes(b"not a picture")
    message = refused(tmp_path / "set")
    for number, path in enumerate(paths):
        named = f"{path.parent.name}/{path.name}" in message
        assert named == (number in damaged), message
    assert "skip" in message


def test_an_error_names_some_of_many_damaged_pictures(tmp_path, cache_dir):
    make(tmp_path / "set", (15, 15, 15))
    paths = sorted((tmp_path / "set").rglob("*.png"))
    for path in paths[1:]:
        path.write_bytes(b"")
    message = refused(tmp_path / "set")
    assert "43 others" in message and "23 more" in message
    assert message.count(".png") == 21
    paths[0].write_bytes(b"")
    assert "none of 45 images" in refused(tmp_path / "set")
