"""How many pictures per second do our streams, torchvision and tf.data decode?

    python experiments/decode_rate.py [--photos FOLDER] [--rounds 7] [--images 1024]
        [--size 224] [--cores N] [--only ARM ...]

Each arm reads the JPEG files of the same class folders in random order, cuts a
random-resized crop out of each and resizes it to uint8 [224, 224, 3], in batches of 64:

    ours in threads, and in worker processes (with simplejpeg if it is installed);
    torchvision's RandomResizedCrop in a DataLoader with worker processes;
    tf.data with `decode_and_crop_jpeg`, which decodes only the crop, resized without
    antialiasing (as in its recipes) and with it.

Each arm has as many threads or processes as there are cores. The arms take turns, each
in its own process. The first batches of a turn do not count, because they may have been
read before it. The files are in the page cache. Prints pictures per second and core,
and each arm's ratio to ours in threads, with quartiles. Writes decode_rate.txt and
decode_rate.json. Needs the extra `peers`.
"""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax.errors import InputError, RunError  # noqa: E402
from cnn_jax.files import write_atomically  # noqa: E402
from experiments.measuring import make_out, ran_on, run_script  # noqa: E402

Batches = Generator[np.ndarray, None, None]
BATCH = 64
AHEAD = 4  # batches that an arm reads ahead; they do not count
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)  # of the crops


def ours(folder: str, size: int, cores: int, workers: int = 0) -> Batches:
    """Yields batches of our own stream."""
    from cnn_jax import data
    from cnn_jax.config import default_config
    from cnn_jax.data.batches import TrainOrder
    from cnn_jax.data.images import Preprocessing
    from cnn_jax.data.lazy import LazyImages
    from cnn_jax.data.shares import Share
    from cnn_jax.data.stream import Reading, Stream
    config = default_config().data
    config.name, config.dir = "folder", folder
    records = data.open_stored(config).splits["train"]
    images = LazyImages(records, Preprocessing((size, size), 3), (size, size, 3))
    order = TrainOrder(0, len(records), BATCH)
    share = Share(images, records.labels, order, np.arange(BATCH), SCALE, RATIO)
    reading = Reading(workers, max(1, cores // max(1, workers)), AHEAD // 2)
    stream = Stream({"train": share}, 10**6, reading, lambda batch: batch.images)
    with contextlib.closing(stream):
        for epoch in itertools.count():
            yield from stream.batches("train", epoch)


def ours_in_processes(folder: str, size: int, cores: int) -> Batches:
    """Yields batches of our own stream, read by worker processes."""
    return ours(folder, size, cores, workers=cores)


def torchvision(folder: str, size: int, cores: int) -> Batches:
    """Yields batches of a DataLoader over an ImageFolder, as in torchvision's recipes.
    """
    import torch
    from torchvision import datasets
    from torchvision.transforms import v2
    images = datasets.ImageFolder(folder, v2.Compose([
        v2.RandomResizedCrop(size, SCALE, RATIO, antialias=True), v2.PILToTensor()]))
    loader = torch.utils.data.DataLoader(
        images, BATCH, shuffle=True, drop_last=True, num_workers=cores,
        persistent_workers=True, prefetch_factor=max(1, AHEAD // cores))
    while True:
        for batch, _ in loader:
            yield batch.numpy()


def tf_data(folder: str, size: int, cores: int, antialias: bool = False) -> Batches:
    """Yields batches of tf.data, as in TensorFlow's ImageNet recipes."""
    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(cores)

    def read(path):
        content = tf.io.read_file(path)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            tf.image.extract_jpeg_shape(content), [[[0.0, 0.0, 1.0, 1.0]]],
            min_object_covered=0.1, aspect_ratio_range=RATIO, area_range=SCALE,
            max_attempts=10, use_image_if_no_bounding_boxes=True)
        (top, left, _), (height, width, _) = tf.unstack(begin), tf.unstack(extent)
        image = tf.io.decode_and_crop_jpeg(
            content, tf.stack([top, left, height, width]), channels=3)
        image = tf.image.resize(image, (size, size), antialias=antialias)
        return tf.cast(image, tf.uint8)

    paths = [str(path) for path in sorted(Path(folder).rglob("*.jpg"))]
    options = tf.data.Options()
    options.threading.private_threadpool_size = cores
    batches = (tf.data.Dataset.from_tensor_slices(paths).shuffle(len(paths)).repeat()
               .map(read, num_parallel_calls=tf.data.AUTOTUNE)
               .batch(BATCH, drop_remainder=True).prefetch(AHEAD)
               .with_options(options))
    yield from batches.as_numpy_iterator()


def tf_data_antialiased(folder: str, size: int, cores: int) -> Batches:
    """Yields batches of tf.data, resized as the other arms do."""
    return tf_data(folder, size, cores, antialias=True)


ARMS: dict[str, Callable[[str, int, int], Batches]] = {
    "ours, threads": ours, "ours, processes": ours_in_processes,
    "torchvision": torchvision, "tf.data": tf_data,
    "tf.data, antialias": tf_data_antialiased}


def serve(arm: str, folder: str, size: int, cores: int) -> None:
    """Reads as many batches as each line of stdin says, and prints the seconds."""
    batches = ARMS[arm](folder, size, cores)
    for line in sys.stdin:
        for _ in range(2 * AHEAD):
            next(batches)
        begun = time.perf_counter()
        for _ in range(int(line)):
            batch = next(batches)
            assert batch.dtype == np.uint8
            assert batch.nbytes == BATCH * size * size * 3
        print(f"seconds {time.perf_counter() - begun}", flush=True)
    batches.close()


class Arm:
    """A process that reads batches of one arm on request."""

    def __init__(self, name: str, folder: Path, size: int, cores: int) -> None:
        self.name = name
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", name, str(folder), str(size),
             str(cores)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"})

    def seconds(self, batches: int) -> float:
        """Returns the seconds that a number of batches take."""
        assert self.process.stdin is not None and self.process.stdout is not None
        print(batches, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            if line.startswith("seconds "):
                return float(line.split()[1])
        raise RunError(f"the arm {self.name} ended with exit code "
                       f"{self.process.wait()}, see above")

    def close(self) -> None:
        self.process.communicate()


def table(results: dict) -> str:
    """Formats pictures per second and core, and each arm's ratio to the first."""
    lines = [f"{results['machine']}; {results['cores']} cores, "
             f"{results['photos']:,} photographs -> {results['size']} pixels, "
             f"{results['rounds']} rounds of {results['images']:,}",
             ", ".join(f"{name} {version}" for name, version in
                       results["packages"].items()),
             f"{'':20}{'pictures/s a core':>22}{'ratio to ours':>22}"]
    rates = {name: np.array(row) / results["cores"]
             for name, row in results["rates"].items()}
    first = next(iter(rates.values()))
    for name, row in rates.items():
        rate, ratio = (np.percentile(values, (50, 25, 75))
                       for values in (row, row / first))
        lines.append(
            f"{name:20}" + f"{rate[0]:8.0f} ({rate[1]:.0f} - {rate[2]:.0f})".ljust(22)
            + f"{ratio[0]:8.2f} ({ratio[1]:.2f} - {ratio[2]:.2f})")
    return "\n".join(lines) + "\n"


def find_folder(flag: Path | None) -> Path:
    """Finds the class folders of --photos, by default those of the monkeys."""
    folder = flag or Path(os.environ.get("CNN_JAX_DATA", ""),
                          "monkey_species/training/training")
    if not any(folder.glob("*/*.jpg")):
        raise InputError(f"{folder} has no class folders of .jpg files: name one with "
                         "--photos, or set CNN_JAX_DATA")
    return folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/decode_rate"))
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=1024, help="in each round")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    parser.add_argument("--only", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--serve", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.serve:
        name, folder, size, cores = flags.serve
        serve(name, folder, int(size), int(cores))
        return
    if flags.rounds < 1 or flags.images < BATCH or flags.size < 1 or flags.cores < 1:
        raise InputError("--rounds, --size and --cores must be 1 or more, --images "
                         f"{BATCH} or more")
    folder = find_folder(flags.photos)
    make_out(flags.out)
    arms = [Arm(name, folder, flags.size, flags.cores) for name in flags.only]
    rates: dict[str, list[float]] = {arm.name: [] for arm in arms}
    batches = flags.images // BATCH
    try:
        for turn in range(flags.rounds + 1):
            for arm in arms:
                rate = batches * BATCH / arm.seconds(batches)
                if turn:  # the first warms up
                    rates[arm.name].append(rate)
    finally:
        for arm in arms:
            arm.close()
    packages = ("simplejpeg", "torch", "torchvision", "tensorflow-cpu")
    results = ran_on() | {
        "packages": {name: importlib.metadata.version(name) for name in packages
                     if importlib.util.find_spec(name.removesuffix("-cpu"))},
        "cores": flags.cores, "photos": len(list(folder.rglob("*.jpg"))),
        "size": flags.size, "rounds": flags.rounds, "images": batches * BATCH,
        "rates": rates}
    print(table(results), end="", flush=True)
    write_atomically(flags.out / "decode_rate.json",
                     json.dumps(results, indent=1) + "\n")
    write_atomically(flags.out / "decode_rate.txt", table(results))


if __name__ == "__main__":
    run_script(main)
