"""Defines a published set of weights, and what makes our network equal to it."""

from typing import Any, NamedTuple

from cnn_jax.data.images import Preprocessing
from cnn_jax.data.scaling import Scaling, from_mean_std

IMAGENET = from_mean_std((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIGNED = from_mean_std((0.5,) * 3, (0.5,) * 3)
CAFFE = Scaling((123.68, 116.779, 103.939), (1.0,) * 3)  # red, green, blue


class Pretrained(NamedTuple):
    """Holds a row of `PRETRAINED`, for the 1,000 classes of ImageNet and RGB pictures.

    checksum: (algorithm, hexadecimal digits), perhaps only the first digits. None: not
        published.
    top1: percent of ImageNet's validation set, published for this preprocessing. None:
        not published.
    bgr: whether the file's first kernel reads blue, green, red; ours reads RGB anyway.
    license: of the weights, if their publisher states it.
    """

    network: str            # a name in `networks.NETWORKS`
    library: str            # a name in `names.LIBRARIES`
    url: str
    checksum: tuple[str, str] | None
    preprocessing: Preprocessing
    scaling: Scaling
    top1: float | None
    fields: dict[str, Any] = {}  # that differ from the network's row in NETWORKS
    bn: str = "torch"            # a name in `layers.BATCH_NORM`
    bgr: bool = False
    license: str = ""


def centre_crop(size: int, shorter_side: int, interpolation: str) -> Preprocessing:
    """Makes the preprocessing: resize the shorter side, then crop a centre square."""
    return Preprocessing((size, size), 3, shorter_side, interpolation)
