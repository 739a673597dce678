"""Packing into shards keeps the pictures, resumes after a kill, and checks itself."""

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from tests.support.data_samples import data_config, save_class_folders
from PIL import Image

from cnn_jax import data
from cnn_jax.console import Reporter
from cnn_jax.data import packing
from cnn_jax.data.examples import Examples
from cnn_jax.data.records import InMemory, StoredRecords
from cnn_jax.data.shard_index import load_index
from cnn_jax.pack import command

SMALL = ["--shard_size", "0.02"]  # MB: a few of the pictures below


@pytest.fixture(autouse=True)
def cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def photos(tmp_path) -> Path:
    """Makes 3 classes in 2 splits, with a table of names."""
    root = tmp_path / "photos"
    save_class_folders(root / "train", {"ant": 14, "bee": 9, "cat": 11})
    save_class_folders(root / "val", {"ant": 2, "bee": 1, "cat": 2})
    (root / "classes.txt").write_text("emmet\nbumble\ntom\n")
    return root


def run(*argv) -> int:
    """Runs the command; returns its exit code."""
    try:
        command.main([str(word) for word in argv])
    except SystemExit as ended:
        return ended.code
    return 0


def opened(folder, name="shards"):
    return data.open_stored(data_config(name=name, dir=str(folder)))


def contents(folder: Path) -> dict[str, str]:
    """Hashes the files of a packed set. An index also holds times, so it is left out.
    """
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*")) if path.is_file()
            and path.suffix != ".npz"}


def test_pictures_labels_and_order_are_those_of_the_folder(photos, tmp_path, capsys):
    assert run(photos, tmp_path / "out", *SMALL) == 0
    ours, theirs = opened(photos, "folder"), opened(tmp_path / "out")
    assert ours.class_names == theirs.class_names == ("emmet", "bumble", "tom")
    assert "indexed earlier" in theirs.origin
    for split in ("train", "validation"):
        assert len(ours.splits[split]) == len(theirs.splits[split])
        for (image, label), (packed, packed_label) in zip(
                ours.splits[split], theirs.splits[split]):
            assert (image, label) == (packed, packed_label)
    assert sorted(theirs.splits) == ["train", "validation"]
    assert len(list((tmp_path / "out" / "train").glob("*.tar"))) > 2
    assert not (tmp_path / "out.partial").exists()
    printed = capsys.readouterr().out
    assert "34 pictures in" in printed and "data.name=shards" in printed
    settings = [data_config(name=name, dir=str(folder), seed=0)
                for name, folder in (("folder", photos), ("shards", tmp_path / "out"))]
    one, other = (data.open_records(config, 3) for config in settings)
    assert [one.test.read(i)[0] for i in range(len(one.test))] == [
        other.test.read(i)[0] for i in range(len(other.test))]


def test_members_are_named_as_in_webdataset(photos, tmp_path):
    run(photos, tmp_path / "out", *SMALL)
    names = []
    for path in sorted((tmp_path / "out" / "train").glob("*.tar")):
        with tarfile.open(path) as archive:
            members = archive.getmembers()
            names += [member.name for member in members]
            assert {(member.mtime, member.uid, member.mode) for member in members} == {
                (0, 0, 0o644)}
    assert names[:4] == ["000000.png", "000000.cls", "000001.png", "000001.cls"]
    assert names[-1] == "000033.cls"


def test_the_index_holds_the_checksums(photos, tmp_path):
    run(photos, tmp_path / "out", *SMALL)
    shards = load_index(tmp_path / "out" / "train")
    record = json.loads((tmp_path / "out" / "pack.json").read_text())
    assert len(shards) == len(record["splits"]["train"]["shards"])
    for name, shard in shards.items():
        content = (tmp_path / "out" / "train" / name).read_bytes()
        assert shard.file.sha256 == hashlib.sha256(content).hexdigest()


KILLED = """
import os, signal, sys
from cnn_jax.data import packing, shard_writer
from cnn_jax.pack import command
written = []
add = shard_writer._add
def count(tar, name, content):
    add(tar, name, content)
    written.append(name)
    if len(written) == 33:
        tar.fileobj.file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
shard_writer._add = count
command.main(sys.argv[1:])
"""


def test_a_killed_packing_resumes_bit_for_bit(photos, tmp_path, monkeypatch):
    out, partial = tmp_path / "out", tmp_path / "out.partial"
    done = subprocess.run([sys.executable, "-c", KILLED, str(photos), str(out), *SMALL],
                          capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not out.exists()
    shards = sorted(path.name for path in (partial / "train").iterdir())
    assert shards[-1].endswith(".tar.partial") and len(shards) > 1
    kept = {path: path.stat().st_mtime_ns for path in (partial / "train").glob("*.tar")}
    assert run(photos, out, *SMALL) == 0
    for path, time in kept.items():  # they were not written again
        assert (out / "train" / path.name).stat().st_mtime_ns == time
    assert run(photos, tmp_path / "other", *SMALL) == 0
    assert contents(out) == contents(tmp_path / "other")


def test_a_shuffled_order_is_the_same_in_each_run(photos, tmp_path):
    for name in ("a", "b"):
        run(photos, tmp_path / name, "--order", "shuffled")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    ours, theirs = opened(photos, "folder"), opened(tmp_path / "a")
    ours = [image for image, _ in ours.splits["train"]]
    theirs = [image for image, _ in theirs.splits["train"]]
    assert ours != theirs and sorted(ours) == sorted(theirs)


def jpeg(size, mode="RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.radial_gradient("L").resize(size).convert(mode).save(file, "JPEG", **options)
    return file.getvalue()


def test_large_pictures_are_made_smaller(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pictures = {"ant/small.jpg": jpeg((30, 20)), "ant/wide.jpeg": jpeg((90, 30)),
                "bee/grey.jpg": jpeg((40, 80), "L"),
                "bee/turned.jpg": jpeg((80, 20), exif=exif)}
    for name, content in pictures.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(content)
    run(tmp_path / "set", tmp_path / "out", "--longest_side", 40, "--quality", 70)
    folder = opened(tmp_path / "set", "folder").splits["train"]
    packed = opened(tmp_path / "out").splits["train"]
    by_name = {Path(folder.name(row)).stem: packed.read(row)[0] for row in range(4)}
    images = {name: Image.open(io.BytesIO(image)) for name, image in by_name.items()}
    assert {name: (*image.size, image.mode) for name, image in images.items()} == {
        "small": (30, 20, "RGB"), "wide": (40, 13, "RGB"), "grey": (20, 40, "L"),
        "turned": (10, 40, "RGB")}
    assert by_name["small"] == pictures["ant/small.jpg"]


def test_arrays_become_png(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), np.uint8)
    labels = np.array([0, 1, 1, 0, 1], np.int32)
    records = InMemory(Examples(images, labels))
    source = StoredRecords({"train": records}, ("a", "b"), "")
    packing.pack(source, tmp_path / "out", packing.Options(), skip=False,
                 report=Reporter(quiet=True))
    loaded = data.load(data_config(
        name="shards", dir=str(tmp_path / "out"), test=0, validation=0), 0)
    np.testing.assert_array_equal(loaded.train.images, images)
    np.testing.assert_array_equal(loaded.train.labels, labels)


def break_pictures(photos) -> list[Path]:
    broken = [photos / name for name in (
        "train/bee/001.png", "train/cat/010.png", "val/ant/000.png")]
    for path in broken:
        path.write_bytes(path.read_bytes()[:50])
    return broken


def test_all_broken_pictures_are_listed(photos, tmp_path, capsys):
    out = tmp_path / "out"
    whole = {path: path.read_bytes() for path in photos.rglob("*.png")}
    broken = break_pictures(photos)
    assert run(photos, out, *SMALL) == 2
    printed, error = capsys.readouterr()
    assert all(str(path) in printed for path in broken) and not out.exists()
    assert error.count("\n") == 1 and "3 of 39" in error and "--on_error=skip" in error
    for path in broken[:2]:  # one stays broken
        path.write_bytes(whole[path])
    assert run(photos, out, *SMALL) == 2
    assert "1 of 39" in capsys.readouterr().err
    broken[2].write_bytes(whole[broken[2]])
    assert run(photos, out, *SMALL) == 0
    run(photos, tmp_path / "other", *SMALL)
    assert contents(out) == contents(tmp_path / "other")


def test_broken_pictures_are_skipped_and_named(photos, tmp_path, capsys):
    broken = break_pictures(photos)
    assert run(photos, tmp_path / "first", *SMALL) == 2  # the next run resumes this one
    assert run(photos, tmp_path / "first", *SMALL, "--on_error=skip") == 0
    printed = capsys.readouterr().out
    assert all(str(path) in printed for path in broken) and "2 skipped" in printed
    assert run(photos, tmp_path / "other", *SMALL, "--on_error=skip") == 0
    assert contents(tmp_path / "first") == contents(tmp_path / "other")
    sizes = [len(split) for split in opened(tmp_path / "other").splits.values()]
    assert sizes == [32, 4]
    record = json.loads((tmp_path / "other" / "pack.json").read_text())
    assert [len(split["bad"]) for split in record["splits"].values()] == [2, 1]


def test_a_class_without_a_readable_picture_is_refused(photos, tmp_path, capsys):
    for path in (photos / "train" / "bee").iterdir():
        path.write_bytes(b"no picture")
    assert run(photos, tmp_path / "out", "--on_error=skip") == 2
    assert "bumble" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_finished_set_is_checked_again(photos, tmp_path, capsys):
    out = tmp_path / "out"
    run(photos, out, *SMALL)
    assert run(photos, out, *SMALL) == 0
    shard = out / "train" / "000001.tar"
    content = bytearray(shard.read_bytes())
    content[700] ^= 1
    shard.write_bytes(content)
    assert run(photos, out, *SMALL) == 1
    assert str(shard) in capsys.readouterr().err


def test_written_shards_are_read_back(photos, tmp_path, monkeypatch, capsys):
    write = packing.write_shard

    def damage(path, *arguments):
        packed = write(path, *arguments)
        content = bytearray(path.read_bytes())
        content[1500] ^= 1
        path.write_bytes(content)
        return packed
    monkeypatch.setattr(packing, "write_shard", damage)
    assert run(photos, tmp_path / "out") == 1
    assert "000000.tar" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_other_options_or_pictures_are_refused(photos, tmp_path, capsys):
    out = tmp_path / "out"
    run(photos, out, *SMALL)
    assert run(photos, out, "--longest_side", 3, *SMALL) == 2
    assert "--longest_side=3" in capsys.readouterr().err
    (photos / "train" / "ant" / "000.png").rename(photos / "train" / "ant" / "x.png")
    assert run(photos, out, *SMALL) == 2
    assert str(out) in capsys.readouterr().err


@pytest.mark.parametrize("argv, fact", [
    ([], "SOURCE"), (["nowhere", "out"], "nowhere"), (["tfds:../x", "out"], "tfds"),
    (["shapes_multilabel", "out"], "shapes_multilabel"),
    (["{photos}", "{photos}/out"], "inside"), (["{photos}", "{photos}"], "inside"),
    (["{photos}", "out", "--quality=101"], "101"),
    (["{photos}", "out", "--longest_side=x"], "x"),
    (["{photos}", "out", "--order=random"], "random"),
    (["{photos}", "{tmp}"], "exists"), (["{photos}/val/ant", "out"], "class folders")])
def test_arguments_that_are_refused(photos, tmp_path, monkeypatch, capsys, argv, fact):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    words = [word.format(photos=photos, tmp=tmp_path / "there") for word in argv]
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("cnn_jax: ") and error.count("\n") == 1 and fact in error
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(photos, tmp_path, capsys):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert run(photos, tmp_path / "locked" / "out") == 1
    assert str(tmp_path / "locked") in capsys.readouterr().err


def test_a_full_disk_is_reported_with_the_file(photos, tmp_path, monkeypatch, capsys):
    from cnn_jax.data import shard_writer

    def full(*arguments):
        raise OSError(28, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "_add", full)
        assert run(photos, tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "000000.tar" in error and "No space" in error
    assert run(photos, tmp_path / "out") == 0
