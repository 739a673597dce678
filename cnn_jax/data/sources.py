"""Finds the stored sets: scikit-learn's digits and the official files.

It looks for an official set in `data.dir`, then in the set's folder under
`CNN_JAX_DATA`; otherwise the set comes from tensorflow-datasets (builders.py). Damaged
files are an error, never a reason to try the next place.
"""

import os
from importlib.metadata import distribution
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data import official
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.data.folders import class_folders
from cnn_jax.data.records import StoredRecords
from cnn_jax.errors import InputError
from cnn_jax.files import expanded

DATA_VARIABLE = "CNN_JAX_DATA"


def digits(config: ConfigDict) -> Stored:
    """Loads scikit-learn's 1,797 handwritten digits of 8 x 8 pixels."""
    if config.dir:
        raise InputError(
            f"data.dir is {config.dir!r} but data.name is digits, which scikit-learn "
            "contains; set data.name to the set in that folder, or leave data.dir out")
    # Its file is read without it, because importing it takes a second.
    library = distribution("scikit-learn")
    file = library.locate_file("sklearn/datasets/data/digits.csv.gz")
    rows = np.loadtxt(str(file), delimiter=",")
    images, labels = rows[:, :-1], rows[:, -1]
    images = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Stored(
        splits={"train": Examples(images, labels.astype(np.int32))},
        class_names=tuple("0123456789"),
        origin=f"embedded in scikit-learn {library.version}")


def official_set(config: ConfigDict) -> Stored | StoredRecords:
    """Loads MNIST, Fashion-MNIST or CIFAR-10 from official files, or through tfds."""
    name = config.name
    folder = local_folder(config)
    if folder is None:
        # Imported here: tensorflow-datasets takes a second to import.
        from cnn_jax.data import builders
        return builders.prepared(name, expected_folder(name))
    splits, origin = (_local_cifar10(folder) if name == "cifar10"
                      else _local_mnist(name, folder))
    return Stored(splits, official.CLASS_NAMES[name], origin)


def imagenet(config: ConfigDict) -> StoredRecords:
    """Opens ImageNet from a folder with train/CLASS/*.JPEG and val/CLASS/*.JPEG."""
    folder = local_folder(config)
    if folder is None:
        raise InputError(
            "imagenet is not on this machine: name the folder with its train and val "
            f"folders in data.dir, or put it at {expected_folder('imagenet')}")
    return class_folders(ConfigDict({**config, "dir": str(folder)}))


def local_folder(config: ConfigDict) -> Path | None:
    """Finds the folder that holds the set, by `data.dir` or `CNN_JAX_DATA`.

    Returns None if neither is set, or if `CNN_JAX_DATA` has no folder for this set. A
    folder that either names must exist.
    """
    if config.dir:
        folder = expanded(config.dir, "data.dir")
        if not folder.is_dir():
            raise InputError(
                f"data.dir is {config.dir!r}, which is not a folder; name the folder "
                f"that holds {config.name}")
        return folder
    root = os.environ.get(DATA_VARIABLE)
    if not root:
        return None
    folder = expanded(root, DATA_VARIABLE)
    if not folder.is_dir():
        raise InputError(
            f"{DATA_VARIABLE} is {root!r}, which is not a folder; correct or unset it")
    return folder / config.name if (folder / config.name).is_dir() else None


def expected_folder(name: str) -> str:
    """Names, for messages, the folder in which `local_folder` looks by default."""
    return os.path.join(os.environ.get(DATA_VARIABLE) or f"${DATA_VARIABLE}", name)


def _local_mnist(name: str, folder: Path) -> tuple[dict[str, Examples], str]:
    """Checks and reads the four idx files of MNIST or Fashion-MNIST."""
    files = official.FILES[name]
    missing = [file.name for file in files if not (folder / file.name).is_file()]
    if missing:
        raise InputError(
            f'{folder} lacks {", ".join(missing)}; {name} needs the '
            f"{len(files)} official files")
    for file in files:
        official.check_file(folder / file.name, file)
    splits = official.read_set(name, [folder / file.name for file in files])
    return splits, f"official files in {folder}, size and sha256 checked"


def _local_cifar10(folder: Path) -> tuple[dict[str, Examples], str]:
    """Reads CIFAR-10 from the first of these that the folder holds.

    cifar-10-python.tar.gz, cifar-10-binary.tar.gz: the official archives.
    cifar-10-batches-py: the first one, unpacked.
    """
    for file in (official.CIFAR10_PYTHON, *official.FILES["cifar10"]):
        path = folder / file.name
        if path.exists():
            official.check_file(path, file)
            return (official.read_cifar10_archive(path),
                    f"official archive {path}, size and sha256 checked")
    path = folder / "cifar-10-batches-py"
    if path.is_dir():
        return (official.read_cifar10_folder(path),
                f"unpacked files in {path}, MD5 checked")
    raise InputError(
        f"{folder} holds no CIFAR-10; put cifar-10-python.tar.gz or "
        "cifar-10-binary.tar.gz there (pictures in class folders, or a .tar.gz of "
        "them, are read with data.name=folder)")
