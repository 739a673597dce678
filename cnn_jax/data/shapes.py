"""Draws sets of plain shapes, so that nothing has to be downloaded.

    shapes_colour        28 x 28 colour, label = the colour, whatever the shape
    shapes_shape         28 x 28 grey, label = the shape
    shapes_both          28 x 28 colour, label = 3 * colour + shape, three of each
    shapes_segmentation  32 x 32 colour, one to three shapes, label = a class per pixel
    shapes_multilabel    32 x 32 colour, one to four shapes, label = 0 or 1 per shape

Shapes are filled and drawn on black, without noise. The first three are the sets of the
tutorial microsoft/ai-edu, step 8, chapter 18, with its counts and its distribution of
every coordinate. The pictures differ, since the tutorial fixes no seed. Here
`data.seed` decides everything: RandomState draws the same numbers in every NumPy.

The published triangles have a fault, which `data.biased_triangles` reproduces: in
shapes_colour the colour also decides which way a triangle points, and in shapes_shape
one of the four ways never occurs.
"""

from collections.abc import Callable, Iterable

import numpy as np
import PIL
from ml_collections import ConfigDict
from PIL import Image, ImageDraw

from cnn_jax import tasks
from cnn_jax.data.examples import Examples, Stored
from cnn_jax.tasks import Task

SIDE, LARGE_SIDE = 28, 32  # pixels
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255),
           "yellow": (255, 255, 0), "cyan": (0, 255, 255), "pink": (255, 0, 255)}
SHAPES = ("circle", "rectangle", "triangle", "diamond", "line")
# Training and test images of each group (a shape, or a colour and a shape).
COUNTS, COUNTS_BOTH, COUNTS_LARGE = (1000, 200), (600, 100), (5000, 1000)
LINE_WIDTH = 2
# The corner that a triangle leaves out: 0 upper left, 1 upper right, 2 lower left,
# 3 lower right. In the published set the colour decides it; 0 for other colours.
_LEFT_OUT = {"red": 3, "green": 2, "blue": 1}

Points = list[int]  # x, y, x, y, ... in pixels
Fill = int | tuple[int, int, int]
Random = np.random.RandomState


def colour(config: ConfigDict) -> Stored:
    """Draws six colours on five shapes: 5,000 + 1,000 images."""
    random, names = Random(config.seed), tuple(COLOURS)

    def draw_example(group: int) -> tuple[np.ndarray, int]:
        label = _integer(random, 0, 6)
        left_out = (_LEFT_OUT.get(names[label], 0) if config.biased_triangles
                    else _integer(random, 0, 4))
        return _picture(points(SHAPES[group], random, left_out), SHAPES[group],
                        COLOURS[names[label]]), label

    return _stored(random, draw_example, len(SHAPES), COUNTS, names, config)


def shape(config: ConfigDict) -> Stored:
    """Draws five shapes in white: 5,000 + 1,000 images."""
    random = Random(config.seed)

    def draw_example(group: int) -> tuple[np.ndarray, int]:
        left_out = _integer(random, 1 if config.biased_triangles else 0, 4)
        return _picture(points(SHAPES[group], random, left_out), SHAPES[group]), group

    return _stored(random, draw_example, len(SHAPES), COUNTS, SHAPES, config)


def both(config: ConfigDict) -> Stored:
    """Draws red, green and blue circles, rectangles, triangles: 5,400 + 900 images."""
    random = Random(config.seed)
    kinds = [(name, kind) for name in list(COLOURS)[:3] for kind in SHAPES[:3]]

    def draw_example(group: int) -> tuple[np.ndarray, int]:
        name, kind = kinds[group]
        outline = points(kind, random, _integer(random, 0, 4))
        return _picture(outline, kind, COLOURS[name]), group

    return _stored(random, draw_example, len(kinds), COUNTS_BOTH,
                   tuple(f"{name} {kind}" for name, kind in kinds), config)


def segmentation(config: ConfigDict) -> Stored:
    """Draws one to three shapes per image, with masks: 5,000 + 1,000 images.

    The colours of an image differ. A shape fills a box with sides of 8 to 16 pixels
    anywhere in the image: a triangle has three of its corners, a line is one of its
    diagonals. Later shapes cover earlier ones. Labels are uint8 [N, 32, 32]:
    0 background, 1 circle, 2 rectangle, ...
    """
    random = Random(config.seed)
    fills = list(COLOURS.values())

    def draw_example(group: int) -> tuple[np.ndarray, np.ndarray]:
        image = Image.new("RGB", (LARGE_SIDE,) * 2)
        mask = Image.new("L", image.size)
        for fill in random.permutation(len(fills))[:_integer(random, 1, 4)]:
            kind = _integer(random, 0, len(SHAPES))
            outline = boxed_points(SHAPES[kind], random)
            draw(image, SHAPES[kind], outline, fills[fill])
            draw(mask, SHAPES[kind], outline, kind + 1)
        return np.asarray(image), np.asarray(mask)

    return _stored(random, draw_example, 1, COUNTS_LARGE, ("background", *SHAPES),
                   config, tasks.segment.TASK)


def multilabel(config: ConfigDict) -> Stored:
    """Draws one to four different shapes per image: 5,000 + 1,000 images.

    The colours of an image differ too. Each shape has a quarter of the image to itself
    and fills a box with sides of 8 to 16 pixels there, so none is covered. Labels are
    uint8 [N, 5], 1 for each shape that is in the image.
    """
    random = Random(config.seed)
    fills = list(COLOURS.values())

    def draw_example(group: int) -> tuple[np.ndarray, np.ndarray]:
        image = Image.new("RGB", (LARGE_SIDE,) * 2)
        label = np.zeros(len(SHAPES), np.uint8)
        count, half = _integer(random, 1, 5), LARGE_SIDE // 2
        for kind, fill, quarter in zip(*(random.permutation(n)[:count]
                                         for n in (len(SHAPES), len(fills), 4))):
            tile = Image.new("RGB", (half, half))
            draw(tile, SHAPES[kind], boxed_points(SHAPES[kind], random, half),
                 fills[fill])
            image.paste(tile, (half * int(quarter % 2), half * int(quarter // 2)))
            label[kind] = 1
        return np.asarray(image), label

    return _stored(random, draw_example, 1, COUNTS_LARGE, SHAPES, config,
                   tasks.multilabel.TASK)


def points(kind: str, random: Random, left_out: int) -> Points:
    """Draws the outline of a shape in 28 x 28 pixels, across the middle (14, 14).

    circle, rectangle: the upper left and lower right points of a box; a circle is
        therefore an ellipse.
    diamond: the midpoints of a box's sides.
    line: two points anywhere.
    triangle: a point in each quarter of the picture except number `left_out`.
    """
    def low() -> int:
        return _integer(random, 0, SIDE // 2)

    def high() -> int:
        return _integer(random, SIDE // 2, SIDE)

    if kind == "line":
        return [_integer(random, 0, SIDE) for _ in range(4)]
    if kind == "triangle":
        corners = [(low(), low()), (high(), low()), (low(), high()), (high(), high())]
        return _flat(corners[:left_out] + corners[left_out + 1:])
    box = [low(), low(), high(), high()]
    return _diamond(box) if kind == "diamond" else box


def boxed_points(kind: str, random: Random, side: int = LARGE_SIDE) -> Points:
    """Draws the outline of a shape that fills a box with sides of 8 to 16 pixels.

    The box lies within side x side pixels.
    """
    width, height = _integer(random, 8, 17), _integer(random, 8, 17)
    x = _integer(random, 0, side - width + 1)
    y = _integer(random, 0, side - height + 1)
    left_out = _integer(random, 0, 4)
    box = [x, y, x + width - 1, y + height - 1]
    corners = [(box[0], box[1]), (box[2], box[1]), (box[0], box[3]), (box[2], box[3])]
    if kind == "line":
        return _flat(corners[1:3] if left_out % 2 else corners[::3])
    if kind == "triangle":
        return _flat(corners[:left_out] + corners[left_out + 1:])
    return _diamond(box) if kind == "diamond" else box


def draw(image: Image.Image, kind: str, outline: Points, fill: Fill) -> None:
    """Draws one filled shape into the image."""
    pen = ImageDraw.Draw(image)
    if kind == "line":
        pen.line(outline, fill, LINE_WIDTH)
    else:
        {"circle": pen.ellipse, "rectangle": pen.rectangle}.get(kind, pen.polygon)(
            outline, fill, fill)


def _picture(outline: Points, kind: str, fill: Fill = 255) -> np.ndarray:
    """Draws one shape on black: uint8 [28, 28] if it is white, else [28, 28, 3]."""
    image = Image.new("L" if fill == 255 else "RGB", (SIDE, SIDE))
    draw(image, kind, outline, fill)
    return np.asarray(image)


def _integer(random: Random, low: int, high: int) -> int:
    """Draws low <= n < high. The dtype is fixed, since the draws depend on it."""
    return int(random.randint(low, high, dtype=np.int64))


def _flat(pairs: Iterable[tuple[int, int]]) -> Points:
    return [n for pair in pairs for n in pair]


def _diamond(box: Points) -> Points:
    """Connects the midpoints of the box's sides, rounded down as Pillow does too."""
    left, top, right, bottom = box
    x, y = (left + right) // 2, (top + bottom) // 2
    return [x, top, right, y, x, bottom, left, y]


def _stored(random: Random,
            draw_example: Callable[[int], tuple[np.ndarray, int | np.ndarray]],
            groups: int, counts: tuple[int, int], class_names: tuple[str, ...],
            config: ConfigDict, task: Task = tasks.classify.TASK) -> Stored:
    """Draws the training and the test split, group after group, and shuffles each."""
    splits = {}
    for name, count in zip(("train", "test"), counts):
        pairs = [draw_example(g) for g in range(groups) for _ in range(count)]
        order = random.permutation(groups * count)
        images = np.stack([image for image, _ in pairs])
        images = images.reshape(*images.shape[:3], -1)  # grey images get a channel
        labels = np.array([label for _, label in pairs], task.label_dtype)
        splits[name] = Examples(images[order], labels[order])
    origin = f"drawn with Pillow {PIL.__version__}, data.seed {config.seed}"
    if config.biased_triangles:
        origin += ", triangles biased as published"
    return Stored(splits, class_names, origin)
