"""data.name=MODULE:FUNCTION reads a set by a function of the user's module."""

import sys
import textwrap

import numpy as np
import pytest
from PIL import Image
from tests.support.pages import shown_file
from tests.support.tiny_runs import tiny

from cnn_jax import data, training
from cnn_jax.config import fingerprint
from cnn_jax.data.info import describe
from cnn_jax.errors import InputError
from cnn_jax.pack import command

FAULTS = textwrap.dedent("""
    import numpy as np


    class Split:
        def __init__(self, labels, content=np.zeros((4, 4, 1), np.uint8), label=None):
            self.labels, self.content, self.label = labels, content, label

        def read(self, i):
            if self.content is None:
                open("/nowhere/7.jpg")
            return self.content, self.labels[i] if self.label is None else self.label


    LABELS = np.array([0, 1] * 10)
    MADE = {
        "no_train": {"test": Split(LABELS)},
        "few_names": {"train": Split(LABELS), "class_names": ["cat"]},
        "negative": {"train": Split(LABELS - 1)},
        "fractions": {"train": Split(LABELS / 3)},
        "missing": {"train": Split(LABELS, None)},
        "text": {"train": Split(LABELS, "picture")},
        "other_label": {"train": Split(LABELS, label=7)},
        "numbers": {"train": Split(LABELS[:, None])},
        "arrays": (np.zeros((20, 4, 4), np.uint8), LABELS),
        "masks": (np.zeros((20, 4, 4), np.uint8), np.zeros((20, 4, 4), int)),
    }


    def raises(settings):
        return {}["x"]


    def __getattr__(name):
        if name in MADE:
            return lambda settings: MADE[name]
        raise AttributeError(name)
""")


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Writes the example of the page, with 12 cats and 12 dogs."""
    (tmp_path / "mydata.py").write_text(shown_file("new_data.md", "mydata.py"))
    (tmp_path / "faults_of_data.py").write_text(FAULTS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    random = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos").mkdir(exist_ok=True)
        (tmp_path / "folders" / name).mkdir(parents=True)
        for k in range(10, 22):
            pixels = random.integers(0, 256, (8, 8), np.uint8)
            for path in (f"photos/{name}_{k}.jpg", f"folders/{name}/{k}.jpg"):
                Image.fromarray(pixels).save(tmp_path / path)
    yield tmp_path
    for module in ("mydata", "faults_of_data"):
        sys.modules.pop(module, None)


def pictures_of(dataset):
    """Lists the labels and pixels of all splits."""
    return sorted((int(label), image.tobytes()) for split in dataset[1:4]
                  for image, label in zip(split.images[:], split.labels, strict=True))


def config(name, **changes):
    return tiny({"data.limit": None, "data.name": name} | changes)


@pytest.mark.parametrize("stream", [False, True])
def test_the_example_of_the_page_is_the_set_of_its_folders(photos, stream):
    own, folders = (data.load(config(name, **{
        "data.dir": str(photos / folder), "data.stream": stream}).data, 0)
        for name, folder in (("mydata:cats_and_dogs", "photos"), ("folder", "folders")))
    assert own.class_names == folders.class_names == ("cat", "dog")
    assert pictures_of(own) == pictures_of(folders)  # which are in another order


def test_other_pictures_change_the_fingerprint(photos):
    settings = config("mydata:cats_and_dogs", **{
        "data.dir": str(photos / "photos"), "data.stream": True})
    before = describe(data.load(settings.data, 0), settings.data).sha256
    assert before == describe(data.load(settings.data, 0), settings.data).sha256
    Image.new("L", (8, 8)).save(photos / "photos" / "cat_10.jpg")
    assert before != describe(data.load(settings.data, 0), settings.data).sha256
    one = fingerprint(settings)
    settings.data.dir = str(photos)
    assert fingerprint(settings) != one


@pytest.mark.usefixtures("compiled_once", "undrawn")
def test_it_trains(photos, monkeypatch):
    results = training.run(config("mydata:cats_and_dogs", **{
        "data.dir": str(photos / "photos"), "batch_size": 4, "epochs": 1,
        "data.test": 0.25, "data.validation": 0.25}), photos / "run", quiet=True)
    assert results.dataset == "mydata:cats_and_dogs" and results.test_examples == 6


def test_it_is_packed(photos, capsys):
    command.main(["mydata:cats_and_dogs", str(photos / "out"),
                  f"--dir={photos / 'photos'}"])
    own, packed = (data.load(config(name, **{"data.dir": str(folder)}).data, 0)
                   for name, folder in (("mydata:cats_and_dogs", photos / "photos"),
                                        ("shards", photos / "out")))
    assert own.class_names == packed.class_names
    assert pictures_of(own) == pictures_of(packed)
    capsys.readouterr()
    for faulty, fact in ((["mydata:none", "x"], "none"),
                         (["photos", "x", "--dir=y"], "--dir"),
                         (["faults_of_data:raises", "x"], "KeyError")):
        with pytest.raises(SystemExit, match="2"):
            command.main(faulty)
        assert fact in capsys.readouterr().err.splitlines()[-1]


def test_a_function_may_return_arrays(photos):
    assert len(data.load(config("faults_of_data:arrays").data, 0).train.labels) == 14


@pytest.mark.parametrize("name, fact", [
    ("nowhere_at_all:f", "nowhere_at_all"), ("mydata:none", "none"),
    ("faults_of_data:no_train", "train"), ("faults_of_data:few_names", "2 classes"),
    ("faults_of_data:negative", "label -1"), ("faults_of_data:fractions", "float64"),
    ("faults_of_data:missing", "train image 0"), ("faults_of_data:text", "str"),
    ("faults_of_data:other_label", "7"), ("faults_of_data:numbers", "(20, 1)"),
    ("faults_of_data:masks", "segment")])
def test_values_that_are_not_a_set_are_refused_in_one_line(photos, name, fact):
    with pytest.raises(InputError) as error:
        data.load(config(name).data, 0)
    assert fact in str(error.value) and "\n" not in str(error.value)
