"""An exported network gives the same probabilities, and its error is recorded."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import onnx
import pytest
from tests.support.tiny_runs import tiny, untrained

from cnn_jax import networks
from cnn_jax.console import Reporter
from cnn_jax.data.examples import Examples
from cnn_jax.data.scaling import from_mean_std
from cnn_jax.errors import InputError, RunError
from cnn_jax.interop import export as exports
from cnn_jax.interop.library_files import write_library
from cnn_jax.interop.stablehlo import (probabilities_of, read_stablehlo,
                                          write_stablehlo)

pytestmark = pytest.mark.usefixtures("compiled_once")
PAGE = Path(__file__).parents[2] / "docs" / "howto" / "export.md"
LOADER = """
import sys
sys.modules["cnn_jax"] = None  # an import would fail
import jax, numpy
from jax import export
program = jax.jit(export.deserialize(open(sys.argv[1], "rb").read()).call)
for count in (1, 3):
    pixels = numpy.load(sys.argv[2])[:count]
    numpy.save(f"{sys.argv[2]}.{count}.npy", program(pixels))
"""


@pytest.fixture(scope="module")
def trained():
    """Makes an untrained network of 12 x 10 pixels, scaled by channel."""
    made = untrained(tiny(), (12, 10, 3), ("cat", "dog", "ape"))
    return made._replace(info=made.info.__replace__(
        scaling=from_mean_std((0.5, 0.4, 0.3), (0.2, 0.25, 0.3))))


@pytest.fixture(scope="module")
def examples():
    draw = np.random.default_rng(3)
    return Examples(draw.integers(0, 256, (70, 12, 10, 3), np.uint8),
                    draw.integers(0, 3, 70).astype(np.int32))


def test_a_stablehlo_program_needs_only_jax(trained, examples, tmp_path):
    path = write_stablehlo(tmp_path / "model.stablehlo", trained)
    np.save(tmp_path / "pixels.npy", examples.images)
    subprocess.run([sys.executable, "-c", LOADER, path, tmp_path / "pixels.npy"],
                   check=True, cwd=tmp_path, timeout=300)
    expected = exports.program_of(trained)(examples.images[:3])
    for count in (1, 3):
        actual = np.load(tmp_path / f"pixels.npy.{count}.npy")
        np.testing.assert_allclose(actual, expected[:count], atol=1e-6)


@pytest.mark.parametrize("dtype, roots", [("float32", False), ("bfloat16", True)])
def test_a_stablehlo_program_has_its_batch_norm_folded(dtype, roots):
    """The square root of batch norm is in the program only if it is not folded."""
    trained = untrained(tiny({"model.name": "baseline", "model.bn": "torch",
                              "dtype": dtype}), (12, 10, 3), ("cat", "dog", "ape"))
    pixels = jax.ShapeDtypeStruct((2, 12, 10, 3), np.uint8)
    program = jax.jit(probabilities_of(trained)).lower(pixels).as_text()
    assert ("sqrt" in program) == roots


@pytest.mark.slow
def test_the_loader_of_the_page_runs_where_only_jax_is_installed(trained, tmp_path):
    """A new environment has jax and flatbuffers, but not this package."""
    path = write_stablehlo(tmp_path / "model.stablehlo", trained)
    python = tmp_path / "environment" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "environment"], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", f"jax=={jax.__version__}",
                    "flatbuffers"], check=True, timeout=600)
    assert subprocess.run([python, "-c", "import cnn_jax"], capture_output=True,
                          cwd=tmp_path).returncode
    code, = re.findall("```python\n(import jax, numpy\n.*?)```", PAGE.read_text(), re.S)
    code = code.replace("(1, 28, 28, 1)", "(2, 12, 10, 3)")
    code += "numpy.save('found.npy', probabilities)"
    subprocess.run([python, "-I", "-c", code], check=True, cwd=path.parent, timeout=300)
    np.testing.assert_allclose(
        np.load(tmp_path / "found.npy"),
        exports.program_of(trained)(np.zeros((2, 12, 10, 3), np.uint8)), atol=1e-6)


@pytest.mark.parametrize("name, network", [
    ("stablehlo", "baseline"), ("onnx", "baseline"), ("onnx_unfolded", "baseline"),
    ("safetensors", "baseline"), ("torchvision", "squeezenet1_1"),
    *(pytest.param(name, "mobilenet_v1", marks=pytest.mark.slow)
      for name in ("timm", "keras"))])
def test_every_format_is_validated(trained, examples, tmp_path, name, network):
    if network != "baseline":
        fields, bn = {}, "torch"
        if network == "mobilenet_v1":  # the library's variant
            bn, padding = {"timm": ("torch", "symmetric"),
                           "keras": ("keras", "keras")}[name]
            fields = {"width": 0.25, "activation": "relu6", "padding": padding}
        config = tiny({"model.name": network, "model.fields": fields, "model.bn": bn})
        trained = untrained(config, (33, 34, 3), ("cat", "dog", "ape"))
        images = np.resize(examples.images, (70, 33, 34, 3))
        examples = Examples(images, examples.labels)
    rows = exports.export(trained, [name], tmp_path / "out", examples, "drawn images",
                          Reporter(quiet=True))
    written = json.loads((tmp_path / "out" / "export.json").read_text())
    assert list(rows) == list(written) == [name]
    row = rows[name]
    assert row.images == 70 and row.bytes == exports.size_of(tmp_path / "out"
                                                             / row.file)
    assert row.largest_difference <= row.tolerance
    assert row.accuracy == row.exported_accuracy
    predicted = exports.program_of(trained)(examples.images).argmax(-1)
    assert row.accuracy == pytest.approx((predicted == examples.labels).mean())
    assert row.images_per_second > 0 and row.exported_images_per_second > 0


def test_batch_norm_is_folded_or_kept(trained, tmp_path):
    kept = {name: [node.op_type for node in onnx.load(
        exports.FORMATS[name].write(tmp_path / name, trained)).graph.node]
        for name in ("onnx", "onnx_unfolded")}
    assert kept["onnx"].count("BatchNormalization") == 0
    assert kept["onnx_unfolded"].count("BatchNormalization") == 1


def test_keras_has_no_small_resnet(trained, tmp_path):
    small = trained._replace(config=tiny({"model.name": "resnet18"}),
                             network=networks.create("resnet18"))
    with pytest.raises(InputError, match="keras.*resnet18.*bottleneck=False"):
        write_library("keras", tmp_path / "keras.h5", small)


def test_a_network_that_a_library_lacks_is_refused(trained, examples, tmp_path):
    with pytest.raises(InputError, match="keras.*CBAPDNet"):
        exports.export(trained, ["keras"], tmp_path, examples, "drawn images",
                       Reporter(quiet=True))


def test_a_network_with_another_variant_in_a_library_is_refused(tmp_path, examples):
    config = tiny({"model.name": "mobilenet_v1", "model.fields": {"width": 0.25}})
    trained = untrained(config, (33, 34, 3), ("cat", "dog", "ape"))
    with pytest.raises(InputError, match="activation='relu'.*'relu6'"):
        exports.export(trained, ["timm"], tmp_path, examples, "drawn images",
                       Reporter(quiet=True))


def test_a_wrong_export_is_an_error_after_its_report(trained, examples, tmp_path,
                                                     monkeypatch):
    def load(path, _):
        program = read_stablehlo(path)
        return lambda pixels: program(pixels) + np.float32(1e-3)

    monkeypatch.setitem(exports.FORMATS, "stablehlo",
                        exports.FORMATS["stablehlo"]._replace(load=load))
    with pytest.raises(RunError, match=r"model\.stablehlo.*0\.001.*export\.json"):
        exports.export(trained, ["stablehlo"], tmp_path, examples, "drawn images",
                       Reporter(quiet=True))
    row = json.loads((tmp_path / "export.json").read_text())["stablehlo"]
    assert row["largest_difference"] == pytest.approx(1e-3, rel=0.01)


def test_a_format_that_does_not_exist():
    assert exports.chosen_formats(" stablehlo, stablehlo") == ["stablehlo"] * 2
    for text in ("tflite", ""):
        with pytest.raises(InputError, match="stablehlo"):
            exports.chosen_formats(text)


@pytest.mark.parametrize("name", exports.ONNX)
def test_regression_networks_are_not_exported_to_onnx(name, tmp_path):
    made = untrained(tiny({"data.name": "csv"}), (8, 8, 3), ("age",))
    with pytest.raises(InputError, match=f"{name}.*numbers"):
        exports.export(made, [name], tmp_path, None, "", Reporter(quiet=True))


def test_accuracy_of_several_classes():
    made = untrained(tiny({"data.name": "shapes_multilabel", "data.split": "last"}),
                     (8, 8, 3), ("a", "b"))
    probabilities = np.array([[0.6, 0.4, 0.2], [0.6, 0.6, 0.1]])
    labels = np.array([[1, 0], [1, 0]])
    assert exports.accuracy(probabilities, labels, made) == 0.5
