"""What does a set of up to 1.28 million pictures cost before the first one is decoded?

    python experiments/scale.py [--counts 1000 10000 ...] [--kinds folder ...]
        [--photos FOLDER] [--classes 100] [--work FOLDER] [--rounds 3]

For each kind of set and each number of pictures it makes a set of 100 classes from
real JPEG files: class folders of hard links, tar shards, and ArrayRecord files as
tensorflow-datasets prepares them. The last two hold the same pictures at 48 pixels. An
ArrayRecord file has 1,251 of them, as in tensorflow-datasets' ImageNet. In each round a
new process opens the set, and another one starts `main.py`; the sets of a kind take
turns. They measure

    the wall and CPU seconds to open the set, the first time (which builds and keeps the
    index) and later;
    the memory that the process has gained, that of the whole process after some
    batches, and the size of the pickled records that each worker gets;
    the time to read a random picture, undecoded;
    the time from opening a stream to its first batch;
    the time per picture of the stream, decoded, cut and resized to 32 pixels in one
    thread; and the same where all rows are 100 of its pictures, so that these come from
    the caches of the CPU and not from memory;
    the seconds from the start of `main.py` to the end of its first training step, and
    the memory of that process (ResNet-18, 32 x 32 pixels, batches of 64).

The files are in the page cache. The sets of a kind take at most 6 GB of disk, and are
removed before those of the next. Writes scale.txt and scale.json.
"""

import argparse
import contextlib
import gc
import io
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax.data.records import Records, Subset  # noqa: E402
from cnn_jax.data.shard_writer import Sample, fill, write_shard  # noqa: E402
from cnn_jax.errors import InputError, RunError  # noqa: E402
from cnn_jax.files import write_atomically  # noqa: E402
from experiments.arms.first import resident_bytes  # noqa: E402
from experiments.measuring import (first_step, make_out, new_cache,  # noqa: E402
                                   ran_on, run_script)

COUNTS = [1000, 10_000, 100_000, 1_281_167]  # ImageNet has the last one
READS, WARM = 2000, 3  # pictures read; WARM times as many before the clock starts
FEW = 100                # pictures that the caches of a CPU hold
BATCH, BATCHES = 64, 16  # of the stream
SIDE = 32                # pixels of its pictures
SMALL_SIDE = 48
NETWORK = "resnet18"     # that is trained
KINDS = ("folder", "shards", "array_record")
NAMES = {"folder": "folder", "shards": "shards", "array_record": "tfds:scale"}
# {figure: (heading, factor of its unit)}
COLUMNS = {"first": ("first s", 1), "first_cpu": ("first cpu", 1),
           "again": ("again s", 1), "cpu": ("again cpu", 1),
           "memory": ("memory MB", 1e-6), "total": ("total MB", 1e-6),
           "pickle": ("pickle MB", 1e-6),
           "read": ("read us", 1e6), "batch": ("batch s", 1),
           "image": ("image us", 1e6), "few": ("of 100 us", 1e6),
           "step": ("1st step s", 1),
           "process": ("process MB", 1e-6)}


def make_folder(root: Path, count: int, classes: int, photos: list[Path]) -> None:
    """Makes class folders as in ImageNet, of hard links to copies of the photos."""
    copies = [shutil.copy(photo, root / f"{number}.original")
              for number, photo in enumerate(photos)]
    for label in range(classes):
        (root / "set" / "train" / f"n{label:08d}").mkdir(parents=True)
    for number in range(count):
        label, rank = number % classes, number // classes
        os.link(copies[number % len(copies)],
                root / "set" / "train" / f"n{label:08d}" / f"n{label:08d}_{rank}.JPEG")


def small(photos: list[Path]) -> list[bytes]:
    """Encodes the photos with a longest side of `SMALL_SIDE` pixels."""
    contents = []
    for photo in photos:
        image = Image.open(photo).convert("RGB")
        image.thumbnail((SMALL_SIDE, SMALL_SIDE))
        file = io.BytesIO()
        image.save(file, "JPEG")
        contents.append(file.getvalue())
    return contents


def make_shards(root: Path, count: int, classes: int, photos: list[Path]) -> None:
    """Writes shards of about 10,000 small pictures."""
    contents = small(photos)
    samples: Iterator[Sample] = iter(
        Sample(number, ".jpg", contents[number % len(contents)], number % classes)
        for number in range(count))
    (root / "set").mkdir()
    for shard in range(1 + count // 10_000):
        write_shard(root / "set" / f"{shard:06d}.tar",
                    fill(samples, 1e4 * (2048 + 1500)), 0, 7)
    if next(samples, None) is not None:
        raise RunError(f"the shards in {root} are too small: make them larger")


def make_array_record(root: Path, count: int, classes: int, photos: list[Path]) -> None:
    """Writes a set of tensorflow-datasets of small pictures.

    `download_and_prepare` is not used: above 1 GB it needs TensorFlow.
    """
    import tensorflow_datasets as tfds
    contents = small(photos)
    folder = root / "set" / "scale" / "1.0.0"
    folder.mkdir(parents=True)
    info = tfds.core.DatasetInfo(
        builder=tfds.core.DatasetIdentity(
            name="scale", version=tfds.core.Version("1.0.0"), data_dir=str(folder),
            module_name="scale"),
        features=tfds.features.FeaturesDict({
            "image": tfds.features.Image(encoding_format="jpeg"),
            "label": tfds.features.ClassLabel(num_classes=classes)}))
    writer = tfds.core.SequentialWriter(
        info, max_examples_per_shard=1251, file_format="array_record")
    writer.initialize_splits(["train"])
    for start in range(0, count, 1000):
        writer.add_examples({"train": [
            {"image": io.BytesIO(contents[number % len(contents)]),
             "label": number % classes}
            for number in range(start, min(start + 1000, count))]})
    writer.close_all()


MAKERS = {"folder": make_folder, "shards": make_shards,
          "array_record": make_array_record}


def open_once(kind: str, folder: str) -> dict[str, float]:
    """Opens a set in this process, and reads random pictures from it."""
    from cnn_jax import data
    from cnn_jax.config import default_config
    if kind == "array_record":
        from cnn_jax.data import builders  # noqa: F401  its import is not measured
    config = default_config().data
    config.name, config.dir = NAMES[kind], folder
    gc.collect()
    before = resident_bytes()
    begun, cpu_begun = time.perf_counter(), time.process_time()
    records = data.open_stored(config).splits["train"]
    seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu_begun
    gc.collect()
    memory = resident_bytes() - before
    warm, rows = np.split(np.random.default_rng(0).integers(
        0, len(records), (1 + WARM) * READS), [WARM * READS])
    for row in warm.tolist():  # opens the files
        records.read(row)
    rows = rows.tolist()
    begun = time.perf_counter()
    for row in rows:
        records.read(row)
    read = (time.perf_counter() - begun) / READS
    batch, image = stream_once(records)
    total = resident_bytes()
    few = np.resize(np.asarray(rows[:FEW], np.int32), len(records))
    _, again = stream_once(Subset(records, few))
    return {"seconds": seconds, "cpu": cpu, "memory": memory,
            "pickle": len(pickle.dumps(records)), "read": read, "batch": batch,
            "total": total, "image": image, "few": again, "count": len(records)}


def stream_once(records: Records) -> tuple[float, float]:
    """Streams random-resized crops; returns seconds of the first batch and an image."""
    from cnn_jax.data.batches import TrainOrder
    from cnn_jax.data.images import Preprocessing
    from cnn_jax.data.lazy import LazyImages
    from cnn_jax.data.shares import Share
    from cnn_jax.data.stream import Reading, Stream
    images = LazyImages(records, Preprocessing((SIDE, SIDE), 3), (SIDE, SIDE, 3))
    size = min(BATCH, len(records))
    share = Share(images, records.labels, TrainOrder(0, len(records), size),
                  np.arange(size), crop_scale=(0.08, 1.0))
    begun = time.perf_counter()
    stream = Stream({"train": share}, 10**6, Reading(0, 1, 1), lambda batch: batch)
    with contextlib.closing(stream):
        batches = itertools.chain.from_iterable(
            stream.batches("train", epoch) for epoch in itertools.count())
        next(batches)
        first = time.perf_counter() - begun
        begun = time.perf_counter()
        for _ in range(BATCHES):
            next(batches)
        return first, (time.perf_counter() - begun) / (BATCHES * size)


def open_in_new_process(kind: str, folder: Path, cache: Path) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, "--open", kind, str(folder)], text=True,
        capture_output=True, env=os.environ | {"CNN_JAX_CACHE": str(cache)})
    if done.returncode:
        raise RunError(f"opening {folder} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def train_in_new_process(kind: str, folder: Path, cache: Path) -> dict[str, float]:
    """Starts `main.py` on a set and stops it at the end of its first step."""
    with tempfile.TemporaryDirectory() as workdir:
        facts = first_step([
            "main_py", "--config=configs/default.py", f"--workdir={workdir}/run",
            f"--config.data.name={NAMES[kind]}", f"--config.data.dir={folder}",
            "--config.data.stream=true", f"--config.data.image_size=({SIDE},{SIDE})",
            "--config.data.channels=3", "--config.augment.crop_scale=(0.08, 1.0)",
            "--config.data.validation=0.2",
            f"--config.model.name={NETWORK}", f"--config.batch_size={BATCH}"],
            str(cache))
    return {"step": facts["seconds"], "process": facts["memory"]}


def measure(kind: str, counts: list[int], classes: int, photos: list[Path], work: Path,
            rounds: int) -> list[dict]:
    """Makes sets, opens each 1 + `rounds` times in turns, and removes them."""
    made: dict[int, float] = {}
    runs: dict[int, list[dict]] = {count: [] for count in counts}
    with tempfile.TemporaryDirectory(prefix=f"{kind}-", dir=work) as folder:
        for count in counts:
            root = Path(folder, str(count))
            root.mkdir()
            begun = time.perf_counter()
            MAKERS[kind](root, count, classes, photos)
            made[count] = time.perf_counter() - begun
            new_cache(root / "cache")
        for _ in range(1 + rounds):
            for count in counts:
                root = Path(folder, str(count))
                given = kind, root / "set", root / "cache"
                runs[count].append(open_in_new_process(*given)
                                   | train_in_new_process(*given))
    return [figures(kind, count, made[count], *runs[count]) for count in counts]


def figures(kind: str, count: int, made: float, first: dict, *again: dict) -> dict:
    """Arranges what the processes have measured on one set."""
    if first["count"] != count:
        raise RunError(f"{first['count']} of {count} pictures were found")
    return {"kind": kind, "count": count, "make": made, "first": first["seconds"],
            "again": [run["seconds"] for run in again],
            "first_cpu": first["cpu"], "cpu": [run["cpu"] for run in again],
            "memory": [run["memory"] for run in again],
            "total": [run["total"] for run in again],
            "pickle": first["pickle"], "read": [run["read"] for run in again],
            "batch": [run["batch"] for run in again],
            "image": [run["image"] for run in again],
            "few": [run["few"] for run in again],
            "step": [run["step"] for run in again],
            "process": [run["process"] for run in again]}


def table(results: dict) -> str:
    """Formats the results: the median of the rounds."""
    lines = [f"{results['machine']}; {results['classes']} classes, "
             f"{results['rounds']} rounds, median",
             f"{'kind':14}{'pictures':>10}" + "".join(
                 f"{heading:>11}" for heading, _ in COLUMNS.values())]
    for row in results["rows"]:
        figures = [f"{np.median(row[name]) * factor:>11,.2f}"
                   for name, (_, factor) in COLUMNS.items()]
        lines.append(f"{row['kind']:14}{row['count']:>10,}" + "".join(figures))
    return "\n".join(lines) + "\n"


def find_photos(flag: Path | None) -> list[Path]:
    """Finds the JPEG files of --photos, by default those of the monkeys."""
    root = flag or Path(os.environ.get("CNN_JAX_DATA", ""), "monkey_species")
    photos = sorted(root.rglob("*.jpg"))
    if not photos:
        raise InputError(f"{root} has no .jpg file: name a folder with --photos, or "
                         "set CNN_JAX_DATA")
    return photos


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/scale"))
    parser.add_argument("--work", type=Path,
                        help="where the sets are made; default OUT")
    parser.add_argument("--counts", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--open", nargs=2, help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.open:
        print(json.dumps(open_once(*flags.open)))
        return
    if not 2 <= flags.classes <= min(flags.counts) / 10 or flags.rounds < 1:
        raise InputError("--classes must be 2 or more and at most a tenth of --counts, "
                         "--rounds 1 or more")
    photos = find_photos(flags.photos)
    make_out(flags.out)
    make_out(flags.work or flags.out)
    results = ran_on() | {"classes": flags.classes, "rounds": flags.rounds, "rows": []}
    for kind in flags.kinds:
        results["rows"] += measure(kind, flags.counts, flags.classes, photos,
                                   flags.work or flags.out, flags.rounds)
        print(table(results), flush=True)
        write_atomically(flags.out / "scale.json", json.dumps(results, indent=1) + "\n")
        write_atomically(flags.out / "scale.txt", table(results))


if __name__ == "__main__":
    run_script(main)
