"""A published set of weights: where it is, and what makes our network equal to it."""

from typing import Any, NamedTuple

from cnn_jax.data.images import Preprocessing
from cnn_jax.data.scaling import Scaling, from_mean_std

IMAGENET = from_mean_std((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIGNED = from_mean_std((0.5,) * 3, (0.5,) * 3)
CAFFE = Scaling((123.68, 116.779, 103.939), (1.0,) * 3)  # red, green, blue


class Pretrained(NamedTuple):
    """A row of `PRETRAINED`; 1,000 classes of ImageNet, pictures in RGB.

    checksum: (algorithm, hexadecimal digits); the digits may be only the first of the
        sum. None: nobody publishes one.
    top1: per cent of ImageNet's validation set, published for this preparation. None:
        not published.
    bgr: the file's first kernel reads blue, green, red; ours reads RGB all the same.
    license: of the weights, where their publisher states it.
    """

    network: str            # a name in `networks.NETWORKS`
    library: str            # a name in `names.LIBRARIES`
    url: str
    checksum: tuple[str, str] | None
    preprocessing: Preprocessing
    scaling: Scaling
    top1: float | None
    fields: dict[str, Any] = {}  # of the network, where it differs from its row
    bn: str = "torch"            # a name in `layers.BATCH_NORM`
    bgr: bool = False
    license: str = ""


def centre_crop(size: int, shorter_side: int, interpolation: str) -> Preprocessing:
    """Resizes the shorter side, then cuts a square from the centre; RGB."""
    return Preprocessing((size, size), 3, shorter_side, interpolation)
