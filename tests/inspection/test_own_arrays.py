"""A program trains, evaluates and inspects a run on its own arrays."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cnn_jax.errors import InputError
from cnn_jax.inspection.predict import predict_arrays
from cnn_jax.inspection.run import draw
from cnn_jax.training.evaluate_run import evaluate_run

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "your_code.md"


@pytest.fixture(scope="module")
def example(tmp_path_factory, compiled_once, undrawn):
    """Runs the example of the page in a new folder; returns its variables."""
    text = PAGE.read_text().split("## A run from Python")[1].split("\n## ")[0]
    code, = re.findall(r"```python\n(.*?)```", text, re.S)
    folder = tmp_path_factory.mktemp("example")
    values = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Image.fromarray(np.full((20, 30), 150, np.uint8)).save("photo.png")
        exec(code, values)
    return values | {"workdir": folder / values["workdir"]}


def test_every_line_of_the_page_runs(example):
    workdir, images = example["workdir"], example["images"]
    assert example["metrics"]["test"]["accuracy"] == example["results"].test_accuracy
    names = {path.name for path in (workdir / "pictures").glob("*.png")}
    assert {"highest_loss.png"} < names
    assert (workdir / "predictions_test.csv").exists()
    logits = np.asarray(example["logits"])
    np.testing.assert_array_equal(example["classes"], logits.argmax(-1))
    np.testing.assert_allclose(example["probabilities"].sum(-1), 1, rtol=1e-5)
    scores, classes = predict_arrays(workdir, images)  # less than one batch of 64
    np.testing.assert_allclose(scores[:5], example["probabilities"], atol=1e-6)
    wide = np.repeat(images[..., 0], 2, 2)  # another size, converted as in training
    np.testing.assert_allclose(predict_arrays(workdir, wide)[0], scores, atol=0.02)
    many, _ = predict_arrays(workdir, np.concatenate([images, images]))  # two batches
    np.testing.assert_allclose(many, np.concatenate([scores, scores]), atol=1e-6)


def test_other_arrays_are_refused(example):
    workdir, images, labels = map(example.get, ("workdir", "images", "labels"))
    other = (255 - images, labels)
    with pytest.raises(InputError, match="sha256"):
        evaluate_run(workdir, quiet=True, data=other)
    with pytest.raises(InputError, match="sha256"):
        draw(workdir, quiet=True, data=other)
    with pytest.raises(InputError, match="your_code.md"):
        evaluate_run(workdir, quiet=True)
    for wrong in (images / 255, images[0], images[0, ..., 0],
                  np.repeat(images, 2, -1), images[:0]):
        with pytest.raises(InputError, match="images are"):
            predict_arrays(workdir, wrong)
