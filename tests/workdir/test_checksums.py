"""A file under an official name is used only with the official bytes."""

import shutil
from pathlib import Path

import pytest
from tests.support.data_samples import (cifar_arrays, cifar_files, data_config,
                                        mnist_arrays, published_as, write_mnist,
                                        write_tar)

from cnn_jax import data
from cnn_jax.data import official
from cnn_jax.errors import InputError


LAYOUTS = {"cifar-10-python.tar.gz": "py", "cifar-10-binary.tar.gz": "bin"}
NINE = [*((name, file.name) for name, files in official.FILES.items()
          for file in files), ("cifar10", official.CIFAR10_PYTHON.name)]


@pytest.fixture
def published(tmp_path, monkeypatch):
    """A folder for each set, with generated files that count as the official ones."""
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
    for archive in LAYOUTS.keys() - {file}:  # of two, only the first is looked at
        path.with_name(archive).unlink(missing_ok=True)
    config = data_config(name=name, dir=str(path.parent), validation=0)
    loaded = data.load(config, 0)
    assert "sha256 checked" in loaded.source
    assert len(loaded.train.labels) == 100
    flip_a_byte(path)
    with pytest.raises(InputError, match="sha256") as caught:
        data.load(config, 0)
    assert str(path) in str(caught.value)


def test_one_byte_too_many_is_refused(mnist):
    path = mnist / official.FILES["mnist"][0].name
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="bytes, the official file has"):
        data.load(data_config(name="mnist", dir=str(mnist)), 0)


def test_fashion_mnist_files_are_not_taken_for_mnist(mnist, tmp_path):
    # Same names, same format: only the sum tells them apart.
    write_mnist(tmp_path / "other", mnist_arrays(seed=1))
    shutil.copy(tmp_path / "other" / "train-labels-idx1-ubyte.gz", mnist)
    shutil.copy(tmp_path / "other" / "train-images-idx3-ubyte.gz", mnist)
    with pytest.raises(InputError, match="train-images"):
        data.load(data_config(name="mnist", dir=str(mnist)), 0)


def test_missing_files_are_all_named(mnist):
    for file in official.FILES["mnist"][1:3]:
        (mnist / file.name).unlink()
    with pytest.raises(InputError, match="lacks train-labels.*, t10k-images"):
        data.load(data_config(name="mnist", dir=str(mnist)), 0)


@pytest.mark.parametrize("name, layout", [
    ("cifar-10-python.tar.gz", "py"), ("cifar-10-binary.tar.gz", "bin")])
def test_other_archive_under_an_official_name_is_refused(tmp_path, name, layout):
    write_tar(tmp_path / name, cifar_files(layout, cifar_arrays()))
    with pytest.raises(InputError, match="official file has 170,") as caught:
        data.load(data_config(name="cifar10", dir=str(tmp_path)), 0)
    assert str(tmp_path / name) in str(caught.value)


def test_damaged_official_archive_hides_no_good_copy_beside_it(tmp_path):
    # The unpacked folder is fine, but a wrong official file is an error all the same.
    (tmp_path / "cifar-10-batches-bin").mkdir()
    for name, content in cifar_files("bin", cifar_arrays()).items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "cifar-10-binary.tar.gz").write_bytes(b"")
    with pytest.raises(InputError, match="0 bytes"):
        data.load(data_config(name="cifar10", dir=str(tmp_path)), 0)
