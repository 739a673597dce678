"""Where the stored sets come from: scikit-learn's digits and the official files.

The official sets are looked for in `data.dir`, else in the set's folder under
`CNN_JAX_DATA`, else they come through tensorflow-datasets (builders.py). The first
place that holds files is used or refused: damaged files are an error, never a reason to
try the next place.
"""

import os
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from cnn_jax.data import official
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.errors import InputError
from cnn_jax.files import expanded

DATA_VARIABLE = "CNN_JAX_DATA"


def digits(config: ConfigDict) -> Stored:
    """Loads the 1,797 handwritten digits of 8 x 8 pixels that scikit-learn contains."""
    # Imported here: scikit-learn takes a second to import.
    import sklearn
    from sklearn.datasets import load_digits
    if config.dir:
        raise InputError(
            f"data.dir is {config.dir!r} but data.name is digits, which scikit-learn "
            "contains; name the set that is in the folder, or leave data.dir empty")
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Stored(
        splits={"train": Examples(images, labels.astype(np.int32))},
        class_names=tuple("0123456789"),
        origin=f"embedded in scikit-learn {sklearn.__version__}")


def official_set(config: ConfigDict) -> Stored:
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


def local_folder(config: ConfigDict) -> Path | None:
    """Finds the folder that holds the set, by `data.dir` or `CNN_JAX_DATA`.

    A `data.dir` that does not exist is an error. A `CNN_JAX_DATA` without a folder for
    this set is none, since it may hold other sets: the result is then None.
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
    """Names, for messages, the folder in which a set's files would be found."""
    return os.path.join(os.environ.get(DATA_VARIABLE) or f"${DATA_VARIABLE}", name)


def _local_mnist(name: str, folder: Path) -> tuple[dict[str, Examples], str]:
    """Reads the four idx files of MNIST or Fashion-MNIST after a check of each."""
    files = official.FILES[name]
    missing = [file.name for file in files if not (folder / file.name).is_file()]
    if missing:
        raise InputError(
            f'{folder} lacks {", ".join(missing)}; {name} needs the '
            f"{len(files)} official files")
    for file in files:
        official.check_file(folder / file.name, file)
    splits = official.read_mnist([folder / file.name for file in files])
    return splits, f"official files in {folder}, size and sha256 checked"


def _local_cifar10(folder: Path) -> tuple[dict[str, Examples], str]:
    """Reads CIFAR-10 from the first of these that the folder holds.

    1. cifar-10-python.tar.gz or cifar-10-binary.tar.gz, the official archives,
    2. cifar-10-batches-py/ or cifar-10-batches-bin/, an unpacked archive,
    3. cifar-10-python-exact-prefix.tar.gz, a partial copy.
    """
    for file in (official.CIFAR10_PYTHON, *official.FILES["cifar10"]):
        path = folder / file.name
        if path.exists():
            official.check_file(path, file)
            return (official.read_cifar10_archive(path),
                    f"official archive {path}, size and sha256 checked")
    for layout, checked in (("cifar-10-batches-py", "MD5 checked"),
                            ("cifar-10-batches-bin", "not checked")):
        if (folder / layout).is_dir():
            return (official.read_cifar10_folder(folder / layout),
                    f"unpacked files in {folder / layout}, {checked}")
    path = folder / official.CIFAR10_PARTIAL.name
    if path.exists():
        official.check_file(path, official.CIFAR10_PARTIAL)
        return (official.read_cifar10_archive(path),
                f"{path}, a part of the official archive, size and sha256 checked")
    raise InputError(
        f"{folder} holds no CIFAR-10; put cifar-10-python.tar.gz or "
        "cifar-10-binary.tar.gz there (pictures in class folders, or a .tar.gz of "
        "them, are read with data.name=folder)")
