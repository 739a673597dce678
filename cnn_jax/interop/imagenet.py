"""The classes of ImageNet."""

import functools
from importlib import resources


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Lists the 1,000 classes of ILSVRC 2012 in the order of the logits.

    The order is that of the sorted WordNet identifiers, which torchvision, timm and
    Keras share; the names are torchvision's, all different.
    """
    file = resources.files("cnn_jax.interop") / "imagenet_classes.txt"
    return tuple(file.read_text().splitlines())
