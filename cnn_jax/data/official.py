"""Names, checksums and readers of the published MNIST, Fashion-MNIST and CIFAR-10.

A file is used only if it has the published checksum.
"""

import hashlib
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cnn_jax.data import formats
from cnn_jax.data.examples import Examples
from cnn_jax.errors import InputError


class OfficialFile(NamedTuple):
    """Identifies one published file by its bytes."""

    name: str
    size: int  # bytes
    sha256: str
    url: str


_MNIST = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_FASHION = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_CIFAR = "https://www.cs.toronto.edu/~kriz/"

# The files to download for each set, with the sizes and checksums that
# tensorflow-datasets 4.9.10 registers in url_checksums/. Those of MNIST are in the
# order training images, training labels, test images, test labels.
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
# CIFAR-10 in the python layout. It is never downloaded, but preferred if present.
CIFAR10_PYTHON = OfficialFile(
    "cifar-10-python.tar.gz", 170498071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    _CIFAR + "cifar-10-python.tar.gz")
# MD5 of the files in cifar-10-batches-py/, as torchvision lists them.
CIFAR10_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt",
        "Sneaker", "Bag", "Ankle boot"),
    "cifar10": (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse",
        "ship", "truck"),
}


def check_file(path: Path, official: OfficialFile) -> None:
    """Raises `InputError` unless the file has the published size and sha256."""
    size = path.stat().st_size
    if size != official.size:
        raise InputError(
            f"{path} has {size:,} bytes instead of the published {official.size:,}; "
            f"replace it with {official.url}")
    with path.open("rb") as stream:
        sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
    if sha256 != official.sha256:
        raise InputError(
            f"{path} has sha256 {sha256} instead of the published {official.sha256}; "
            f"replace it with {official.url}")


def read_set(name: str, paths: list[Path]) -> dict[str, Examples]:
    """Reads the train and test splits of a set from its `FILES`, already checked."""
    if name == "cifar10":
        return read_cifar10_archive(*paths)
    arrays = [formats.read_idx(path) for path in paths]
    return {"train": _examples(arrays[0][..., None], arrays[1]),
            "test": _examples(arrays[2][..., None], arrays[3])}


def read_cifar10_archive(path: Path) -> dict[str, Examples]:
    """Reads the train and test splits from a CIFAR-10 .tar.gz, already checked."""
    batches = {}
    with tarfile.open(path, "r|gz") as archive:
        for member in archive:
            file = Path(member.name)
            content = archive.extractfile(member)
            if file.stem in CIFAR10_MD5 and content is not None:
                parse = (formats.read_cifar_binary if file.suffix == ".bin"
                         else formats.read_cifar_python)
                batches[file.stem] = parse(content.read())
    return _join_batches(batches)


def read_cifar10_folder(folder: Path) -> dict[str, Examples]:
    """Reads the train and test splits from cifar-10-batches-py, an unpacked archive.

    Raises:
        InputError: a batch that is missing or does not have the published MD5.
    """
    batches = {}
    for batch, published in CIFAR10_MD5.items():
        path = folder / batch
        if not path.is_file():
            raise InputError(f"{path} is missing; unpack the CIFAR-10 archive again")
        data = path.read_bytes()
        md5 = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if md5 != published:
            raise InputError(
                f"{path} has MD5 {md5} instead of the published {published}; unpack "
                f"{CIFAR10_PYTHON.url} again")
        batches[batch] = formats.read_cifar_python(data)
    return _join_batches(batches)


def _join_batches(batches: dict[str, tuple[np.ndarray, np.ndarray]]
                  ) -> dict[str, Examples]:
    """Joins the five training batches, in their order."""
    images, labels = zip(*(batches[name] for name in CIFAR10_MD5
                           if name != "test_batch"))
    return {"train": _examples(np.concatenate(images), np.concatenate(labels)),
            "test": _examples(*batches["test_batch"])}


def _examples(images: np.ndarray, labels: np.ndarray) -> Examples:
    return Examples(np.ascontiguousarray(images), labels.astype(np.int32))
