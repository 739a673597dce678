"""What pictures to draw and how: the `inspect` part of a config, as a value."""

from typing import NamedTuple


class Settings(NamedTuple):
    """The fields are explained in cnn_jax/config/fields.py, which has the same
    defaults.

    They change nothing of a run.
    """

    only: str | None = None
    images: int = 8
    layers: str | None = None
    filters: str | None = None
    max_filters: int = 16
    target: str | None = None
    cam_layer: str | None = None
    position: tuple[int, int] | None = None
    steps: int = 128
    samples: int = 32
    noise: float = 0.15
    window: int | None = None


def names(text: str | None) -> list[str]:
    """'conv1, conv2' -> ['conv1', 'conv2'], None -> []"""
    return [name.strip() for name in (text or "").split(",") if name.strip()]
