"""Files in the official formats are used only with the published checksum."""

import gzip
import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.support.data_samples import (cifar_arrays, cifar_files, data_config,
                                        cifar_binary, cifar_python, idx, mnist_arrays,
                                        published_as, write_mnist, write_tar)

from cnn_jax import data
from cnn_jax.data import formats, official
from cnn_jax.errors import InputError

LAYOUTS = {"cifar-10-python.tar.gz": "py", "cifar-10-binary.tar.gz": "bin"}
NINE = [*((name, file.name) for name, files in official.FILES.items()
          for file in files), ("cifar10", official.CIFAR10_PYTHON.name)]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Makes a folder for each set, and declares its generated files official."""
    for name in ("mnist", "fashion_mnist"):
        write_mnist(tmp_path / name, mnist_arrays())
    (tmp_path / "cifar10").mkdir()
    for name, layout in LAYOUTS.items():
        write_tar(tmp_path / "cifar10" / name, cifar_files(layout, cifar_arrays()))
    for name, files in official.FILES.items():
        monkeypatch.setitem(official.FILES, name, tuple(
            published_as(tmp_path / name / file.name, file) for file in files))
    python = official.CIFAR10_PYTHON
    monkeypatch.setattr(official, "CIFAR10_PYTHON", published_as(
        tmp_path / "cifar10" / python.name, python))
    return tmp_path


@pytest.fixture
def mnist(published):
    return published / "mnist"


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", official.FILES)
def test_table_is_that_of_tensorflow_datasets(name):
    from tensorflow_datasets.core.utils import resource_utils
    table = resource_utils.tfds_path() / "url_checksums" / f"{name}.txt"
    registered = {}
    for line in table.read_text().splitlines():
        url, size, sha256, file_name = line.split("\t")
        registered[url] = (file_name, int(size), sha256)
    ours = {file.url: (file.name, file.size, file.sha256)
            for file in official.FILES[name]}
    assert ours == registered


@pytest.mark.parametrize("name, file", NINE)
def test_official_bytes_are_used_and_one_flipped_byte_is_refused(published, name, file):
    path = published / name / file
    for archive in LAYOUTS.keys() - {file}:  # of two archives, only the first is used
        path.with_name(archive).unlink(missing_ok=True)
    config = data_config(name=name, dir=str(path.parent), validation=0)
    loaded = data.load(config, 0)
    assert "sha256 checked" in loaded.source
    assert len(loaded.train.labels) == 100
    flip_a_byte(path)
    assert str(path) in refused(config) and "sha256" in refused(config)


def test_one_byte_too_many_is_refused(mnist):
    path = mnist / official.FILES["mnist"][0].name
    path.write_bytes(path.read_bytes() + b"\0")
    message = refused(data_config(name="mnist", dir=str(mnist)))
    assert str(path) in message and f"{path.stat().st_size:,}" in message


def test_missing_files_are_all_named(mnist):
    for file in official.FILES["mnist"][1:3]:
        (mnist / file.name).unlink()
    message = refused(data_config(name="mnist", dir=str(mnist)))
    assert "train-labels-idx1" in message and "t10k-images-idx3" in message


@pytest.mark.parametrize("name", LAYOUTS)
def test_other_archive_under_a_known_name_is_refused(tmp_path, name):
    write_tar(tmp_path / name, hostile_batches(tmp_path))
    message = refused(data_config(name="cifar10", dir=str(tmp_path)))
    assert str(tmp_path / name) in message and "https://www.cs.toronto" in message
    assert not (tmp_path / "pwned").exists()


def test_a_damaged_archive_is_refused_despite_a_good_copy_beside_it(tmp_path):
    # The archive comes first; the unpacked folder is not read.
    write_folder(tmp_path, cifar_files("py", cifar_arrays(count=2)))
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"")
    message = refused(data_config(name="cifar10", dir=str(tmp_path)))
    assert "cifar-10-binary.tar.gz has 0 bytes" in message


def test_an_unpacked_pickle_is_read_only_with_its_published_md5(tmp_path, monkeypatch):
    batches = cifar_arrays(count=2)
    files = cifar_files("py", batches)
    write_folder(tmp_path, files)
    config = data_config(name="cifar10", dir=str(tmp_path), validation=0)
    assert "data_batch_1 has MD5" in refused(config)
    monkeypatch.setattr(official, "CIFAR10_MD5", {
        Path(name).name: hashlib.md5(content).hexdigest()
        for name, content in files.items()})
    loaded = data.load(config, 0)
    np.testing.assert_array_equal(loaded.test.images, batches["test_batch"][0])
    np.testing.assert_array_equal(loaded.train.labels, [0, 1] * 5)
    assert "MD5 checked" in loaded.source
    write_folder(tmp_path, hostile_batches(tmp_path))
    assert "data_batch_1 has MD5" in refused(config)
    assert not (tmp_path / "pwned").exists()


def test_idx_by_hand(tmp_path):
    """The files hold two images of 4 x 3 and three labels."""
    for content, array in (
            (b"\0\0\x08\x03" b"\0\0\0\x02" b"\0\0\0\x04" b"\0\0\0\x03"
             + bytes(range(24)), np.arange(24).reshape(2, 4, 3)),
            (b"\0\0\x08\x01" b"\0\0\0\x03" b"\x07\0\x09", np.array([7, 0, 9]))):
        assert idx(array) == content  # the other tests write with `idx`
        path = tmp_path / "a.gz"
        path.write_bytes(gzip.compress(content))
        np.testing.assert_array_equal(formats.read_idx(path), array)


def test_both_cifar_formats_give_the_same():
    images, labels = cifar_arrays(count=2)["test_batch"]
    for parse, content in (
            (formats.read_cifar_python, cifar_python(images, labels)),
            (formats.read_cifar_binary, cifar_binary(images, labels))):
        for ours, expected in zip(parse(content), (images, labels)):
            np.testing.assert_array_equal(ours, expected)


def refused(config) -> str:
    with pytest.raises(InputError) as caught:
        data.load(config, 0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_folder(root, files) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)


class Touches:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def hostile_batches(tmp_path) -> dict[str, bytes]:
    return {name: pickle.dumps(Touches(tmp_path / "pwned"))
            for name in cifar_files("py", cifar_arrays(count=1))}
