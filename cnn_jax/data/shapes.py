"""Pictures of plain shapes, drawn when they are asked for: nothing is downloaded.

    shapes_colour        28 x 28 colour, label = the colour, whatever the shape
    shapes_shape         28 x 28 grey, label = the shape
    shapes_both          28 x 28 colour, label = 3 * colour + shape, three of each
    shapes_segmentation  32 x 32 colour, one to three shapes, label = a class per pixel
    shapes_multilabel    32 x 32 colour, one to four different shapes, label = which

The first three are those of the tutorial microsoft/ai-edu, step 8, chapter 18, with the
same counts and the same distribution of every coordinate (the source fixes no seed, so
not the same pictures). Filled shapes on black, no noise. `data.seed` decides all of it:
RandomState's numbers are the same on every platform and in every NumPy.

The published triangles have a fault in two sets, here only with
`data.biased_triangles`: in shapes_colour the colour also decides which way the triangle
points, in shapes_shape one of the four ways never occurs.
"""

from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image, ImageDraw

from cnn_jax.data.examples import Examples, Stored

SIDE, LARGE_SIDE = 28, 32  # pixels
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255),
           "yellow": (255, 255, 0), "cyan": (0, 255, 255), "pink": (255, 0, 255)}
SHAPES = ("circle", "rectangle", "triangle", "diamond", "line")
# Per group (a shape, or a colour and a shape): training and test images.
COUNTS, COUNTS_BOTH, COUNTS_LARGE = (1000, 200), (600, 100), (5000, 1000)
LINE_WIDTH = 2
# Of the four corners upper left, upper right, lower left, lower right, the one that the
# published triangle of each colour leaves out; the others leave out the upper left.
_LEFT_OUT = {"red": 3, "green": 2, "blue": 1}

Points = list[int]  # x, y, x, y, ... in pixels


def colour(config) -> Stored:
    """Six colours on five shapes: 5,000 + 1,000 images."""
    random, names = np.random.RandomState(config.seed), tuple(COLOURS)

    def one(group):
        label = _integer(random, 0, 6)
        left_out = (_LEFT_OUT.get(names[label], 0) if config.biased_triangles
                    else _integer(random, 0, 4))
        return _picture(points(SHAPES[group], random, left_out), SHAPES[group],
                        COLOURS[names[label]]), label

    return _stored(random, one, len(SHAPES), COUNTS, names, config)


def shape(config) -> Stored:
    """Five shapes in white: 5,000 + 1,000 images."""
    random = np.random.RandomState(config.seed)

    def one(group):
        left_out = _integer(random, 1 if config.biased_triangles else 0, 4)
        return _picture(points(SHAPES[group], random, left_out), SHAPES[group]), group

    return _stored(random, one, len(SHAPES), COUNTS, SHAPES, config)


def both(config) -> Stored:
    """Red, green and blue circles, rectangles and triangles: 5,400 + 900 images."""
    random = np.random.RandomState(config.seed)
    kinds = [(name, kind) for name in list(COLOURS)[:3] for kind in SHAPES[:3]]

    def one(group):
        name, kind = kinds[group]
        outline = points(kind, random, _integer(random, 0, 4))
        return _picture(outline, kind, COLOURS[name]), group

    return _stored(random, one, len(kinds), COUNTS_BOTH,
                   tuple(f"{name} {kind}" for name, kind in kinds), config)


def segmentation(config) -> Stored:
    """One to three shapes of different colours: 5,000 + 1,000 images with masks.

    A shape fills a box of 8 to 16 pixels a side anywhere in the image: a triangle has
    three of its corners, a line is one of its diagonals. Later shapes cover earlier
    ones. Labels are uint8 [N, 32, 32]: 0 background, 1 circle, 2 rectangle, ...
    """
    random = np.random.RandomState(config.seed)
    fills = list(COLOURS.values())

    def one(group):
        image = Image.new("RGB", (LARGE_SIDE,) * 2)
        mask = Image.new("L", image.size)
        for fill in random.permutation(len(fills))[:_integer(random, 1, 4)]:
            kind = _integer(random, 0, len(SHAPES))
            outline = boxed_points(SHAPES[kind], random)
            draw(image, SHAPES[kind], outline, fills[fill])
            draw(mask, SHAPES[kind], outline, kind + 1)
        return np.asarray(image), np.asarray(mask)

    return _stored(random, one, 1, COUNTS_LARGE, ("background", *SHAPES), config)


def multilabel(config) -> Stored:
    """One to four different shapes of different colours: 5,000 + 1,000 images.

    Each shape has a quarter of the image to itself and fills a box of 8 to 16 pixels a
    side there, so none is covered. Labels are uint8 [N, 5], 1 for each shape that is
    in the image.
    """
    random = np.random.RandomState(config.seed)
    fills = list(COLOURS.values())

    def one(group):
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

    return _stored(random, one, 1, COUNTS_LARGE, SHAPES, config)


def points(kind: str, random: np.random.RandomState, left_out: int) -> Points:
    """What is drawn in a picture of 28 x 28: coordinates below 14 and from 14 on.

    circle, rectangle: upper left and lower right point of the box (so ellipses).
    diamond: the midpoints of the box's sides. line: two points anywhere.
    triangle: a point in each quarter of the picture but one, number `left_out`.
    """
    def low():
        return _integer(random, 0, SIDE // 2)

    def high():
        return _integer(random, SIDE // 2, SIDE)

    if kind == "line":
        return [_integer(random, 0, SIDE) for _ in range(4)]
    if kind == "triangle":
        corners = [(low(), low()), (high(), low()), (low(), high()), (high(), high())]
        return _flat(corners[:left_out] + corners[left_out + 1:])
    box = [low(), low(), high(), high()]
    return _diamond(box) if kind == "diamond" else box


def boxed_points(kind: str, random: np.random.RandomState,
                 side: int = LARGE_SIDE) -> Points:
    """Draws a shape that fills a box of 8 to 16 pixels a side, within side x side."""
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


def draw(image: Image.Image, kind: str, outline: Points, fill) -> None:
    """Draws one filled shape into the image."""
    pen = ImageDraw.Draw(image)
    if kind == "line":
        pen.line(outline, fill, LINE_WIDTH)
    else:
        {"circle": pen.ellipse, "rectangle": pen.rectangle}.get(kind, pen.polygon)(
            outline, fill, fill)


def _picture(outline: Points, kind: str, fill=255) -> np.ndarray:
    image = Image.new("L" if fill == 255 else "RGB", (SIDE, SIDE))
    draw(image, kind, outline, fill)
    return np.asarray(image)


def _integer(random: np.random.RandomState, low: int, high: int) -> int:
    """low <= n < high; the type is named, since the stream depends on it."""
    return int(random.randint(low, high, dtype=np.int64))


def _flat(pairs) -> Points:
    return [n for pair in pairs for n in pair]


def _diamond(box: Points) -> Points:
    """Whole pixels: Pillow, too, drops the half of a midpoint."""
    left, top, right, bottom = box
    x, y = (left + right) // 2, (top + bottom) // 2
    return [x, top, right, y, x, bottom, left, y]


def _stored(random, one: Callable, groups: int, counts: tuple[int, int],
            class_names: tuple[str, ...], config) -> Stored:
    """Draws the parts group after group, then shuffles each."""
    parts = {}
    for part, count in zip(("train", "test"), counts):
        images, labels = zip(*(one(g) for g in range(groups) for _ in range(count)))
        order = random.permutation(groups * count)
        images = np.stack(images).reshape(len(order), *images[0].shape[:2], -1)
        labels = np.array(labels, np.uint8 if np.ndim(labels[0]) else np.int32)
        parts[part] = Examples(images[order], labels[order])
    origin = f"drawn with Pillow {PIL.__version__}, data.seed {config.seed}"
    if config.biased_triangles:
        origin += ", triangles biased as published"
    return Stored(parts, class_names, origin)
