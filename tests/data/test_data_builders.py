"""Our tfds builders work end to end against a small HTTP server on 127.0.0.1."""

import os
import pickle
import sys
import threading

import numpy as np
import pytest
from tests.support.data_samples import (cifar_arrays, cifar_files, data_config,
                                        mnist_arrays, published_as, write_mnist,
                                        write_tar)
from tests.support.file_server import Server

from cnn_jax import data, download
from cnn_jax.data import official, prepared
from cnn_jax.data.images import preprocessing_of
from cnn_jax.data.records import read_pixels
from cnn_jax.errors import InputError


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Starts the server, with no local files and an empty folder for tfds."""
    monkeypatch.delenv("CNN_JAX_DATA", raising=False)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    server = Server(folder)
    yield server
    server.close()


def publish(server, monkeypatch, name):
    """Declares the served files as the official ones of a set."""
    monkeypatch.setitem(official.FILES, name, tuple(
        published_as(server.folder / file.name, file, f"{server.url}/{file.name}")
        for file in official.FILES[name]))


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def mnist(server, monkeypatch):
    """Serves four small files under the official names."""
    write_mnist(server.folder, mnist_arrays())
    publish(server, monkeypatch, "mnist")
    return server


def assert_same(first, second):
    for split in ("train", "validation", "test"):
        for ours, theirs in zip(getattr(first, split), getattr(second, split)):
            np.testing.assert_array_equal(ours, theirs)
            assert ours.dtype == theirs.dtype
    assert first.class_names == second.class_names


def test_mnist_is_downloaded_prepared_and_read_back(mnist):
    loaded = data.load(data_config(name="mnist", split="last"), seed=0)
    assert sorted(mnist.asked) == sorted(
        "/" + file.name for file in official.FILES["mnist"])
    local = data.load(
        data_config(name="mnist", split="last", dir=str(mnist.folder)), seed=0)
    assert_same(loaded, local)
    images, labels, *_ = mnist_arrays()
    np.testing.assert_array_equal(loaded.train.images[..., 0], images[:90])
    np.testing.assert_array_equal(loaded.train.labels, labels[:90])
    assert "tensorflow-datasets copy" in loaded.source
    assert "tensorflow" not in sys.modules


def test_second_load_downloads_nothing(mnist):
    first = data.load(data_config(name="mnist"), seed=0)
    asked = len(mnist.asked)
    mnist.http.shutdown()
    assert_same(first, data.load(data_config(name="mnist"), seed=0))
    assert len(mnist.asked) == asked == 4


def test_cifar10_is_downloaded_and_prepared(server, monkeypatch):
    batches = cifar_arrays()
    path = server.folder / "cifar-10-binary.tar.gz"
    write_tar(path, cifar_files("bin", batches))
    publish(server, monkeypatch, "cifar10")
    loaded = data.load(data_config(name="cifar10"), seed=0)
    assert_same(loaded, data.load(
        data_config(name="cifar10", dir=str(server.folder)), seed=0))
    np.testing.assert_array_equal(loaded.test.images, batches["test_batch"][0])


def test_prepared_set_is_read_by_its_catalogue_name(mnist, tmp_path):
    first = data.load(data_config(name="mnist"), seed=0)
    second = data.load(
        data_config(name="tfds:cnn_jax_mnist", dir=str(tmp_path / "tfds")), seed=0)
    assert_same(first, second)
    small = data.load(data_config(
        name="tfds:cnn_jax_mnist", image_size=(7, 9), channels=3), seed=0)
    assert small.train.images.shape == (90, 7, 9, 3)


def test_encoded_images_of_a_catalogue_set_are_decoded(tmp_path):
    import tensorflow_datasets as tfds
    from PIL import Image

    class Odd(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(num_classes=2)})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for n in range(4):
                path = tmp_path / f"{n}.png"
                Image.new("RGB", (4 + n, 5), (n, 0, 9)).save(path)
                with path.open("rb") as file:
                    yield n, {"image": file, "label": n % 2}

    Odd(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    config = data_config(name="tfds:odd", dir=str(tmp_path), validation=0, test=0)
    with pytest.raises(InputError, match="data.image_size"):
        data.load(config, seed=0)
    config.image_size = (5, 4)
    loaded = data.load(config, seed=0)
    colours = sorted(loaded.train.images[:, 0, 0].tolist())
    assert colours == [[0, 0, 9], [1, 0, 9], [2, 0, 9], [3, 0, 9]]
    assert loaded.class_names == ("0", "1")
    opened = data.open_records(config, seed=0).train
    assert isinstance(opened.read(0)[0], bytes)
    for index in range(4):
        image, label = read_pixels(opened, index, preprocessing_of(config))
        np.testing.assert_array_equal(image, loaded.train.images[index])
        assert label == loaded.train.labels[index]


def test_a_prepared_set_is_read_one_image_at_a_time(mnist, monkeypatch, tmp_path):
    settings = data_config(name="mnist", seed=0)
    loaded, opened = data.load(settings, 0), data.open_records(settings, 0)
    copy = pickle.loads(pickle.dumps(opened.train))
    assert copy.fingerprint == opened.train.fingerprint
    for records in (opened.train, copy):
        for index in (89, 0, 44):
            image, label = records.read(index)
            np.testing.assert_array_equal(image, loaded.train.images[index])
            assert label == loaded.train.labels[index]
    _, before = opened.test.records._source(), opened.test.records._opened
    with monkeypatch.context() as patch:  # a fork opens the files itself
        patch.setattr(os, "getpid", lambda: before[0] + 1)
        np.testing.assert_array_equal(opened.test.read(7)[0], loaded.test.images[7])
        assert opened.test.records._opened[1] is not before[1]
    monkeypatch.setattr(prepared.PreparedRecords, "examples", None)  # labels are kept
    again = data.open_records(settings, 0)
    assert again.train.fingerprint == opened.train.fingerprint
    file, = (tmp_path / "tfds").rglob("*test.array_record*")
    content = bytearray(file.read_bytes())
    file.write_bytes(bytes(len(content)))
    with pytest.raises(InputError, match="test example 3"):
        again.test.read(3)


def refused(**changes) -> str:
    with pytest.raises(InputError) as caught:
        data.load(data_config(**changes), seed=0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def kept(tmp_path) -> list[str]:
    """Lists the files that a failed attempt left, except locks."""
    return [path.name for path in (tmp_path / "tfds").rglob("*")
            if path.is_file() and path.suffix != ".lock"]


def test_no_connection_is_reported_and_can_be_retried(mnist, monkeypatch, tmp_path):
    working = official.FILES["mnist"]
    monkeypatch.setitem(official.FILES, "mnist", tuple(
        file._replace(url="http://127.0.0.1:9/" + file.name) for file in working))
    message = refused(name="mnist")
    for word in ("mnist", "$CNN_JAX_DATA/mnist", "data.dir", "digits", "127.0.0.1:9"):
        assert word in message
    assert kept(tmp_path) == []
    monkeypatch.setenv("CNN_JAX_DATA", str(tmp_path))  # has no folder mnist
    assert str(tmp_path / "mnist") in refused(name="mnist")
    monkeypatch.setitem(official.FILES, "mnist", working)
    assert len(data.load(data_config(name="mnist"), seed=0).test.labels) == 20


def test_missing_file_on_the_server(mnist, tmp_path):
    (mnist.folder / "t10k-labels-idx1-ubyte.gz").unlink()
    assert "HTTP status 404" in refused(name="mnist")
    assert len(kept(tmp_path)) == 3  # complete and verified, so not fetched again


def test_other_bytes_from_the_server_are_not_kept(mnist, tmp_path):
    write_mnist(mnist.folder, mnist_arrays(seed=1))
    assert "sha256" in refused(name="mnist")
    assert kept(tmp_path) == []


def test_endless_file_is_not_received_to_its_end(mnist, tmp_path):
    with (mnist.folder / "train-images-idx3-ubyte.gz").open("ab") as file:
        file.write(bytes(5_000_000))
    size = official.FILES["mnist"][0].size
    assert f"over {size:,}" in refused(name="mnist")
    assert kept(tmp_path) == []


def test_broken_connection(mnist, tmp_path):
    mnist.cut = 10
    assert f"{mnist.url}/train-images" in refused(name="mnist")
    assert kept(tmp_path) == []


def test_silent_server_is_given_up(mnist, tmp_path, monkeypatch):
    mnist.stall = threading.Event()
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    message = refused(name="mnist")
    mnist.stall.set()
    assert "train-images" in message and kept(tmp_path) == []


def test_folder_that_cannot_be_written(mnist, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "file" / "inside"))
    assert "TFDS_DATA_DIR" in refused(name="mnist")


@pytest.mark.parametrize("damage", ["cut", "flip", "info"])
def test_damaged_prepared_copy_is_refused(mnist, tmp_path, damage):
    data.load(data_config(name="mnist"), seed=0)
    folder = tmp_path / "tfds" / "cnn_jax_mnist" / "1.0.0"
    file = folder / "dataset_info.json"
    if damage != "info":
        (file,) = folder.glob("*train.array_record*")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content if damage == "flip" else content[:len(content) // 2])
    message = refused(name="mnist")
    assert str(folder.parent) in message and "delete" in message


def test_sets_of_the_catalogue_that_cannot_be_read(server):
    message = refused(name="tfds:cifar100")
    for word in ("tfds:cifar100", "TensorFlow", "array_record", "download_and_prepare"):
        assert word in message
    assert "catalog" in refused(name="tfds:no_such_set")
    assert server.asked == []
