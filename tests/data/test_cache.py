"""The cache of decoded pictures is bounded, and a command shows and empties it."""

import os

import numpy as np
import pytest

from cnn_jax.cli.caches import caches
from cnn_jax.cli.request import Request
from cnn_jax.data import cache
from cnn_jax.errors import InputError

IMAGES = np.zeros((10, 10, 10, 1), np.uint8)  # 1,000 bytes, and 250 of the file


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Makes a cache of at most 3,000 bytes with two sets, the first used last."""
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path))
    monkeypatch.setenv("CNN_JAX_CACHE_GB", "3e-6")
    for number in (1, 2):
        assert "cached as" in cache.write(tmp_path / f"images-{number}.npz", IMAGES)
        os.utime(tmp_path / f"images-{number}.npz", (number, number))
    assert cache.read(tmp_path / "images-1.npz", 10) is not None
    return tmp_path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_least_recently_used_are_deleted(folder):
    (folder / "other.npz").write_bytes(b"0" * 5000)  # not a picture: it stays
    cache.write(folder / "images-3.npz", IMAGES)
    assert names(folder) == ["images-1.npz", "images-3.npz", "other.npz"]


@pytest.mark.parametrize("limit", ["0", "9e-7"])
def test_a_set_larger_than_the_cache_is_not_kept(folder, monkeypatch, limit):
    monkeypatch.setenv("CNN_JAX_CACHE_GB", limit)
    assert "not cached" in cache.write(folder / "images-3.npz", IMAGES)
    assert names(folder) == ["images-1.npz", "images-2.npz"]


@pytest.mark.parametrize("limit", ["much", "-1", "nan"])
def test_a_limit_that_is_not_a_size_is_refused(folder, monkeypatch, limit):
    monkeypatch.setenv("CNN_JAX_CACHE_GB", limit)
    with pytest.raises(InputError, match="CNN_JAX_CACHE_GB"):
        cache.write(folder / "images-3.npz", IMAGES)


def test_the_command_shows_and_empties(folder, capsys):
    (folder / "weights").mkdir()
    (folder / "weights" / "net.pth").write_bytes(b"0" * 2_000_000)
    caches(Request("caches", None, None))
    shown = capsys.readouterr().out
    assert str(folder) in shown and "2.0 MB in 1 file:" in shown
    caches(Request("caches", None, None, empty="weights"))
    assert names(folder) == ["images-1.npz", "images-2.npz", "weights"]
    assert names(folder / "weights") == []
    caches(Request("caches", None, None, empty="all"))
    assert names(folder) == ["weights"]
    with pytest.raises(InputError, match="'picture'.*pictures"):
        caches(Request("caches", None, None, empty="picture"))
