"""Class folders: ImageNet's layout, class names, and layouts that are refused."""

import json
import tarfile
import unicodedata

import numpy as np
import pytest
from tests.support.data_samples import data_config, png

from cnn_jax import data
from cnn_jax.errors import InputError

SYNSETS = ("n01440764", "n02012849", "n03126707")
NAMES = ("tench", "crane", "crane, lifting device")


def make(root, *paths):
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(png(number))


def imagenet(root):
    make(root, *(f"{split}/{synset}/{synset}_{n}.JPEG" for split in ("train", "val")
                 for synset in SYNSETS for n in range(2)))


def opened(root):
    return data.open_stored(data_config(name="folder", dir=str(root)))


def refused(root) -> str:
    with pytest.raises(InputError) as caught:
        opened(root)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)
    return str(caught.value)


def test_the_layout_of_imagenet(tmp_path):
    imagenet(tmp_path)
    stored = opened(tmp_path)
    assert stored.class_names == SYNSETS
    assert list(stored.splits) == ["train", "validation"]
    train = stored.splits["train"]
    assert train.name(1) == str(tmp_path / "train/n02012849/n02012849_0.JPEG")
    assert train.labels.tolist() == [0, 1, 2, 0, 1, 2]


TABLES = {
    "LOC_synset_mapping.txt": "n01440764 tench, Tinca tinca\nn02012849 crane\n"
                              "n03126707 crane, lifting device\nn15075141 tissue\n",
    "words.txt": "n00000001\tentity\nn01440764\ttench\nn02012849\tcrane\n"
                 "n03126707\tcrane, lifting device\n",
    "imagenet_classes.txt": "tench\ncrane\ncrane, lifting device\n\n",
    "classes.txt": "\ufefftench\r\ncrane\r\ncrane, lifting device",
    "class_names.json": json.dumps(NAMES),
    "classes.json": json.dumps(dict(zip("021", (NAMES[0], NAMES[2], NAMES[1])))),
    "class_index.json": json.dumps(dict(zip(SYNSETS, NAMES))),
    "imagenet_class_index.json": json.dumps(
        {"0": ["n01440764", "tench"], "1": ["n02012849", "crane"],
         "2": ["n03126707", "crane, lifting device"], "3": ["n1", "other"]}),
}


@pytest.mark.parametrize("file", TABLES)
def test_names_of_classes_from_a_file(tmp_path, file):
    imagenet(tmp_path)
    (tmp_path / file).write_bytes(TABLES[file].encode())
    assert opened(tmp_path).class_names == NAMES


def test_the_first_file_counts_also_beside_a_wrapped_folder(tmp_path):
    imagenet(tmp_path / "ILSVRC")
    (tmp_path / "words.txt").write_text("about\tsomething else")
    assert opened(tmp_path).class_names == SYNSETS
    (tmp_path / "classes.txt").write_text("a\nb\nc\n")
    assert opened(tmp_path).class_names == ("a", "b", "c")
    (tmp_path / "ILSVRC" / "words.txt").write_text(TABLES["words.txt"])
    assert opened(tmp_path).class_names == NAMES


def test_a_name_that_two_classes_share_is_completed(tmp_path):
    imagenet(tmp_path)
    (tmp_path / "LOC_synset_mapping.txt").write_text(
        "n01440764 tench\nn02012849 crane\nn03126707 crane\n")
    assert opened(tmp_path).class_names == (
        "tench", "crane (n02012849)", "crane (n03126707)")


def test_a_list_of_the_folders_changes_nothing(tmp_path):
    imagenet(tmp_path)
    (tmp_path / "classes.txt").write_text("\n".join(reversed(SYNSETS)))
    assert opened(tmp_path).class_names == SYNSETS


@pytest.mark.parametrize("file, text, fact", [
    ("classes.txt", "a\nb", "2 classes"), ("classes.txt", "a\nb\nc\nd", "4 classes"),
    ("classes.txt", "n01440764\nn02012849\nn09", "'n09'"), ("classes.txt", "", "0 cl"),
    ("LOC_synset_mapping.txt", "n01440764 tench", "n02012849 and 1 others"),
    ("words.txt", "n01440764\ttench\nn02012849\tcrane", "n03126707"),
    ("animal_labels.txt", "Label,Common Name\nn01440764,tench\n", "n02012849"),
    ("classes.json", "[1, 2]", "JSON"), ("classes.json", "{", "JSON"),
    ("classes.json", '{"a": "x", "b": "y"}', "n01440764"),
    ("classes.json", '["x", "y"]', "2 classes"),
    ("class_index.json", '{"0": ["n01440764", "x"]}', "n02012849"),
    ("classes.txt", "a\nb\nc\x07", "'c\\x07'")])
def test_files_with_other_classes_are_refused(tmp_path, file, text, fact):
    imagenet(tmp_path)
    (tmp_path / file).write_text(text)
    message = refused(tmp_path)
    assert fact in message and str(tmp_path / file) in message


@pytest.mark.parametrize("one, other", [
    ("Cat", "cat "), ("cat", "CAT"),
    (unicodedata.normalize("NFC", "Bär"), unicodedata.normalize("NFD", "Bär"))])
def test_two_classes_of_one_name(tmp_path, one, other):
    make(tmp_path / "a", f"{one}/0.png", f"{other}/0.png", "dog/0.png")
    message = refused(tmp_path / "a")
    assert repr(one) in message and repr(other) in message
    make(tmp_path / "b", f"train/{one}/0.png", f"test/{other}/0.png", "train/dog/0.png")
    message = refused(tmp_path / "b")
    assert repr(one) in message and repr(other) in message


def test_two_sets_in_one_folder(tmp_path):
    make(tmp_path, *(f"{part}/train/{name}/0.png" for part in ("one", "two")
                     for name in ("cat", "dog")))
    assert str(tmp_path / "one" / "train") in refused(tmp_path)


def test_pictures_of_a_split_that_are_in_no_class_folder(tmp_path):
    make(tmp_path, "train/a/0.png", "train/b/0.png", "test/0.png")
    assert list(opened(tmp_path).splits) == ["train"]  # published without labels
    make(tmp_path, "val/0.png", "val/1.png")
    message = refused(tmp_path)
    assert str(tmp_path / "val") in message and "2 pictures" in message


@pytest.mark.parametrize("packed", [False, True])
def test_files_that_are_not_pictures_are_counted(tmp_path, packed):
    root = tmp_path / "set"
    make(root, "a/0.png", "b/0.png")
    assert "without" not in opened(root).origin
    for name in ("a/1.HEIC", "b/2.heic", "b/notes", "b/.DS_Store", "classes.txt",
                 "readme.md"):
        (root / name).write_text("a\nb\n")
    if packed:
        root = tmp_path / "set.tar.gz"
        with tarfile.open(root, "w:gz") as archive:
            archive.add(tmp_path / "set", "set")
    assert opened(root).origin.endswith(
        f"2 pictures: .png, in {root}, without 3 other files (.heic, notes)")


def test_a_link_to_a_picture_that_vanished_is_named(tmp_path):
    make(tmp_path, "a/1.png", "b/0.png")
    (tmp_path / "a" / "0.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match="a/0.png"):
        opened(tmp_path)


def test_a_class_with_one_picture_cannot_be_stratified(tmp_path):
    make(tmp_path, *(f"{name}/{n}.png" for name in ("ant", "bee") for n in range(5)),
         "cat/0.png")
    with pytest.raises(InputError, match="cat") as caught:
        data.open_records(data_config(name="folder", dir=str(tmp_path)), 0)
    assert "data.test" in str(caught.value)
    cut = data_config(name="folder", dir=str(tmp_path), test=0, split="last")
    assert len(data.open_records(cut, 0).validation) == 1


def test_a_cut_has_a_picture_of_each_class_on_both_sides(tmp_path):
    make(tmp_path, *(f"{name}/{n}.png" for name in ("ant", "bee", "cat")
                     for n in range(4)))
    few = data_config(name="folder", dir=str(tmp_path))
    with pytest.raises(InputError, match="data.test .* 2 of 12 images.* 3 classes"):
        data.open_records(few, 0)
    with pytest.raises(InputError, match="data.validation .* 1 of 12 .* data.split"):
        data.open_records(data_config(name="folder", dir=str(tmp_path), test=0), 0)


def test_labels_and_paths_of_many_files_take_little_memory(tmp_path):
    from cnn_jax.data.listing import Pictures, _pictures, Folder
    from cnn_jax.data.packed_strings import PackedStrings
    folders = [Folder(f"train/n{label:08d}", pictures=PackedStrings(
        [f"n{label:08d}_{n}.JPEG" for n in range(1000)])) for label in range(20)]
    pictures = _pictures(folders)
    assert isinstance(pictures, Pictures) and len(pictures.labels) == 20_000
    assert pictures.path(20) == "train/n00000000/n00000000_1.JPEG"
    size = (len(pictures.files.block) + pictures.files.starts.nbytes
            + pictures.directory.nbytes + pictures.labels.nbytes)
    assert size < 40 * 20_000
    np.testing.assert_array_equal(pictures.labels[:21], [*range(20), 0])
