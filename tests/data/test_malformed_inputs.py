"""Damaged and hostile files: one clear InputError each, nothing run or written."""

import gzip
import io
import os
import pickle
import struct
import subprocess
import tarfile
import tracemalloc
import zlib
from collections import Counter

import numpy as np
import pytest
from tests.support.data_samples import (cifar_arrays, cifar_binary, cifar_files,
                                        cifar_python, data_config, idx, write_tar)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cnn_jax import data
from cnn_jax.data import folders, formats, images, official
from cnn_jax.data.images import find_images, read_image
from cnn_jax.errors import InputError, one_line


def refused(function, path, *words):
    """`function(path)` must raise one line that names the file; nothing else."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(InputError) as caught:
        function(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 600
    for word in (str(path), *words):
        assert word in message, message
    assert sorted(path.parent.rglob("*")) == before


def write(tmp_path, name, content) -> str:
    path = tmp_path / name
    path.write_bytes(content)
    return path


def header(*numbers) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


IMAGES = idx(np.arange(2 * 4 * 3, dtype=np.uint8).reshape(2, 4, 3))
GZIPPED = gzip.compress(IMAGES)


# idx files

def test_good_idx(tmp_path):
    array = formats.read_idx(write(tmp_path, "a.gz", GZIPPED))
    np.testing.assert_array_equal(array.ravel(), np.arange(24))
    assert array.shape == (2, 4, 3)


@pytest.mark.parametrize("content, word", [
    (b"", "starts with"),
    (b"\0", "starts with"),
    (header(2052, 1, 1, 1) + b"x", "2052"),
    (struct.pack("<4I", 2051, 1, 1, 1) + b"x", "starts with"),  # little-endian
    (header(2051, 2), "header"),
    (IMAGES[:-1], "23"),
    (IMAGES + b"\0", "more"),
    (header(2051, 2**32 - 1, 2**32 - 1, 2**32 - 1), "at most"),
    (header(2049, 2**32 - 1), "at most"),
    (header(2049, 2**27) + b"x", "holds 1"),  # 128 MB announced, never allocated
], ids=["empty", "one byte", "magic", "byte order", "header", "short", "long",
        "huge images", "huge labels", "announced"])
def test_bad_idx(tmp_path, content, word):
    path = write(tmp_path, "a.gz", gzip.compress(content))
    refused(formats.read_idx, path, word)


@pytest.mark.parametrize("content", [
    IMAGES, GZIPPED[:-9], GZIPPED[:12], GZIPPED[:-5] + b"xxxxx",
    GZIPPED[:14] + b"\xff\xff" + GZIPPED[16:], b""],
    ids=["not gzip", "cut", "cut early", "CRC", "damaged", "empty"])
def test_bad_gzip(tmp_path, content):
    refused(formats.read_idx, write(tmp_path, "a.gz", content))


def test_gzip_bomb_is_read_no_further_than_announced(tmp_path, monkeypatch):
    bomb = gzip.compress(IMAGES + bytes(50_000_000))
    path = write(tmp_path, "a.gz", bomb)
    read = []
    original = gzip.GzipFile.read

    def count(self, size=-1):
        data = original(self, size)
        read.append(len(data))
        return data
    monkeypatch.setattr(gzip.GzipFile, "read", count)
    refused(formats.read_idx, path, "more")
    assert sum(read) <= len(IMAGES) + 1


@pytest.mark.parametrize("arrays, word", [
    ((np.zeros((2, 3, 3)), np.zeros(3)), "3 labels"),
    ((np.zeros((2, 3, 3)), np.array([0, 10])), "label 10"),
    ((np.zeros(2), np.zeros(2)), "images are wanted"),
    ((np.zeros((2, 3, 3)), np.zeros((2, 3, 3))), "labels are wanted"),
    ((np.zeros((0, 3, 3)), np.zeros(0)), "no example"),
], ids=["counts", "label", "labels as images", "images as labels", "none"])
def test_idx_files_that_do_not_belong_together(tmp_path, arrays, word):
    paths = [write(tmp_path, name, gzip.compress(idx(array)))
             for name, array in zip(("i.gz", "l.gz"), arrays)]
    with pytest.raises(InputError, match=word) as caught:
        official.read_mnist(paths * 2)
    assert str(tmp_path) in str(caught.value)


# CIFAR-10 batches

BATCHES = cifar_arrays(count=2)
PAIR = BATCHES["test_batch"]


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_good_batches_however_they_are_written(protocol):
    batch = pickle.loads(cifar_python(*PAIR))
    stored = pickle.dumps(batch, protocol)
    old = pickle.dumps(batch, 2).replace(b"numpy._core", b"numpy.core")
    binary = cifar_binary(*PAIR)
    for read, content in ((formats.read_cifar_python, stored),
                          (formats.read_cifar_python, old),
                          (formats.read_cifar_binary, binary)):
        for got, expected in zip(read(content, "batch"), PAIR):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("size", [0, 1, 3072, 3074, 2 * 3073 - 1])
def test_binary_batch_of_another_length(size):
    with pytest.raises(InputError, match="batch has .* bytes.* 3,073"):
        formats.read_cifar_binary(bytes(size), "batch")


class Runs:
    """Unpickled by plain pickle, it calls a function with arguments."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def pickled(**changes) -> bytes:
    good = {b"labels": [3, 4], b"data": np.zeros((2, 3072), np.uint8)}
    batch = good | {key.encode(): value for key, value in changes.items()}
    return pickle.dumps({k: v for k, v in batch.items() if v is not None}, protocol=2)


HOSTILE = {
    "os.system": Runs(os.system, "touch pwned"),
    "eval": Runs(eval, 'open("pwned", "w")'),
    "open": Runs(open, "pwned", "w"),
    "getattr": Runs(getattr, "x", "__class__"),
    "np.load": Runs(np.load, "pwned"),
    "np.memmap": Runs(np.memmap, "pwned", "uint8", "w+", 0, (9,)),
}


@pytest.mark.parametrize("where", ["data", "labels", "more"])
@pytest.mark.parametrize("name", HOSTILE)
def test_pickle_that_would_run_something(tmp_path, monkeypatch, name, where):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="is a pickle that would call"):
        formats.read_cifar_python(pickled(**{where: HOSTILE[name]}), "batch")
    assert list(tmp_path.iterdir()) == []


GOOD = pickled()


@pytest.mark.parametrize("content", [
    b"", GOOD[:-1], GOOD[:100], b"\x80\x02]q\x01.", b"garbage", b"cos\nsystem\n.",
    pickled(data=None), pickled(labels=None),
    pickled(data=[1, 2]), pickled(data=b"x"),
    pickled(data=np.zeros((2, 3073), np.uint8)),
    pickled(data=np.zeros((2, 3, 1024), np.uint8)),
    pickled(data=np.zeros((2, 3072), np.float32)),
    pickled(data=np.full((2, 3072), None)),
    pickled(data=np.zeros((3, 3072), np.uint8)),
    pickled(labels=[3]), pickled(labels=[3, 2.0]), pickled(labels=[3, -1]),
    pickled(labels=[3, 2**70]), pickled(labels="34"), pickled(labels=[3, None]),
    GOOD.replace(b"M\x00\x0c", b"M\x00\x0d"),
    b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x",  # bytes of 4 EB announced
    b"\x80\x02" + b"(" * 100_000 + b"t" * 99_999 + b".",  # deeply nested
], ids=range(24))
def test_pickle_that_is_no_batch(content):
    with pytest.raises(InputError, match="^batch ") as caught:
        formats.read_cifar_python(content, "batch")
    assert "\n" not in str(caught.value)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_change_of_a_pickle_reads_or_is_refused(data_):
    content = bytearray(pickled(data=np.zeros((1, 3072), np.uint8), labels=[1]))
    # The opcodes are all before and after the block of zeros.
    places = [n for n in range(len(content)) if content[n]]
    for place in data_.draw(st.lists(st.sampled_from(places), max_size=3)):
        content[place] = data_.draw(st.integers(0, 255))
    try:
        pixels, labels = formats.read_cifar_python(bytes(content), "batch")
    except InputError:
        return
    assert pixels.shape[1:] == (32, 32, 3) and len(pixels) == len(labels)


# CIFAR-10 archives

def member(name, kind=tarfile.REGTYPE, link="", size=0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info


@pytest.mark.parametrize("layout", ["py", "bin"])
def test_good_archive(tmp_path, layout):
    path = tmp_path / "a.tar.gz"
    write_tar(path, cifar_files(layout, BATCHES),
              member(f"cifar-10-batches-{layout}", tarfile.DIRTYPE))
    parts = official.read_cifar10_archive(path)
    np.testing.assert_array_equal(parts["test"].images, PAIR[0])
    assert len(parts["train"].labels) == 10
    loaded = data.load(data_config(
        name="cifar10", dir=str(tmp_path), validation=2, split="last"), 0)
    assert "NOT the official archive" in loaded.source
    assert "train 8, validation 2, test 2" in loaded.source


@pytest.mark.parametrize("info", [
    member("../pwned", size=3),
    member("cifar-10-batches-bin/../../pwned", size=3),
    member("/tmp/pwned", size=3),
    member("cifar-10-batches-bin/data_batch_1.bin", tarfile.SYMTYPE, "/etc/passwd"),
    member("cifar-10-batches-bin", tarfile.SYMTYPE, "/tmp"),
    member("cifar-10-batches-bin/data_batch_1.bin", tarfile.LNKTYPE, "../../x"),
    member("cifar-10-batches-bin/null", tarfile.CHRTYPE),
    member("cifar-10-batches-bin/disk", tarfile.BLKTYPE),
    member("cifar-10-batches-bin/pipe", tarfile.FIFOTYPE),
    member("cifar-10-batches-bin/holes", tarfile.GNUTYPE_SPARSE),
], ids=["parent", "inner parent", "absolute", "symlink", "folder link", "hardlink",
        "device", "disk", "pipe", "sparse"])
def test_tar_member_that_is_refused(tmp_path, info):
    path = tmp_path / "a.tar.gz"
    write_tar(path, cifar_files("bin", BATCHES), info)
    refused(official.read_cifar10_archive, path, repr(info.name))
    with pytest.raises(InputError, match="not used"):
        data.load(data_config(name="cifar10", dir=str(tmp_path)), 0)
    assert not os.path.exists("/tmp/pwned")


def test_tar_bombs(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_MEMBER_BYTES", 50_000)
    path = tmp_path / "a.tar.gz"
    write_tar(path, {"cifar-10-batches-bin/x": bytes(50_001)})
    refused(official.read_cifar10_archive, path, "50,001")
    monkeypatch.setattr(formats, "MAX_ARCHIVE_BYTES", 100_000)
    write_tar(path, {f"cifar-10-batches-bin/{n}": bytes(40_000) for n in range(4)})
    refused(official.read_cifar10_archive, path, "100,000")


# tarfile reads extended headers whole, and keeps them, before a member can be judged.

def header(kind: bytes, data: bytes, size: int | None = None) -> bytes:
    """An extended header, which may announce another size than it has."""
    info = member("x", kind, size=len(data) if size is None else size)
    return info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512)


def pax(keys: int) -> bytes:
    return b"".join(b"11 %05d=1\n" % key for key in range(keys))


SPARSE = header(tarfile.XHDTYPE, b"22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n")
LARGE, MANY = "at most 2,048 are read", "65,536 bytes of headers"


@pytest.mark.parametrize("content,words", [
    (header(tarfile.GNUTYPE_LONGNAME, b"q" * 5_000_000, size=2**33), LARGE),
    (header(tarfile.XHDTYPE, pax(50_000)), LARGE),
    (header(tarfile.XGLTYPE, pax(50_000)), LARGE),
    (header(tarfile.XHDTYPE, b"9" * 2_049), LARGE),  # a search of quadratic time
    (header(tarfile.XGLTYPE, pax(1)) * 5_000, MANY),
    (SPARSE + member("x", size=2**20).tobuf() + b"9000000\n" + b"1\n" * 200_000, MANY),
    (member("x", size=2**20).tobuf() + bytes(2**20)
     + header(tarfile.XGLTYPE, pax(1)) * 80, MANY),
    (SPARSE + member("x", size=512).tobuf() + b"1\n0\n3\n".ljust(512, b"\0"),
     "a special file"),
], ids=["long name", "attributes", "global attributes", "digits", "headers in a row",
        "map of a sparse file", "headers after a member", "sparse file"])
def test_tar_with_large_headers(tmp_path, content, words):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(content + bytes(10_240)))
    with pytest.raises(InputError) as error:
        list(formats.tar_members(path))
    assert str(error.value).startswith(str(path)) and words in str(error.value)


def test_tar_with_many_small_headers(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "MAX_EXTENDED_IN_ALL", 1_000)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(
        (header(tarfile.XHDTYPE, pax(10)) + member("x").tobuf()) * 10 + bytes(1024)))
    with pytest.raises(InputError, match="over 1,000 bytes of extended headers"):
        list(formats.tar_members(path))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.tar.gz")
    with pytest.raises(InputError, match="a.tar.gz is no file"):
        official.read_cifar10_archive(tmp_path / "a.tar.gz")
    with pytest.raises(InputError):  # which looks for archives in the folder
        data.load(data_config(name="cifar10", dir=str(tmp_path)), 0)


def test_a_pickle_that_asks_for_room(tmp_path):
    """Nine bytes took two gigabytes."""
    for index in (10**6 + 1, 2**32 - 1):
        with pytest.raises(InputError, match=f"asks for {index:,} places"):
            formats.read_cifar_python(
                b"\x80\x02Nr" + struct.pack("<I", index) + b".", "batch")


def test_damaged_attributes_in_a_tar(tmp_path):
    """2,000 times bytes of extended headers, which have no checksum, are others."""
    path, rng = tmp_path / "a.tar.gz", np.random.default_rng(0)
    attributes = (b"19 path=some/name\n10 size=3\n22 GNU.sparse.major=1\n"
                  b"22 GNU.sparse.minor=0\n26 GNU.sparse.realsize=10\n"
                  b"20 hdrcharset=BINARY\n16 mtime=1234.5\n")
    rest = (member("x", size=512).tobuf() + b"1\n0\n3\n".ljust(512, b"\0")
            + bytes(1024))
    outcomes = Counter()
    for _ in range(2_000):
        changed = bytearray(attributes)
        for place in rng.integers(len(changed), size=rng.integers(4)):
            changed[place] = rng.choice(bytearray(b"0123456789-=\n .z\0\xff"))
        path.write_bytes(gzip.compress(header(tarfile.XHDTYPE, changed) + rest, 1))
        try:
            found = list(formats.tar_members(path))
            assert all(len(data) <= 1024 for _, data in found)
            outcomes["read"] += 1
        except InputError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
            outcomes["refused"] += 1
    assert min(outcomes["read"], outcomes["refused"]) > 100, outcomes


def test_tar_whose_global_header_would_be_copied_to_each_member(tmp_path):
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(
        header(tarfile.XGLTYPE, pax(180)) + 10_000 * member("x").tobuf()
        + bytes(1024)))
    tracemalloc.start()
    try:
        assert len(list(formats.tar_members(path))) == 10_000
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_nothing_that_tarfile_collects_is_kept(tmp_path, monkeypatch):
    """Neither the members nor the global attributes, which each member would copy."""
    opened, real = [], formats.tarfile.open

    def kept(*arguments, **named):
        opened.append(real(*arguments, **named))
        return opened[-1]

    monkeypatch.setattr(formats.tarfile, "open", kept)
    path = tmp_path / "a.tar.gz"
    path.write_bytes(gzip.compress(b"".join(
        header(tarfile.XGLTYPE, b"11 %05d=1\n" % i) + member("x").tobuf()
        for i in range(10)) + bytes(1024)))
    sizes = [(len(opened[0].members), len(opened[0].pax_headers))
             for _ in formats.tar_members(path)]
    assert sizes == [(1, 1)] * 10


@pytest.mark.parametrize("change", ["cut", "not tar", "not gzip", "empty tar", "empty"])
def test_bad_archive(tmp_path, change):
    path = tmp_path / "a.tar.gz"
    write_tar(path, {} if change == "empty tar" else cifar_files("bin", BATCHES))
    content = path.read_bytes()
    path.write_bytes({
        "cut": content[:len(content) // 2], "not tar": gzip.compress(b"x" * 5000),
        "not gzip": b"x" * 5000, "empty tar": content, "empty": b""}[change])
    refused(official.read_cifar10_archive, path)


def test_archive_without_a_batch(tmp_path):
    files = cifar_files("py", BATCHES)
    del files["cifar-10-batches-py/data_batch_3"]
    write_tar(tmp_path / "a.tar.gz", files)
    refused(official.read_cifar10_archive, tmp_path / "a.tar.gz", "lacks data_batch_3")


def test_archive_with_a_label_over_9(tmp_path):
    batches = BATCHES | {"data_batch_2": (PAIR[0], np.array([0, 10], np.uint8))}
    write_tar(tmp_path / "a.tar.gz", cifar_files("bin", batches))
    refused(official.read_cifar10_archive, tmp_path / "a.tar.gz", "label 10")


def test_hostile_pickle_in_an_archive_names_both(tmp_path):
    files = cifar_files("py", BATCHES)
    files["cifar-10-batches-py/data_batch_1"] = pickled(data=HOSTILE["os.system"])
    write_tar(tmp_path / "a.tar.gz", files)
    refused(official.read_cifar10_archive, tmp_path / "a.tar.gz", "data_batch_1",
            "system")


def test_pictures_of_cifar10_are_not_taken_for_cifar10(tmp_path):
    write_tar(tmp_path / "jpeg.tar.gz", {"cifar-10-images/train/cat/0000.jpg": b"x"})
    with pytest.raises(InputError, match="jpeg.tar.gz is something else.*folder"):
        data.load(data_config(name="cifar10", dir=str(tmp_path)), 0)


# Pictures

def encoded(image, kind="PNG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_of_size(width, height) -> bytes:
    """A PNG that announces a size, with one row of data at most."""
    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
            + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b""))


NOISE = Image.fromarray(
    np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8))
PNG, JPEG = encoded(NOISE), encoded(NOISE, "JPEG")


@pytest.mark.parametrize("content", [
    b"", b"not a picture", PNG[:20], PNG[:len(PNG) // 2], JPEG[:len(JPEG) // 2],
    JPEG[:20], PNG[:60] + bytes([PNG[60] ^ 1]) + PNG[61:], png_of_size(0, 5),
    png_of_size(5, 0), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    encoded(NOISE, "PCX"), GZIPPED,
], ids=["empty", "text", "PNG header", "PNG half", "JPEG half", "JPEG header",
        "PNG flipped bit", "no width", "no height", "EPS", "format not allowed",
        "gzip"])
@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_bad_picture(tmp_path, content, name):
    refused(read_image, write(tmp_path, name, content), "cannot be read as a picture")


# As images.py sets it; pytest resets the filters for each test.
@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width, height", [
    (8001, 8000), (10_000, 10_000), (30_000, 30_000), (2**31 - 1, 2**31 - 1)])
def test_picture_over_the_limit_is_not_decoded(tmp_path, width, height):
    assert images.MAX_PIXELS == 8000 * 8000
    path = write(tmp_path, "a.png", png_of_size(width, height))
    refused(read_image, path, "64,000,000")


def test_picture_with_32_bit_values(tmp_path):
    path = write(tmp_path, "a.tif", encoded(Image.new("F", (2, 2)), "TIFF"))
    refused(read_image, path, "32-bit")


def test_picture_that_is_missing_or_a_folder(tmp_path):
    refused(read_image, tmp_path / "a.png", "does not exist")
    refused(read_image, tmp_path, "cannot be read")


# Class folders

@pytest.fixture
def root(tmp_path, monkeypatch):
    """Two classes of ten pictures."""
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(10):
            Image.new("L", (4, 4), k).save(tmp_path / "set" / name / f"{k}.png")
    return tmp_path / "set"


def load(path):
    return data.load(data_config(name="folder", dir=str(path)), 0)


def nested(path, depth):
    """So many folders in each other; their path may be longer than a path may be."""
    here = os.open(path, os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("q", dir_fd=here)
        inner = os.open("q", os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)


def test_a_table_of_class_names_with_a_huge_cell(root):
    (root / "x_labels.txt").write_text(f"Label,Common Name\n{'z' * 200_000},y\n")
    refused(load, root, "x_labels.txt", "field larger than field limit")


def test_a_class_name_that_cannot_be_printed(root):
    (root / "x_labels.txt").write_text("Label,Common Name\na,x\nb,y\0z\n")
    refused(load, root, "x_labels.txt", r"names a class 'y\x00z', which cannot be")


def test_a_folder_whose_name_cannot_be_printed(root):
    (root / "b").rename(root / "b\x1b[2J\n")
    refused(load, root, r"names a class 'b\x1b[2J\n', which cannot be printed")


def test_a_cache_in_the_home_of_nobody(root, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", "~nosuchuser/x")
    with pytest.raises(InputError, match="CACHE is '~nosuchuser/x', whose home"):
        load(root)


@pytest.mark.parametrize("depth", [folders.MAX_DEPTH, 1_800])
def test_folders_in_folders(root, depth):
    nested(root / "a", depth)
    with pytest.raises(InputError, match=f"{root} has folders in .* more than 32 deep"):
        load(root)
    subprocess.run(["rm", "-r", root / "a" / "q"], check=True)  # rmtree is recursive
    nested(root / "a", folders.MAX_DEPTH - 1)
    assert len(load(root).train.labels) == 14


def test_pictures_to_predict_in_folders_in_folders(tmp_path):
    nested(tmp_path, 1_500)
    with pytest.raises(InputError, match=f"{tmp_path} has hundreds of folders"):
        find_images([tmp_path])
    subprocess.run(["rm", "-r", tmp_path / "q"], check=True)


def test_an_archive_of_folders_in_folders(tmp_path):
    path = tmp_path / "a.tar.gz"
    write_tar(path, {f"{name}/{'q/' * 900}x.png": PNG for name in "ab"})
    refused(load, path, "more than 32 deep")


@pytest.mark.parametrize("kind", ["pipe", "large"])
def test_a_table_of_names_that_is_none(root, kind):
    path = root / "labels.txt"
    if kind == "pipe":
        os.mkfifo(path)
        assert load(root).class_names == ("a", "b")
        return
    path.touch()
    os.truncate(path, 2**40)
    with pytest.raises(InputError, match="labels.txt has over 1,048,576 bytes"):
        load(root)


def test_pictures_that_would_not_fit_into_memory(root, monkeypatch):
    """Before room is made for them: one file may have many names."""
    monkeypatch.setattr(images, "MAX_BYTES", 20 * 4 * 4 - 1)
    made = []
    monkeypatch.setattr(np, "empty", lambda *args: made.append(args))
    with pytest.raises(InputError, match=r"20 images of \(4, 4, 1\) would take"):
        load(root)
    assert not made


def test_a_name_of_several_lines_is_one_line(root):
    (root / "a" / "new\nline\x1b[2J.png").write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        load(root)
    line = one_line(str(caught.value))
    assert f"{root}/a/new\\nline\\x1b[2J.png cannot be read as a picture" in line
    assert line.isprintable() and one_line("café 'ß' \udcff") == "café 'ß' \\udcff"


@pytest.mark.parametrize("name", ["folder", "mnist", "tfds:mnist"])
def test_a_home_folder_of_nobody(name):
    with pytest.raises(InputError, match="data.dir is '~nobody_here/x', whose home"):
        data.load(data_config(name=name, dir="~nobody_here/x"), 0)


@pytest.mark.parametrize("variable", ["CNN_JAX_DATA", "TFDS_DATA_DIR"])
def test_a_home_folder_of_nobody_in_the_environment(monkeypatch, variable):
    monkeypatch.delenv("CNN_JAX_DATA", raising=False)
    monkeypatch.setenv(variable, "~nobody_here/x")
    with pytest.raises(InputError, match=f"{variable} is '~nobody_here/x', whose home"):
        data.load(data_config(name="mnist"), 0)
