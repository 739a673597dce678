"""Where the examples come from: scikit-learn's digits and the official files.

Order for the official sets: `data.dir`, else the set's folder in `CNN_JAX_DATA`, else
tensorflow-datasets (builders.py). What is found first is used or refused, never
passed over: damaged files are an error, not a reason to download.
"""

import os
from pathlib import Path

import numpy as np

from cnn_jax.data import official
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.errors import InputError
from cnn_jax.files import expanded

DATA_VARIABLE = "CNN_JAX_DATA"


def digits(config) -> Stored:
    """The 1,797 handwritten digits of 8 x 8 pixels that ship with scikit-learn."""
    # Imported here: scikit-learn takes a second to import.
    import sklearn
    from sklearn.datasets import load_digits
    if config.dir:
        raise InputError(
            f"data.dir is {config.dir!r} but data.name is digits, which ships with "
            "scikit-learn; name the set that is in the folder, or leave data.dir empty")
    images, labels = load_digits(return_X_y=True)
    images = np.rint(images.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
    return Stored(
        parts={"train": Examples(images, labels.astype(np.int32))},
        class_names=tuple("0123456789"),
        origin=f"embedded in scikit-learn {sklearn.__version__}")


def official_set(config) -> Stored:
    """MNIST, Fashion-MNIST or CIFAR-10 from official files, or through tfds."""
    name = config.name
    folder = local_folder(config)
    if folder is None:
        # Imported here: tensorflow-datasets takes a second to import.
        from cnn_jax.data import builders
        return builders.prepared(name, folder_wanted(name))
    read = _local_cifar10 if name == "cifar10" else _local_mnist
    parts, origin = read(name, folder)
    return Stored(parts, official.CLASS_NAMES[name], origin)


def local_folder(config) -> Path | None:
    """The folder that holds the set, by `data.dir` or `CNN_JAX_DATA`; None if neither.

    A `data.dir` that does not exist is an error; a `CNN_JAX_DATA` without a folder
    for this set is not, since it may hold others.
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


def folder_wanted(name: str) -> str:
    """The folder in which the files of a set would be found, for messages."""
    return os.path.join(os.environ.get(DATA_VARIABLE) or f"${DATA_VARIABLE}", name)


def _local_mnist(name: str, folder: Path) -> tuple[dict[str, Examples], str]:
    files = official.FILES[name]
    missing = [file.name for file in files if not (folder / file.name).is_file()]
    if missing:
        raise InputError(
            f'{folder} lacks {", ".join(missing)}; {name} needs the '
            f"{len(files)} official files")
    for file in files:
        official.check_file(folder / file.name, file)
    parts = official.read_set(name, [folder / file.name for file in files])
    return parts, f"official files in {folder}, size and sha256 checked"


def _local_cifar10(name: str, folder: Path) -> tuple[dict[str, Examples], str]:
    """CIFAR-10 from the first of these that the folder holds.

    1. cifar-10-python.tar.gz, 2. cifar-10-binary.tar.gz (checked),
    3. cifar-10-batches-py/, 4. cifar-10-batches-bin/ (unpacked, not checked),
    5. any other .tar.gz of the python, then of the binary layout, by name.
    """
    for file in (official.CIFAR10_PYTHON, *official.FILES["cifar10"]):
        path = folder / file.name
        if path.exists():
            official.check_file(path, file)
            return (official.read_cifar10_archive(path),
                    f"official archive {path}, size and sha256 checked")
    for layout in official.CIFAR10_LAYOUTS:
        if (folder / layout).is_dir():
            return (official.read_cifar10_folder(folder / layout),
                    f"unpacked files in {folder / layout}, not checked")
    archives = sorted(path for path in folder.glob("*.tar.gz") if path.is_file())
    layouts = {path: official.cifar10_layout(path) for path in archives}
    for layout in official.CIFAR10_LAYOUTS:
        for path in archives:
            if layouts[path] == layout:
                return (official.read_cifar10_archive(path),
                        f"{path}, NOT the official archive")
    others = ", ".join(path.name for path in archives)
    raise InputError(
        f"{folder} holds no CIFAR-10 files"
        + (f" ({others} is something else)" if others else "")
        + "; put cifar-10-python.tar.gz or cifar-10-binary.tar.gz there (pictures in "
        "class folders are read with data.name=folder)")
