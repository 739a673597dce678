"""A network that was trained elsewhere is used as a run without epochs."""

import json

import jax
import numpy as np
import pytest
from PIL import Image
from tests.support.inspected_runs import inspect_settings
from tests.support.tiny_runs import tiny, untrained

from cnn_jax import training
from cnn_jax.data.scaling import from_mean_std
from cnn_jax.errors import InputError
from cnn_jax.files import read_json
from cnn_jax.inspection import predict as predictions
from cnn_jax.inspection import run as inspection
from cnn_jax.inspection.pages.report import write_report
from cnn_jax.serve.app import create_app
from cnn_jax.workdir import trained
from cnn_jax.workdir.imported import is_imported, write_imported

pytestmark = pytest.mark.usefixtures("compiled_once")
NAMES = ("cat", "dog", "ape")


@pytest.fixture(scope="module")
def network():
    """Makes an untrained network with ImageNet's preprocessing of 12 pixels."""
    made = untrained(tiny(), (12, 12, 3), NAMES)
    info = made.info.__replace__(
        counts=dict.fromkeys(("train", "validation", "test"), 0), shorter_side=14,
        interpolation="bicubic",
        scaling=from_mean_std((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
    return made._replace(info=info)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("imported") / "net"
    write_imported(path, network)
    return path


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "wide.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_it_comes_back(folder, network):
    assert is_imported(folder)
    loaded = trained.load(folder)
    assert (loaded.info, loaded.step, loaded.history) == (network.info, 0, [])
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, network.variables)


def test_it_predicts_with_its_own_preprocessing(folder, network, picture):
    [prediction] = predictions.predict(folder, [picture], top=2)
    with Image.open(picture) as image:
        cut = np.asarray(image.resize((28, 14), Image.Resampling.BICUBIC))[1:13, 8:20]
    np.testing.assert_array_equal(prediction.pixels, cut)
    inputs = (cut / 255 - [0.5, 0.4, 0.3]) / [0.2, 0.25, 0.3]
    logits = network.network.apply(network.variables, inputs[None].astype(np.float32),
                                   train=False)
    np.testing.assert_allclose(prediction.scores, np.sort(jax.nn.softmax(logits)[0])[
        :0:-1], rtol=1e-4)


def test_its_predictions_are_explained_only_for_given_images(folder):
    with pytest.raises(InputError, match="--images"):
        inspection.load_run(folder)


@pytest.mark.slow
def test_every_picture_without_data_is_drawn(folder, picture):
    settings = trained.load(folder).config.copy_and_resolve_references()
    with settings.unlocked():
        settings.inspect = inspect_settings(images=1, steps=2, samples=2, max_filters=2)
    paths = inspection.draw(folder, settings, [str(picture)], quiet=True)
    drawn = {path.stem for path in paths}
    assert {"saliency", "kernels", "weights", "maximized_head"} <= drawn
    assert not {"confusion", "embedding", "learning_curves"} & drawn
    page = write_report(folder).read_text()
    assert "Grad-CAM" in page and "No epoch has ended" not in page


def test_integrated_gradients_start_from_black_in_each_channel(folder, picture):
    run = inspection.load_run(folder, None, [str(picture)])
    low, high = run.input_range
    np.testing.assert_allclose(low, -np.divide([0.5, 0.4, 0.3], [0.2, 0.25, 0.3]),
                               rtol=1e-5)
    np.testing.assert_allclose(high - low, np.divide(1, [0.2, 0.25, 0.3]), rtol=1e-5)


def test_the_page_shows_it(folder):
    page = create_app(trained.load(folder), "net", "127.0.0.1").test_client()
    about = json.loads(page.get("/about", headers={"Host": "127.0.0.1"}).data)
    assert about["classes"] == list(NAMES)


def test_a_run_starts_from_it(folder, network, tmp_path, monkeypatch):
    monkeypatch.setattr("cnn_jax.training.train.draw", lambda *_: None)
    config = tiny({"data.channels": 3, "data.image_size": (12, 12), "epochs": 1,
                   "model.init_from": str(folder), "model.freeze": "group1"})
    training.run(config, tmp_path / "run", quiet=True)
    tuned = trained.load(tmp_path / "run").variables["params"]
    for layer, tree in tuned.items():
        same = jax.tree.map(np.array_equal, tree, network.variables["params"][layer]) \
            if layer != "head" else False
        assert np.all(jax.tree.leaves(same)) == layer.startswith("group1"), layer


def test_another_config_in_the_folder_is_refused(folder, network):
    with network.config.unlocked():
        changed = network.config.copy_and_resolve_references()
    changed.seed = 5
    with pytest.raises(InputError, match="seed: 0 -> 5"):
        write_imported(folder, network._replace(config=changed))
    assert read_json(folder / "config.json", dict, "")["seed"] == 0
