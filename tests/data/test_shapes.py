"""Generated shapes: their counts, geometry, distributions and checksums."""

import functools
import hashlib

import numpy as np
import pytest
from tests.support.data_samples import data_config
from PIL import Image

from cnn_jax import data
from cnn_jax.data import shapes

# SHA-256 of all images and labels, train then test, for data.seed 0.
SHA256 = {
    "shapes_colour":
        "a36e8cab825f8be8fda38c43afc96c382f8472d39b4177d7d0c866b7310c97fe",
    "shapes_shape":
        "02946136589cc38f095c454b2adb76dc07199c55a02c6f59e8076df819a6124c",
    "shapes_both":
        "d558e9e9ac008b0bad21407532462b72d7b94d154c60ed64eff994797cf50ce3",
    "shapes_segmentation":
        "9c3cc21234ac950f9e1a033e3d91fce7b96e8816433f805e27f80a0e0d4876c2",
    "shapes_multilabel":
        "c414cb4fff4c824def78796c4fe7ee50f1720fea394a2964990fb9a6cfb8268e"}
NAMES = tuple(SHA256)
SOURCES = dict(data.SOURCES)


def config(name, **changes):
    return data_config(name=name, **(dict(split="first") | changes))


def draw_set(name, **changes):
    return SOURCES[name].read(config(name, **changes))


@functools.cache
def stored(name):
    """Draws the set of data.seed 0 once for all tests."""
    return draw_set(name)


@pytest.fixture
def drawn_once(monkeypatch):
    """Makes `data.load` return the sets of `stored`."""
    for name in NAMES:
        monkeypatch.setitem(data.SOURCES, name, data.SOURCES[name]._replace(
            read=lambda config: stored(config.name)))


def digest(splits) -> str:
    sha256 = hashlib.sha256()
    for examples in (splits["train"], splits["test"]):
        sha256.update(examples.images.tobytes() + examples.labels.tobytes())
    return sha256.hexdigest()


def drawn(kind, outline, side=28):
    image = Image.new("L", (side, side))
    shapes.draw(image, kind, outline, 255)
    return np.asarray(image) > 0


@pytest.mark.parametrize("name,counts,shape,classes", [
    ("shapes_colour", (4500, 500, 1000), (28, 28, 3), 6),
    ("shapes_shape", (4500, 500, 1000), (28, 28, 1), 5),
    ("shapes_both", (4860, 540, 900), (28, 28, 3), 9),
    ("shapes_segmentation", (4500, 500, 1000), (32, 32, 3), 6),
    ("shapes_multilabel", (4500, 500, 1000), (32, 32, 3), 5)])
@pytest.mark.usefixtures("drawn_once")
def test_published_counts(name, counts, shape, classes):
    loaded = data.load(config(name), 0)
    splits = loaded.train, loaded.validation, loaded.test
    assert tuple(len(split.labels) for split in splits) == counts
    assert loaded.train.images.shape[1:] == shape and len(loaded.class_names) == classes
    assert loaded.train.images.dtype == np.uint8
    assert "drawn with Pillow" in loaded.source and "data.seed 0" in loaded.source
    # Validation is the first tenth of the shuffled training images.
    whole = stored(name).splits["train"]
    np.testing.assert_array_equal(loaded.validation.images, whole.images[:counts[1]])
    np.testing.assert_array_equal(loaded.train.labels, whole.labels[counts[1]:])


@pytest.mark.parametrize("name,train,test", [
    ("shapes_shape", 1000, 200), ("shapes_both", 600, 100)])
def test_classes_are_exactly_balanced(name, train, test):
    splits = stored(name).splits
    assert set(np.bincount(splits["train"].labels)) == {train}
    assert set(np.bincount(splits["test"].labels)) == {test}


def test_colours_are_balanced_on_average_and_labels_name_them():
    set_ = stored("shapes_colour")
    train = set_.splits["train"]
    counts = np.bincount(train.labels, minlength=6)
    assert abs(counts - 5000 / 6).max() < 5 * np.sqrt(5000 * 5 / 36)
    for image, label in zip(train.images, train.labels):
        assert tuple(image.max((0, 1))) == shapes.COLOURS[set_.class_names[label]]
    assert set(np.unique(train.images)) == {0, 255}


def test_labels_of_both_are_three_times_the_colour_plus_the_shape():
    set_ = stored("shapes_both")
    for image, label in zip(set_.splits["test"].images, set_.splits["test"].labels):
        name, kind = set_.class_names[label].split()
        assert label == 3 * list(shapes.COLOURS).index(name) + shapes.SHAPES.index(kind)
        assert tuple(image.max((0, 1))) == shapes.COLOURS[name]


def test_multilabel_images_hold_one_to_four_shapes_each_in_a_quarter_of_its_own():
    train = stored("shapes_multilabel").splits["train"]
    assert train.labels.dtype == np.uint8 and train.labels.shape == (5000, 5)
    count = train.labels.sum(1)
    assert set(count) == {1, 2, 3, 4}
    # All numbers of shapes, and all shapes, occur equally often.
    assert abs(np.bincount(count)[1:] - 1250).max() < 5 * np.sqrt(5000 * 3 / 16)
    assert abs(train.labels.mean(0) - 0.5).max() < 0.04
    quarters = train.images.reshape(5000, 2, 16, 2, 16, 3).any(axis=(2, 4, 5))
    np.testing.assert_array_equal(quarters.sum((1, 2)), count)
    colours = [len(np.unique(image.reshape(-1, 3), axis=0)) - 1
               for image in train.images[:200]]
    np.testing.assert_array_equal(colours, count[:200])


def test_shapes_by_hand():
    """Each shape covers pixels of a small grid that were worked out by hand."""
    for kind, outline, rows in (
            ("rectangle", [1, 2, 3, 3], ["......", "......", ".###..", ".###..",
                                         "......", "......"]),
            ("circle", [0, 1, 4, 5], ["......", ".###..", "#####.", "#####.", "#####.",
                                      ".###.."]),
            ("triangle", [0, 0, 4, 0, 0, 4], ["#####.", "####..", "###...", "##....",
                                              "#.....", "......"]),
            ("diamond", [2, 0, 4, 2, 2, 4, 0, 2], ["..#...", ".###..", "#####.",
                                                   ".###..", "..#...", "......"])):
        want = np.array([[c == "#" for c in row] for row in rows])
        np.testing.assert_array_equal(drawn(kind, outline, 6), want, err_msg=kind)


def test_a_line_is_two_pixels_wide():
    level, upright = drawn("line", [3, 10, 20, 10]), drawn("line", [10, 3, 10, 20])
    assert level.any(1).sum() == upright.any(0).sum() == 2
    assert level.any(0).sum() == upright.any(1).sum() == 18


def test_corners_are_drawn_where_they_should():
    random = np.random.RandomState(0)
    drawn = {kind: np.array([shapes.points(kind, random, n % 4) for n in range(4000)])
             for kind in shapes.SHAPES}
    for kind in ("circle", "rectangle"):
        lows, highs = drawn[kind][:, :2], drawn[kind][:, 2:]
        assert (lows.min(), lows.max(), highs.min(), highs.max()) == (0, 13, 14, 27)
        # Four independent uniform numbers give ellipses rather than circles.
        assert abs(np.corrcoef(drawn[kind].T) - np.eye(4)).max() < 0.08
        assert np.bincount(lows.ravel()).min() > 8000 / 14 - 5 * np.sqrt(8000 / 14)
    assert (drawn["line"].min(), drawn["line"].max()) == (0, 27)
    x, top, right, y, x2, bottom, left, y2 = drawn["diamond"].T
    assert (x == x2).all() and (y == y2).all()
    assert (x == (left + right) // 2).all() and (y == (top + bottom) // 2).all()
    quarters = (drawn["triangle"].reshape(-1, 3, 2) >= 14) @ [1, 2]  # right 1, lower 2
    for n, triangle in enumerate(quarters):
        assert triangle.tolist() == [k for k in range(4) if k != n % 4]


@pytest.mark.parametrize("biased", [False, True])
def test_triangles_of_the_colours(biased, monkeypatch):
    """The published colour decides the direction; in ours all are equally likely."""
    table = recorded(monkeypatch, "shapes_colour", biased)
    if biased:
        want = {"red": 3, "green": 2, "blue": 1}
        for colour, counts in table.items():
            assert np.flatnonzero(counts).tolist() == [want.get(colour, 0)], table
    else:
        for colour, counts in table.items():
            assert abs(counts / counts.sum() - 0.25).max() < 0.15, table


@pytest.mark.parametrize("biased", [False, True])
def test_triangles_of_the_shapes(biased, monkeypatch):
    """Every triangle of the published set has a corner in the upper left quarter."""
    (counts,) = recorded(monkeypatch, "shapes_shape", biased).values()
    want = np.array([0, 1, 1, 1]) / 3 if biased else np.full(4, 1 / 4)
    assert abs(counts / 1200 - want).max() < 5 * np.sqrt(0.25 / 1200)
    assert not biased or counts[0] == 0


def recorded(monkeypatch, name, biased) -> dict[str, np.ndarray]:
    """Counts, for each colour, how often a triangle left out each quarter."""
    table, names = {}, {fill: name for name, fill in shapes.COLOURS.items()}

    def draw(image, kind, outline, fill):
        if kind == "triangle":
            quarters = (np.reshape(outline, (3, 2)) >= 14) @ [1, 2]
            counts = table.setdefault(names.get(fill, "white"), np.zeros(4, int))
            counts[({0, 1, 2, 3} - set(quarters.tolist())).pop()] += 1

    monkeypatch.setattr(shapes, "draw", draw)
    origin = draw_set(name, biased_triangles=biased).origin
    assert ("biased" in origin) == biased
    return table


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_decides_the_whole_set(name, monkeypatch):
    for counts in ("COUNTS", "COUNTS_BOTH", "COUNTS_LARGE"):
        monkeypatch.setattr(shapes, counts, (40, 10))
    first, again, other = (digest(draw_set(name, seed=seed).splits)
                           for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize("name", NAMES)
def test_checksums_are_the_same_everywhere(name):
    assert digest(stored(name).splits) == SHA256[name]


def test_masks_fit_their_images():
    """Black pixels are background; each colour of an image is one shape."""
    test = stored("shapes_segmentation").splits["test"]
    assert test.labels.shape == (1000, 32, 32) and test.labels.dtype == np.uint8
    np.testing.assert_array_equal(test.images.max(-1) > 0, test.labels > 0)
    counts = np.zeros(4, int)
    for image, mask in zip(test.images, test.labels):
        colours = np.unique(image.reshape(-1, 3), axis=0)
        inside = [np.unique(mask[(image == colour).all(-1)]) for colour in colours]
        assert all(len(labels) == 1 for labels in inside)
        counts[len(colours) - 1] += 1
    assert counts[0] == 0 and counts[1:].min() > 250  # one, two or three, seldom hidden
    pixels = np.bincount(test.labels.ravel(), minlength=6) / test.labels.size
    assert 0.8 < pixels[0] < 0.88 and pixels[1:].min() > 0.01


def test_boxed_shapes_fill_their_boxes():
    random = np.random.RandomState(3)
    for kind in shapes.SHAPES:
        sides = set()
        for _ in range(300):
            mask = drawn(kind, shapes.boxed_points(kind, random), 32)
            sides |= {mask.any(0).sum(), mask.any(1).sum()}
        assert min(sides) >= 8 and max(sides) <= (17 if kind == "line" else 16), kind


@pytest.mark.usefixtures("drawn_once")
def test_grey_is_the_weighted_sum_of_the_channels():
    """Grey is 0.299 R + 0.587 G + 0.114 B of the six colours, rounded."""
    loaded = data.load(config("shapes_colour", channels=1), 0)
    assert loaded.test.images.shape == (1000, 28, 28, 1)
    greys = [int(loaded.test.images[loaded.test.labels == c].max()) for c in range(6)]
    assert greys == [76, 150, 29, 226, 179, 105]
