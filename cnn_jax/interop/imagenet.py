"""Lists the classes of ImageNet, and finds them by folder names."""

import functools
from collections.abc import Sequence
from importlib import resources

import numpy as np

from cnn_jax.errors import InputError


@functools.cache
def imagenet_table() -> tuple[tuple[str, str], ...]:
    """Lists (WordNet identifier, name) of the 1,000 classes of ILSVRC 2012.

    They are sorted by identifier, which is the order of the logits in torchvision, timm
    and Keras. The names are torchvision's, and all different.
    """
    file = resources.files("cnn_jax.interop") / "imagenet_classes.txt"
    rows = (line.split(" ", 1) for line in file.read_text().splitlines())
    return tuple((synset, name) for synset, name in rows)


def imagenet_classes() -> tuple[str, ...]:
    """Lists the names of the 1,000 classes in the order of the logits."""
    return tuple(name for _, name in imagenet_table())


def classes_of_folders(folders: Sequence[str], class_names: Sequence[str],
                       where: str) -> np.ndarray:
    """Finds the class of each folder of pictures: int32 [folders].

    folders: names of folders. For ImageNet's classes they are WordNet identifiers
        (n01440764) or class names (tench), all or some of them. For other classes there
        must be one folder for each class; they are matched in alphabetical order.
    where: what holds the folders, for messages.
    Raises InputError for a folder that belongs to no class.
    """
    if tuple(class_names) != imagenet_classes():
        if len(folders) != len(class_names):
            raise InputError(f"{where} has {len(folders):,} folders, but the "
                             f"network has {len(class_names):,} classes: name the "
                             "folder with one folder for each class")
        return np.argsort(np.argsort(folders)).astype(np.int32)
    known = {text: label for label, row in enumerate(imagenet_table()) for text in row}
    unknown = [folder for folder in folders if folder not in known]
    if unknown:
        raise InputError(
            f"{where} has the folder {unknown[0]!r}"
            + (f" and {len(unknown) - 1:,} more" if len(unknown) > 1 else "")
            + " of no class of ImageNet: name the folders by WordNet identifiers, such "
            "as n01440764, or by class names, such as tench")
    return np.array([known[folder] for folder in folders], np.int32)
