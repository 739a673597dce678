"""The three formats of Keras give the same names; hostile HDF5 files are refused."""

import zipfile

import numpy as np
import pytest
from tests.support.weight_files import (assert_same, h5_bytes, refused,
                                        write_keras, write_legacy_h5)

from cnn_jax.interop.readers import keras_files, read_arrays

h5py = pytest.importorskip("h5py", reason="needs the `pretrained` extra: h5py")
RNG = np.random.default_rng(4)


def draw(*shape):
    return RNG.standard_normal(shape).astype(np.float32)


# The arrays of all formats: a convolution, batch norm without gamma, a depthwise and a
# separable convolution, a model inside the model, a dense layer.
ARRAYS = {
    "conv1/kernel": draw(3, 3, 2, 4), "conv1/bias": draw(4),
    "bn1/beta": draw(4), "bn1/moving_mean": draw(4), "bn1/moving_variance": draw(4),
    "dw/kernel": draw(3, 3, 4, 1),
    "sep/depthwise_kernel": draw(3, 3, 4, 1), "sep/pointwise_kernel": draw(1, 1, 4, 5),
    "inner/conv/kernel": draw(1, 1, 5, 3), "inner/bn/gamma": draw(3),
    "inner/bn/beta": draw(3), "inner/bn/moving_mean": draw(3),
    "inner/bn/moving_variance": draw(3),
    "fc/kernel": draw(3, 2), "fc/bias": draw(2)}
# The numbers that Keras 3 gives them, and the layers in its config.json.
NUMBERED = {
    "layers/conv2d": ("conv1", ["conv1/kernel", "conv1/bias"]),
    "layers/batch_normalization": (
        "bn1", ["bn1/beta", "bn1/moving_mean", "bn1/moving_variance"]),
    "layers/depthwise_conv2d": ("dw", ["dw/kernel"]),
    "layers/separable_conv2d": (
        "sep", ["sep/depthwise_kernel", "sep/pointwise_kernel"]),
    "layers/functional": ("inner", []),
    "layers/functional/layers/conv2d": ("conv", ["inner/conv/kernel"]),
    "layers/functional/layers/batch_normalization": (
        "bn", [f"inner/bn/{name}"
               for name in ("gamma", "beta", "moving_mean", "moving_variance")]),
    "layers/dense": ("fc", ["fc/kernel", "fc/bias"])}


def layer(class_name, name, **config):
    return {"class_name": class_name, "config": {"name": name, **config}}


CONFIG = {"class_name": "Functional", "config": {"name": "net", "layers": [
    layer("InputLayer", "input"), layer("Conv2D", "conv1"),
    layer("BatchNormalization", "bn1", scale=False, center=True),
    layer("DepthwiseConv2D", "dw"), layer("SeparableConv2D", "sep"),
    layer("Functional", "inner", layers=[
        layer("Conv2D", "conv"), layer("BatchNormalization", "bn")]),
    layer("Dense", "fc")]}}


def write_numbered(file, with_names=True):
    """Writes a file like Keras 3. Its first versions left out the names."""
    for group, (name, weights) in NUMBERED.items():
        variables = file.create_group(f"{group}/vars")
        if with_names:
            variables.attrs["name"] = name
        for number, weight in enumerate(weights):
            variables[str(number)] = ARRAYS[weight]
    file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, np.uint32)
    file.create_group("optimizer/vars")["0"] = draw(3)
    file.create_group("vars").attrs["name"] = "net"


def legacy(names) -> dict[str, dict[str, np.ndarray]]:
    """Groups ARRAYS by their first part; `names` maps (layer, rest) to a name."""
    layers = {"input": {}}
    for name, array in ARRAYS.items():
        first, _, rest = name.partition("/")
        layers.setdefault(first, {})[names(first, rest)] = array
    return layers


def keras_2(layer, rest):
    rest = rest.replace("kernel", "depthwise_kernel") if layer == "dw" else rest
    return f"{rest}:0" if layer == "inner" else f"{layer}/{rest}:0"


def keras_1(layer, rest):
    short = {"kernel": "W", "bias": "b", "moving_mean": "running_mean",
             "moving_variance": "running_std"}
    if layer == "inner":  # as in Keras 2, models inside models have no group
        return f"{rest}:0"
    return f"{layer}_{short.get(rest, rest)}_1:0"


LEGACY = {
    "Keras 1": keras_1, "Keras 2": keras_2,
    "Keras 2, loaded and saved": lambda layer, rest: (
        f"{rest}:0" if layer == "inner" else f"{layer}_1/{rest}:0"),
    "Keras 3": lambda layer, rest: f"{layer}/{rest}",
    "Keras 3, sequential": lambda layer, rest: f"net/{layer}/{rest}"}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights"


@pytest.mark.parametrize("pieces", [0, 3])
@pytest.mark.parametrize("version", LEGACY)
def test_legacy_h5_of_each_version(path, version, pieces):
    with h5py.File(path, "w") as file:
        write_legacy_h5(file, legacy(LEGACY[version]), pieces)
    got = read_arrays(path)
    assert_same(got, ARRAYS)
    assert list(got) == list(ARRAYS)  # the order of the file


def test_whole_legacy_model_is_read_without_its_optimizer(path):
    with h5py.File(path, "w") as file:
        write_legacy_h5(file.create_group("model_weights"), legacy(keras_2))
        file["optimizer_weights/adam/momentum"] = draw(2)
        file.attrs["model_config"] = "{}"
    assert_same(read_arrays(path), ARRAYS)


def test_numbered_weights_are_named_by_the_class_of_their_layer(path):
    path.write_bytes(h5_bytes(write_numbered))
    # Nothing in the file tells gamma from beta if one of them is missing.
    unsure = {name.replace("bn1/beta", "bn1/vars/0"): array
              for name, array in ARRAYS.items()}
    assert_same(read_arrays(path), unsure)


@pytest.mark.parametrize("with_names", [True, False])
def test_keras_file_takes_what_is_missing_from_its_config(path, with_names):
    write_keras(path, CONFIG, h5_bytes(lambda file: write_numbered(file, with_names)))
    assert_same(read_arrays(path), ARRAYS)


def test_numbered_weights_without_names_take_those_of_their_groups(path):
    path.write_bytes(h5_bytes(lambda file: write_numbered(file, with_names=False)))
    assert {"conv2d/kernel", "functional/conv2d/kernel", "dense/bias"} <= set(
        read_arrays(path))


def test_layers_of_one_class_keep_their_order(path):
    def write(file):
        for number in range(12):
            group = f"layers/conv2d_{number}" if number else "layers/conv2d"
            file[f"{group}/vars/0"] = draw(1)
    path.write_bytes(h5_bytes(write))
    assert list(read_arrays(path)) == ["conv2d/kernel"] + [
        f"conv2d_{number}/kernel" for number in range(1, 12)]


@pytest.mark.parametrize("count, kind, names", [
    (1, "dense", ["kernel"]), (3, "dense", ["vars/0", "vars/1", "vars/2"]),
    (2, "conv2d_transpose_4", ["kernel", "bias"]), (1, "p_re_lu", ["alpha"]),
    (2, "batch_normalization", ["moving_mean", "moving_variance"]),
    (2, "group_normalization", ["gamma", "beta"]),
    (1, "layer_normalization", ["vars/0"]),
    (3, "separable_conv2d", ["depthwise_kernel", "pointwise_kernel", "bias"]),
    (2, "my_layer", ["vars/0", "vars/1"])])
def test_names_of_numbered_weights(path, count, kind, names):
    with h5py.File(path, "w") as file:
        for number in range(count):
            file[f"layers/{kind}/vars/{number}"] = draw(1)
    assert list(read_arrays(path)) == [f"{kind}/{name}" for name in names]


def test_types_are_kept_and_bfloat16_becomes_float32(path):
    import ml_dtypes
    kernel = draw(2, 3).astype(ml_dtypes.bfloat16)
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = kernel.view("V2")
        file["layers/dense/vars/1"] = np.arange(3, dtype=">f8")
    got = read_arrays(path)
    np.testing.assert_array_equal(got["dense/kernel"], kernel.astype(np.float32))
    assert got["dense/bias"].dtype == np.float64 and got["dense/bias"].dtype.isnative


def numbered(file, name="layers/dense/vars"):
    return file.require_group(name)


def soft_link(file):
    file["elsewhere"] = draw(2)
    numbered(file)["0"] = h5py.SoftLink("/elsewhere")


def external_link(file):
    numbered(file)["0"] = h5py.ExternalLink("secret.h5", "/data")


def external_group(file):
    file.create_group("layers")["dense"] = h5py.ExternalLink("secret.h5", "/")


def external_storage(file):
    numbered(file).create_dataset("0", (4,), np.float32, external="secret.bin")


def virtual(file):
    layout = h5py.VirtualLayout((4,), np.float32)
    layout[:] = h5py.VirtualSource("secret.h5", "data", (4,))
    numbered(file).create_virtual_dataset("0", layout)


def shape_bomb(file):
    numbered(file).create_dataset("0", (2**30,), np.float32, chunks=(2**16,),
                                  compression="gzip")


def many_small_bombs(file):
    for number in range(100):
        group = numbered(file, f"layers/dense_{number}/vars")
        group.create_dataset("0", (2**20,), np.float32, chunks=(2**16,))


def chunk_bomb(file):
    numbered(file).create_dataset("0", (2,), np.float32, chunks=(2**28,),
                                  maxshape=(None,))


def circle(file):
    group = numbered(file, "layers/functional")
    group["layers"] = file["layers"]


def two_links(file):
    numbered(file)["0"] = draw(2)
    file["layers/dense_1"] = file["layers/dense"]


def text(file):
    numbered(file)["0"] = "text"


def records(file):
    numbered(file)["0"] = np.zeros(2, [("a", np.int32), ("b", np.float32)])


def nothing(file):
    numbered(file)["0"] = h5py.Empty(np.float32)


def gap(file):
    numbered(file)["0"] = draw(2)
    file["layers/dense/vars/2"] = draw(2)


def group_as_weight(file):
    file.create_group("layers/dense/vars/0")


def no_weights(file):
    file["data"] = draw(2)


def legacy_soft_link(file):
    write_legacy_h5(file, legacy(keras_2))
    del file["fc/fc/bias:0"]
    file["fc/fc/bias:0"] = h5py.SoftLink("/fc/fc/kernel:0")


def legacy_missing_layer(file):
    write_legacy_h5(file, legacy(keras_2))
    del file["fc"]


def legacy_missing_weight(file):
    write_legacy_h5(file, legacy(keras_2))
    del file["fc/fc/bias:0"]


def legacy_twice(file):
    write_legacy_h5(file, {"fc": {"fc/bias:0": draw(2), "fc_1/bias:0": draw(2)}})


HOSTILE = {
    soft_link: "SoftLink", external_link: "ExternalLink",
    external_group: "ExternalLink",
    external_storage: "another file", virtual: "another file", shape_bomb: "bytes",
    many_small_bombs: "bytes", chunk_bomb: "bytes", circle: "second link",
    two_links: "second link", text: "numbers", records: "numbers", nothing: "no array",
    gap: "no array", group_as_weight: "no array", no_weights: "no weights",
    legacy_soft_link: "SoftLink", legacy_missing_layer: "fc",
    legacy_missing_weight: "no array", legacy_twice: "fc/bias"}


@pytest.mark.parametrize("write", HOSTILE, ids=lambda write: write.__name__)
def test_hostile_h5_is_refused(path, write, monkeypatch):
    monkeypatch.chdir(path.parent)
    with h5py.File("secret.h5", "w") as file:
        file["data"] = draw(4)
    (path.parent / "secret.bin").write_bytes(bytes(16))
    monkeypatch.setattr(keras_files, "FLOOR", 2**22)
    with h5py.File(path, "w") as file:
        write(file)
    assert path.stat().st_size < 2**21
    assert HOSTILE[write] in refused(path)


def test_zip_bomb_in_a_keras_file_is_refused(path, monkeypatch):
    monkeypatch.setattr(keras_files, "FLOOR", 2**22)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", "{}")
        with archive.open("model.weights.h5", "w", force_zip64=True) as member:
            member.write(bytes(2**23))
    assert path.stat().st_size < 2**20 and "model.weights.h5" in refused(path)


@pytest.mark.parametrize("config", [
    "", "[]", "{}", '{"config": 3}', '{"config": {"layers": [1]}}',
    '{"config": {"layers": ' + "[" * 100_000, '{"config": {"layers": [{}]}}'])
def test_broken_config_is_refused(path, config):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", config)
        archive.writestr("model.weights.h5", h5_bytes(write_numbered))
    refused(path)


def test_list_of_names_that_would_fill_the_memory_is_refused(path, monkeypatch):
    monkeypatch.setattr(keras_files, "ATTRIBUTE_LIMIT", 2**17)
    with h5py.File(path, "w", libver="latest") as file:
        file.attrs.create("layer_names", np.zeros(2**13, "S20"))
    assert "layer_names" in refused(path)


def test_missing_h5py_is_reported(path, monkeypatch):
    path.write_bytes(h5_bytes(write_numbered))
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    assert "pip install 'cnn_jax[pretrained]'" in refused(path)
