"""Draws a small set in ImageNet's layout, to try a recipe without ImageNet.

    python experiments/fake_imagenet.py OUT [--classes 10] [--images 50]

Writes OUT/train/CLASS/*.JPEG and a fifth as many OUT/val/CLASS/*.JPEG. The pictures
have different sizes and noise; each class has another colour.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax.errors import InputError  # noqa: E402
from experiments.measuring import make_out, run_script  # noqa: E402


def draw(out: Path, classes: int, images: int) -> None:
    """Draws `images` training pictures of each class."""
    rng = np.random.default_rng(0)
    for number in range(classes):
        colour = rng.integers(40, 216, 3)
        for split, count in (("train", images), ("val", max(1, images // 5))):
            folder = out / split / f"n{number + 1:08d}"
            folder.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                height, width = rng.integers(200, 501, 2)
                noise = rng.integers(-40, 40, (height // 8 + 1, width // 8 + 1, 3))
                pixels = np.uint8(np.clip(colour + noise, 0, 255))
                picture = Image.fromarray(pixels).resize((int(width), int(height)))
                picture.save(folder / f"{folder.name}_{index}.JPEG", "JPEG")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--images", type=int, default=50, help="of each class")
    flags = parser.parse_args(argv)
    if flags.classes < 2 or flags.images < 2:
        raise InputError("give 2 or more --classes and --images")
    make_out(flags.out)
    draw(flags.out, flags.classes, flags.images)


if __name__ == "__main__":
    run_script(main)
