"""Downloads from a small HTTP server are checked, continued, or refused."""

import hashlib
import threading

import numpy as np
import pytest
from tests.support.file_server import Server

from cnn_jax import download
from cnn_jax.download import Checksum, Unreachable, fetch
from cnn_jax.errors import InputError
from cnn_jax.interop import download as weights
from cnn_jax.interop.download import fetch_announced, fetch_weights

CONTENT = np.random.default_rng(0).bytes(1_000_000)
SHA256 = Checksum("sha256", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "RETRY_SECONDS", 0)
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "net.pth").write_bytes(CONTENT)
    server = Server(folder, ranges=True)
    yield server
    server.close()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "net.pth"


def part_of(path):
    return path.with_name(path.name + ".part")


@pytest.mark.parametrize("checksum", [
    SHA256, Checksum("sha256", SHA256.digits[:8]),
    Checksum("md5", hashlib.md5(CONTENT).hexdigest())])
def test_whole_file_is_kept_and_not_requested_again(server, path, checksum):
    assert fetch(f"{server.url}/net.pth", path, checksum) == path
    assert path.read_bytes() == CONTENT
    assert [file.name for file in path.parent.iterdir()] == ["net.pth"]
    fetch(f"{server.url}/net.pth", path, checksum)
    assert server.asked == ["/net.pth"]


def test_a_broken_download_is_continued(server, path):
    server.cut = 300_000
    assert fetch(f"{server.url}/net.pth", path, SHA256) == path
    assert path.read_bytes() == CONTENT
    assert server.starts[0] == 0 and len(server.starts) > 3
    steps = np.diff(server.starts)
    assert (steps > 200_000).all()  # each request asks for the missing part


def test_next_call_continues_a_broken_download(server, path):
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:123_456])
    fetch(f"{server.url}/net.pth", path, SHA256)
    assert server.starts == [123_456]
    assert path.read_bytes() == CONTENT and not part_of(path).exists()


def test_without_range_requests_the_download_restarts(server, path):
    server.ranges = False
    path.parent.mkdir()
    part_of(path).write_bytes(CONTENT[:123_456])
    fetch(f"{server.url}/net.pth", path, SHA256)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("kept, requests", [
    (CONTENT, [len(CONTENT)]),  # only the renaming was missing
    (CONTENT + b"more", [len(CONTENT) + 4, 0]),
    (b"of another version", [18, 0])])
def test_any_kept_part_ends_in_the_right_file(server, path, kept, requests):
    path.parent.mkdir()
    part_of(path).write_bytes(kept)
    fetch(f"{server.url}/net.pth", path, SHA256)
    assert server.starts == requests
    assert path.read_bytes() == CONTENT and not part_of(path).exists()


def test_the_part_before_a_break_is_kept_and_reported(server, path, monkeypatch):
    monkeypatch.setattr(download, "_TRIES", 1)
    server.cut = 300_000
    with pytest.raises(Unreachable) as caught:
        fetch(f"{server.url}/net.pth", path, SHA256)
    kept = part_of(path).stat().st_size
    assert 200_000 < kept <= 300_000
    assert f"{kept:,} bytes" in str(caught.value) and server.url in str(caught.value)
    assert not path.exists()


def test_a_wrong_checksum_deletes_the_file(server, path):
    wrong = Checksum("sha256", "0" * 8)
    with pytest.raises(InputError) as caught:
        fetch(f"{server.url}/net.pth", path, wrong)
    for fact in (f"{server.url}/net.pth", SHA256.digits, "00000000...", "1,000,000"):
        assert fact in str(caught.value)
    assert list(path.parent.iterdir()) == []


def test_an_existing_file_is_checked_and_kept(server, path):
    path.parent.mkdir()
    path.write_bytes(b"put there by hand")
    with pytest.raises(InputError) as caught:
        fetch(f"{server.url}/net.pth", path, SHA256)
    for fact in (str(path), SHA256.digits, f"{server.url}/net.pth"):
        assert fact in str(caught.value)
    assert path.read_bytes() == b"put there by hand" and server.asked == []


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_weights_go_to_the_cache_folder(server, cache, capsys):
    path = fetch_weights(f"{server.url}/net.pth", SHA256)
    assert path == cache / "weights" / "net.pth" and path.read_bytes() == CONTENT
    out, err = capsys.readouterr()
    assert out == "" and str(path) in err and SHA256.digits in err
    other = fetch_weights(f"{server.url}/net.pth", SHA256, name="other.pth")
    assert other.read_bytes() == CONTENT
    (server.folder / "net.pth").unlink()
    assert fetch_weights(f"{server.url}/net.pth", SHA256) == path


def test_an_announced_checksum_is_kept_and_checked(server, cache, monkeypatch):
    announced = [SHA256]
    monkeypatch.setattr(weights, "announced_checksum", lambda *_: announced.pop())
    arguments = f"{server.url}/net.pth", "net.pth", "timm:net"
    for _ in range(2):  # the server is asked once
        path = fetch_announced(*arguments)
        assert path.read_bytes() == CONTENT
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=SHA256.digits):
        fetch_announced(*arguments)
    path.with_name("net.pth.sum").unlink()  # as if the file was put there by hand
    assert fetch_announced(*arguments) == path
    path.write_bytes(CONTENT)
    with pytest.raises(InputError, match=SHA256.digits):
        fetch_announced(*arguments)
    path.unlink()  # a new version may have another checksum
    announced.append(SHA256)
    assert fetch_announced(*arguments).read_bytes() == CONTENT
    path.with_name("net.pth.sum").write_text("sha256 12")
    with pytest.raises(InputError, match="net.pth.sum"):
        fetch_announced(*arguments)


def refused(url) -> str:
    with pytest.raises(InputError) as caught:
        fetch_weights(url, SHA256)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_offline_the_error_names_url_reason_and_folder(cache, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    message = refused("http://127.0.0.1:9/net.pth")
    for fact in ("http://127.0.0.1:9/net.pth", "no connection",
                 str(cache / "weights" / "net.pth"), SHA256.digits):
        assert fact in message


def test_missing_on_the_server(server, cache):
    assert "404" in refused(f"{server.url}/other.pth")


def test_silent_server_is_given_up(server, cache, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT_SECONDS", 0.2)
    server.stall = threading.Event()
    message = refused(f"{server.url}/net.pth")
    server.stall.set()
    assert f"{server.url}/net.pth" in message


def test_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "file"))
    assert "CNN_JAX_CACHE" in refused(f"{server.url}/net.pth")
