"""What pictures to draw and how: the `inspect` part of a config, as a value."""

from typing import NamedTuple


class Settings(NamedTuple):
    """The fields are explained in configs/default.py, which has the same defaults.

    They change nothing of a run, so the config of an older workdir may lack them.
    """

    only: str = ""
    images: int = 8
    layers: str = ""
    filters: str = ""
    max_filters: int = 16
    target: str = ""
    cam_layer: str = ""
    position: tuple[int, int] = (-1, -1)
    steps: int = 128
    samples: int = 32
    noise: float = 0.15
    window: int = 0


def names(text: str) -> list[str]:
    """'conv1, conv2' -> ['conv1', 'conv2']"""
    return [name.strip() for name in text.split(",") if name.strip()]
