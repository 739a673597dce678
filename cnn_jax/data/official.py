"""The published files of MNIST, Fashion-MNIST and CIFAR-10, and how they are read.

A file under an official name is used only if its bytes are the official ones.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_jax.data import formats
from cnn_jax.data.examples import Examples
from cnn_jax.errors import InputError


class OfficialFile(NamedTuple):
    """One published file."""

    name: str
    size: int  # bytes
    sha256: str
    url: str


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"

# Sizes and sums as registered in tensorflow-datasets 4.9.10, url_checksums/. A set
# is downloaded as these files; order: train images, labels, test images, labels.
FILES = {
    "mnist": (
        OfficialFile(
            "train-images-idx3-ubyte.gz", 9912422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            _MNIST + "train-images-idx3-ubyte.gz"),
        OfficialFile(
            "train-labels-idx1-ubyte.gz", 28881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            _MNIST + "train-labels-idx1-ubyte.gz"),
        OfficialFile(
            "t10k-images-idx3-ubyte.gz", 1648877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            _MNIST + "t10k-images-idx3-ubyte.gz"),
        OfficialFile(
            "t10k-labels-idx1-ubyte.gz", 4542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            _MNIST + "t10k-labels-idx1-ubyte.gz"),
    ),
    "fashion_mnist": (
        OfficialFile(
            "train-images-idx3-ubyte.gz", 26421880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            _FASHION + "train-images-idx3-ubyte.gz"),
        OfficialFile(
            "train-labels-idx1-ubyte.gz", 29515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            _FASHION + "train-labels-idx1-ubyte.gz"),
        OfficialFile(
            "t10k-images-idx3-ubyte.gz", 4422102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            _FASHION + "t10k-images-idx3-ubyte.gz"),
        OfficialFile(
            "t10k-labels-idx1-ubyte.gz", 5148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            _FASHION + "t10k-labels-idx1-ubyte.gz"),
    ),
    "cifar10": (
        OfficialFile(
            "cifar-10-binary.tar.gz", 170052171,
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            _CIFAR + "cifar-10-binary.tar.gz"),
    ),
}
# The same images again, never downloaded but preferred where the user has them.
CIFAR10_PYTHON = OfficialFile(
    "cifar-10-python.tar.gz", 170498071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    _CIFAR + "cifar-10-python.tar.gz")

CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
        "Sneaker", "Bag", "Ankle boot"),
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
        "ship", "truck"),
}

# Folder in the archive -> the suffix of its batch files and their parser.
_TRAIN = tuple(f"data_batch_{n}" for n in range(1, 6))
CIFAR10_LAYOUTS = {
    "cifar-10-batches-py": ("", formats.read_cifar_python),
    "cifar-10-batches-bin": (".bin", formats.read_cifar_binary),
}


def check_file(path: Path, official: OfficialFile) -> None:
    """Raises `InputError` unless the file has the official size and sha256."""
    size = path.stat().st_size
    if size != official.size:
        raise InputError(
            f"{path} has {size:,} bytes, the official file has {official.size:,}; "
            f"fetch it again from {official.url}")
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != official.sha256:
        raise InputError(
            f"{path} has sha256 {sha256}, the official file has {official.sha256}; "
            f"fetch it again from {official.url}")


def read_set(name: str, paths: list[Path]) -> dict[str, Examples]:
    """Train and test part of a set from its files, in the order of `FILES`."""
    return read_cifar10_archive(*paths) if name == "cifar10" else read_mnist(paths)


def read_mnist(paths) -> dict[str, Examples]:
    """Train and test part from the four idx files, in the order of `FILES`."""
    images, labels, test_images, test_labels = paths
    return {"train": _idx_pair(images, labels),
            "test": _idx_pair(test_images, test_labels)}


def _idx_pair(image_path: Path, label_path: Path) -> Examples:
    images, labels = formats.read_idx(image_path), formats.read_idx(label_path)
    for path, array, axes in ((image_path, images, 3), (label_path, labels, 1)):
        if array.ndim != axes:
            kind = "images" if axes == 3 else "labels"
            raise InputError(f"{path} has shape {array.shape}; {kind} are wanted here")
    if len(images) != len(labels):
        raise InputError(
            f"{image_path} has {len(images):,} images but {label_path} "
            f"{len(labels):,} labels; both must belong to one set")
    return _examples(images[..., None], labels, label_path)


def _examples(images, labels, path) -> Examples:
    if not len(labels):
        raise InputError(f"{path} holds no example")
    if labels.max() > 9:
        raise InputError(f"{path} holds the label {labels.max()}; the classes are 0..9")
    return Examples(np.ascontiguousarray(images), labels.astype(np.int32))


def cifar10_layout(path: Path) -> str | None:
    """Which CIFAR-10 layout an archive has, from its first file; None if neither."""
    first, _ = next(formats.tar_members(path), ("", b""))
    folder = first.partition("/")[0]
    return folder if folder in CIFAR10_LAYOUTS else None


def read_cifar10_archive(path: Path) -> dict[str, Examples]:
    """Train and test part from a .tar.gz in one of the two official layouts."""
    layout, wanted, batches = None, {}, {}
    for name, data in formats.tar_members(path):
        folder, _, file = name.partition("/")
        if folder in CIFAR10_LAYOUTS and layout in (None, folder):
            layout = folder
            suffix, parse = CIFAR10_LAYOUTS[layout]
            wanted = {batch + suffix: batch for batch in (*_TRAIN, "test_batch")}
        if file in wanted and folder == layout:
            batches[wanted[file]] = parse(data, f"{path}: {name}")
    return _join_batches(batches, path)


def read_cifar10_folder(folder: Path) -> dict[str, Examples]:
    """Train and test part from an unpacked archive, told apart by its folder name."""
    suffix, parse = CIFAR10_LAYOUTS[folder.name]
    batches = {}
    for batch in (*_TRAIN, "test_batch"):
        path = folder / (batch + suffix)
        if path.is_file():
            size = path.stat().st_size
            if size > formats.MAX_MEMBER_BYTES:
                raise InputError(
                    f"{path} has {size:,} bytes; a CIFAR-10 batch has fewer")
            batches[batch] = parse(path.read_bytes(), str(path))
    return _join_batches(batches, folder)


def _join_batches(batches, path) -> dict[str, Examples]:
    missing = [name for name in (*_TRAIN, "test_batch") if name not in batches]
    if missing:
        raise InputError(
            f'{path} lacks {", ".join(missing)}; CIFAR-10 has {", ".join(_TRAIN)} and '
            "test_batch")
    images, labels = zip(*(batches[name] for name in _TRAIN))
    train = _examples(np.concatenate(images), np.concatenate(labels), path)
    return {"train": train, "test": _examples(*batches["test_batch"], path)}
