"""Packs a set of pictures into tar shards.

    python -m cnn_jax.pack SOURCE OUT [--dir FOLDER] [--longest_side N] [--quality Q]
        [--shard_size MB] [--order listed|shuffled] [--on_error stop|skip]

SOURCE is a folder of class folders, a .tar.gz of it, tar shards, or a value of
data.name: a name in cnn_jax.data.SOURCES, tfds:NAME, or MODULE:FUNCTION of your own.
FOLDER is the data.dir of such a name. OUT gets train/000000.tar, ..., the same for the
other splits, the indices of all shards, classes.txt and pack.json. Train on it with
--config.data.name=shards --config.data.dir=OUT.

Every picture is decoded once, to find broken ones. Its bytes are kept, unless it is
larger than --longest_side: then it becomes a JPEG of that size. Arrays become PNG
files.

Packing can be killed at any time. The same command goes on from the last complete
shard, and the shards are the same, bit for bit. The work is in OUT.partial until all of
it has been read back and compared by SHA-256. The same command on a finished OUT checks
it again.
"""

import argparse
import math
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax import data, user_code
from cnn_jax.console import Reporter, counted
from cnn_jax.data.packing import Options, pack
from cnn_jax.data.records import StoredRecords
from cnn_jax.data.shards import is_shards
from cnn_jax.errors import InputError, fail, first_line, one_line_errors


def open_source(source: str, folder: str | None = None) -> StoredRecords:
    """Opens the set that SOURCE names; `folder` is its data.dir if it is a name."""
    path, name = Path(source).expanduser(), source
    if not (source in data.SOURCES or source.startswith("tfds:")
            or user_code.is_reference(source) and not path.exists()):
        if folder:
            raise InputError(f"--dir is {folder!r}, but SOURCE is {source!r}, which is "
                             "not a name; leave --dir out")
        name, folder = "shards" if is_shards(path) else "folder", str(path)
        if name == "folder" and not path.exists():
            raise InputError(f"SOURCE is {source!r}, which is neither a file nor the "
                             f"name of a set; names are {', '.join(data.SOURCES)}, "
                             "tfds:NAME and MODULE:FUNCTION of your own")
    config = ConfigDict(dict(
        name=name, task=None, dir=folder, seed=0, image_size=None, shorter_side=None,
        channels=None, biased_triangles=False, validation_is_test=False))
    if not data.task_of(config).one_class_per_image:
        raise InputError(f"SOURCE is {source!r}, whose images have several labels; "
                         "only sets with one class for each image can be packed")
    return data.open_stored(config)


def main(argv: Sequence[str] | None = None) -> None:
    options = parse(argv)
    try:
        with one_line_errors("interrupted; run the same command again to go on"):
            run(options)
    except Exception as error:
        if not user_code.is_reference(options.source):
            raise
        traceback.print_exc()
        fail(f"SOURCE is {options.source}: your own code raised "
             f"{type(error).__name__}: {first_line(error)}", 2)


def run(options: argparse.Namespace) -> None:
    """Packs SOURCE into OUT, and prints what was packed."""
    report = Reporter()
    out = Path(options.out).expanduser()
    if Path(options.source).is_dir() and out.resolve().is_relative_to(
            Path(options.source).resolve()):
        raise InputError(f"OUT is {options.out!r}, which is inside SOURCE; name a "
                         "folder outside it")
    source = open_source(options.source, options.dir)
    report.line(f"{source.origin}; {len(source.class_names):,} classes")
    packed = pack(source, out, Options(
        options.longest_side, options.quality, options.shard_size, options.order),
        options.on_error == "skip", report)
    for name, split in packed.splits.items():
        count = sum(shard.count for shard in split.shards)
        size = sum(shard.size for shard in split.shards)
        report.line(f"{name}: {counted(count, 'picture')} in "
                    f"{counted(len(split.shards), 'shard')}, "
                    f"{size / 1e6:,.1f} MB, {len(split.bad)} skipped, verified")
    report.line(f"train with --config.data.name=shards --config.data.dir={out}")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cnn_jax.pack", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("out", metavar="OUT")
    parser.add_argument("--dir", metavar="FOLDER",
                        help="data.dir, if SOURCE is a name")
    parser.add_argument("--longest_side", type=_number(int, 1, data.MAX_SIDE),
                        metavar="N", help="pixels; larger pictures are made smaller")
    parser.add_argument("--quality", type=_number(int, 1, 100), default=90, metavar="Q",
                        help="of the JPEG of a picture that is made smaller (90)")
    parser.add_argument("--shard_size", type=_number(float, 0.001, 1e6), default=256.0,
                        metavar="MB", help="millions of bytes (256)")
    parser.add_argument("--order", choices=("listed", "shuffled"), default="listed",
                        help="listed: the classes alternate, as in training from the "
                        "folder; shuffled: at random, for programs that read shards "
                        "from front to back")
    parser.add_argument("--on_error", choices=("stop", "skip"), default="stop",
                        help="what to do if pictures cannot be read; they are listed "
                        "(stop)")
    parser.error = lambda message: fail(message, 2)  # type: ignore[method-assign]
    return parser.parse_args(argv)


def _number(kind: type, lowest: float, highest: float) -> Callable[[str], float]:
    """Makes a parser of int or float numbers for argparse."""
    def parse_number(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest:
            raise argparse.ArgumentTypeError(
                f"{text} must be {kind.__name__} from {lowest:,} to {highest:,}")
        return value
    return parse_number
