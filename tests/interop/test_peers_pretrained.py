"""The rows of PRETRAINED equal the networks of torchvision, timm and Keras.

For every architecture of `PRETRAINED` the library makes its network with random weights
and running statistics, and saves it in its own format. Our reader and our mapping load
the file. The logits of the same pixels, scaled as the library does, agree in float64.
Then our arrays are written under the library's names. The library loads them, and gives
the same logits again.

Needs the `peers` extra; then, in the environment that has it:
KERAS_BACKEND=jax python -m pytest -n 0 -m slow tests/interop/test_peers_pretrained.py
"""

import json
import os
import re

import jax
import numpy as np
import pytest
from tests.support import published_shapes
from tests.support.keras_float64 import keras_float64, randomize_keras
from tests.support.quick_compile import quick_jit

from cnn_jax import networks
from cnn_jax.interop.library_files import write_h5
from cnn_jax.interop.mapping import (arrays_from, classes_of, mapping_of,
                                     variables_from)
from cnn_jax.interop.pretrained import (CLASSES, PRETRAINED, mapping_of_row,
                                        network_of)
from cnn_jax.interop.pretrained.row import CAFFE, IMAGENET, SIGNED
from cnn_jax.interop.readers import read_arrays, write_safetensors
from cnn_jax.layers import Layers

os.environ.setdefault("KERAS_BACKEND", "jax")
torch = pytest.importorskip("torch", reason="needs the `peers` extra: torch")
torchvision = pytest.importorskip("torchvision", reason="needs the `peers` extra")
timm = pytest.importorskip("timm", reason="needs the `peers` extra: timm")
keras = pytest.importorskip("keras", reason="needs the `peers` extra: keras")
safetensors = pytest.importorskip("safetensors.torch")
# NumPy warns of how Keras converts its variables.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning")]

FLOAT64 = Layers(conv="lax", pool="lax", dtype="float64")
IM2COL = Layers(conv="im2col", pool="lax", dtype="float64")  # for larger images
# Height and width by name; if dense layers need it, the size of the row is used.
SIZES = {"inception": (107, 92), "xception": (87, 98), "": (65, 82)}
KERAS = {"vgg16": "VGG16", "vgg19": "VGG19", "inception_v3": "InceptionV3",
         "xception": "Xception", "mobilenet": "MobileNet",
         "mobilenet_v2": "MobileNetV2",
         **{f"resnet{n}": f"ResNet{n}" for n in (50, 101, 152)},
         **{f"resnet{n}v2": f"ResNet{n}V2" for n in (50, 101, 152)},
         **{f"densenet{n}": f"DenseNet{n}" for n in (121, 169, 201)}}


def architectures(*libraries):
    """Lists the first source of each network with its fields, of these libraries."""
    seen = {}
    for source, row in PRETRAINED.items():
        if row.library in libraries:
            seen.setdefault((row.library, row.network, str(row.fields)), source)
    return list(seen.values())


@pytest.fixture(autouse=True)
def float64():
    with keras_float64():
        yield


def pixels_for(source):
    """Draws two pictures, or one if it must be large."""
    row, draw = PRETRAINED[source], np.random.default_rng(3)
    if source.startswith("timm:vgg"):
        shape = (1, *row.preprocessing.size, 3)
    else:
        shape = (2, *next(size for name, size in SIZES.items() if name in source), 3)
    return draw.integers(0, 256, shape, np.uint8)


def our_logits(source, variables, pixels):
    """Computes the logits of a row's network in float64, with the row's scaling."""
    row = PRETRAINED[source]
    network = network_of(row, IM2COL if "timm:vgg" in source else FLOAT64)
    variables = jax.tree.map(np.float64, variables)
    images = (pixels - np.float64(row.scaling.offset)) * np.float64(row.scaling.factor)
    logits = quick_jit(lambda variables, images: network.apply(
        variables, images, train=False))(variables, images)
    assert logits.dtype == np.float64
    return np.asarray(logits)


def check_equal(ours, theirs):
    assert theirs.shape == (len(theirs), CLASSES) and theirs.dtype == np.float64
    assert np.abs(ours - theirs).max() <= 1e-9 * theirs.std()


def randomize(tensors):
    """Fills a state dict: kernels by their fan-in, batch norms near the identity.

    All values are float32 numbers, as in published files, although the network is
    float64.
    """
    draw = np.random.default_rng(1)
    for name, tensor in tensors.items():
        shape = tuple(tensor.shape)
        if not tensor.is_floating_point():
            continue  # a counter
        if name.endswith("running_var") or (len(shape) == 1 and "weight" in name):
            value = 0.5 + draw.random(shape, np.float32)
        else:
            spread = np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1
            value = draw.standard_normal(shape, np.float32) * np.float32(spread)
        tensor.copy_(torch.from_numpy(value))


def torch_peer(source, **fields):
    """Makes the library's own network of a source in float64, for evaluation."""
    library, name = source.split(":")[:2]
    if library == "timm":
        return timm.create_model(name).double().eval()
    if name in ("googlenet", "inception_v3"):
        fields |= {"transform_input": True, "init_weights": False}
    return torchvision.models.get_model(name, weights=None, **fields).double().eval()


def mean_and_std(source):
    """Reads the mean and deviation by which the library scales pixels of 0 to 1."""
    library, name, *weights = source.split(":")
    if library == "timm":
        config = timm.models.get_pretrained_cfg(name)
        return config.mean, config.std
    transforms = torchvision.models.get_model_weights(name)[
        weights[0] if weights else "IMAGENET1K_V1"].transforms()
    return transforms.mean, transforms.std


def torch_images(source, pixels):
    mean, std = (np.float64(value) for value in mean_and_std(source))
    return torch.from_numpy((pixels / 255 - mean) / std).permute(0, 3, 1, 2)


def save_torch(source, state, path):
    """Saves a state dict like its publisher: in float32, old files under old names."""
    state = {name: tensor.float() if tensor.is_floating_point() else tensor
             for name, tensor in state.items()}
    if source.startswith("timm:") and "xception" not in source:
        safetensors.save_file(state, path.with_suffix(".safetensors"))
        return path.with_suffix(".safetensors")
    if re.search("resne|mobilenet|xception", source):
        torch.save(state, path)
        return path
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name): tensor
           for name, tensor in state.items() if "num_batches_tracked" not in name}
    torch.save(old, path, _use_new_zipfile_serialization=False)
    return path


@pytest.mark.parametrize("source", architectures("torchvision", "timm"))
def test_torch(source, tmp_path):
    peer, pixels = torch_peer(source), pixels_for(source)
    mapping, images = mapping_of_row(PRETRAINED[source]), torch_images(source, pixels)
    with torch.no_grad():
        randomize(peer.state_dict())
        theirs = peer(images)
        path = save_torch(source, peer.state_dict(), tmp_path / "published.pth")
        variables = variables_from(mapping, read_arrays(path), source)
        check_equal(our_logits(source, variables, pixels), theirs.numpy())

        arrays = arrays_from(mapping, variables)
        path.unlink()
        path = write_safetensors(tmp_path / "ours.safetensors", arrays)
        for tensor in peer.state_dict().values():
            tensor.zero_()
        peer.load_state_dict(safetensors.load_file(path), strict=True)
        assert torch.equal(peer(images), theirs)


@pytest.mark.parametrize("source, size, heads", [
    ("torchvision:googlenet", 224, ("aux1", "aux2")),
    ("torchvision:inception_v3", 299, ("aux",))])
def test_auxiliary_heads(source, size, heads):
    """They run only in training; their logits agree."""
    row = PRETRAINED[source]
    off = {"dropout": 0.0, "dropout_aux": 0.0} if len(heads) == 2 else {"dropout": 0.0}
    peer = torch_peer(source, aux_logits=True, **off).train()
    pixels = np.random.default_rng(3).integers(0, 256, (2, size, size, 3), np.uint8)
    with torch.no_grad():
        randomize(peer.state_dict())
        state = {name: tensor.numpy().copy()
                 for name, tensor in peer.state_dict().items()}
        theirs = peer(torch_images(source, pixels))
    fields = row.fields | {"dropout": 0.0} | (
        {"aux_dropout": 0.0} if len(heads) == 2 else {})
    network = networks.create(row.network, CLASSES, Layers(
        conv="lax", pool="lax", dtype="float64", bn=row.bn), **fields)
    images = (pixels - np.float64(row.scaling.offset)) * np.float64(row.scaling.factor)
    logits, sown = quick_jit(lambda variables, images: network.apply(
        variables, images, train=True, mutable=["batch_stats", "aux_logits"]))(
            variables_from(mapping_of_row(row), state), images)
    check_equal(np.asarray(logits), theirs.logits.numpy())
    for name in heads:
        [ours] = sown["aux_logits"][name]["logits"]
        other = theirs.aux_logits if name == "aux" else getattr(
            theirs, f"aux_logits{name[-1]}")
        check_equal(np.asarray(ours), other.numpy())


def keras_peer(source, shape):
    """Makes Keras' own network of a source, with random weights."""
    name, fields = source.partition(":")[2], {}
    if match := re.fullmatch(r"(mobilenet(?:_v2)?)_([\d.]+)", name):
        name, fields = match[1], {"alpha": float(match[2])}
    keras.backend.clear_session()
    peer = getattr(keras.applications, KERAS[name])(
        weights=None, input_shape=shape, classifier_activation=None, **fields)
    module = getattr(keras.applications, {"resnet": "resnet", "resnetv2": "resnet_v2",
                                          "densenet": "densenet"}.get(
        re.sub(r"\d\d+", "", name), name))
    return peer, module.preprocess_input


@pytest.mark.parametrize("source", architectures("keras"))
def test_keras(source, tmp_path):
    pixels = pixels_for(source)
    peer, preprocess = keras_peer(source, pixels.shape[1:])
    logits = quick_jit(lambda weights, images: peer.stateless_call(
        weights[0], weights[1], images, training=False)[0])

    def their_logits():
        return np.asarray(logits(
            ([v.value for v in peer.trainable_variables],
             [v.value for v in peer.non_trainable_variables]),
            preprocess(pixels.astype(np.float64))))
    randomize_keras(peer)
    theirs = their_logits()
    row = PRETRAINED[source]  # VGG's dense layers fit only these smaller pictures
    mapping = mapping_of("keras", network_of(row, FLOAT64), pixels.shape[1:], row.bgr)
    peer.save(tmp_path / "published.h5")
    variables = variables_from(mapping, read_arrays(tmp_path / "published.h5"), source)
    check_equal(our_logits(source, variables, pixels), theirs)
    if re.search("16|50|inception|xception|mobilenet$", source):  # the other formats
        peer.save(tmp_path / "whole.keras")
        peer.save_weights(tmp_path / "their.weights.h5")
        for name in ("whole.keras", "their.weights.h5"):
            again = variables_from(mapping, read_arrays(tmp_path / name), name)
            jax.tree.map(np.testing.assert_array_equal, again, variables)

    write_h5(tmp_path / "ours.h5", arrays_from(mapping, variables))
    for variable in peer.weights:
        variable.assign(np.zeros(variable.shape))
    peer.load_weights(tmp_path / "ours.h5")
    assert np.array_equal(their_logits(), theirs)


@pytest.mark.parametrize("source", ["keras:inception_v3", "keras:xception"])
def test_the_second_network_of_a_process(source, tmp_path):
    """Its unnamed layers have higher numbers, and it has other classes."""
    name, shape = source.partition(":")[2], pixels_for(source).shape[1:]
    keras.backend.clear_session()
    for _ in range(2):
        peer = getattr(keras.applications, KERAS[name])(
            weights=None, input_shape=shape, classes=7)
    assert "conv2d" not in {layer.name for layer in peer.layers}
    randomize_keras(peer)
    network = network_of(PRETRAINED[source], FLOAT64).clone(num_classes=7)
    mapping = mapping_of("keras", network, shape)
    expected = variables_from(mapping, {
        f"{layer.name}/{weight.name}": np.asarray(weight)
        for layer in peer.layers for weight in layer.weights})
    for file in ("net.h5", "net.keras", "net.weights.h5"):
        (peer.save_weights if "weights" in file else peer.save)(tmp_path / file)
        arrays = read_arrays(tmp_path / file)
        assert classes_of(network_of(PRETRAINED[source], FLOAT64), shape, arrays) == 7
        jax.tree.map(np.testing.assert_array_equal,
                     variables_from(mapping, arrays, file), expected)


def test_rows_of_torchvision():
    """PRETRAINED has every set of weights for our networks, with its facts."""
    ours = {source.split(":")[1] for source in PRETRAINED
            if source.startswith("torchvision:")}
    for name in torchvision.models.list_models(module=torchvision.models):
        if name not in ours:
            assert not re.match(r"alex|vgg|res|wide|dense|google|incep|mobilenet_v2|sq",
                                name), name
            continue
        for weights in torchvision.models.get_model_weights(name):
            if weights.name == "IMAGENET1K_FEATURES":
                continue  # of VGG-16, without its dense layers
            source = f"torchvision:{name}"
            row = PRETRAINED[source if weights.name == "IMAGENET1K_V1"
                             else f"{source}:{weights.name}"]
            transforms = weights.transforms()
            assert row.url == weights.url
            assert row.checksum[1].startswith(
                re.search(r"-([0-9a-f]{8})\.pth", row.url)[1])
            assert row.top1 == weights.meta["_metrics"]["ImageNet-1K"]["acc@1"]
            size, channels, shorter_side, interpolation = row.preprocessing
            assert (list(size), [shorter_side]) == (
                transforms.crop_size * 2, transforms.resize_size)
            assert channels == 3
            assert interpolation == transforms.interpolation.value
            if name in ("googlenet", "inception_v3"):
                # pixel -> normalized -> `transform_input`
                assert row.scaling == SIGNED
            else:
                assert (transforms.mean, transforms.std) == (
                    [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
                assert row.scaling == IMAGENET


def test_rows_of_timm():
    ours = {source.partition(":")[2]: row for source, row in PRETRAINED.items()
            if row.library == "timm"}
    architectures = {name.partition(".")[0] for name in ours}
    for name in timm.list_models(pretrained=True):
        config = timm.models.get_pretrained_cfg(name)
        if name.partition(".")[0] not in architectures:
            assert not re.fullmatch(
                r"(resnet(v2_)?(18|34|50|101|152)|resnext(50_32x4d|101_(32x8|64x4)d)"
                r"|wide_resnet\w+|densenet(121|161|169|201)|vgg\w+|inception_v3"
                r"|mobilenetv1_\d+|mobilenetv2_\d+|\w*squeezenet\w*|alexnet"
                r"|googlenet|xception)", name.partition(".")[0]), name
            continue
        if config.num_classes != CLASSES:
            continue
        row = ours.pop(name)
        size = (config.test_input_size or config.input_size)[1]
        assert row.preprocessing.size == (size, size)
        assert row.preprocessing.shorter_side == int(
            size / (config.test_crop_pct or config.crop_pct))
        assert row.preprocessing.interpolation == config.interpolation
        assert config.crop_mode == "center" and not config.label_offset
        assert row.scaling == {0.5: SIGNED, 0.485: IMAGENET}[config.mean[0]]
        assert config.std == ((0.5,) * 3 if row.scaling == SIGNED
                              else (0.229, 0.224, 0.225))
        assert row.url == (config.url if not config.hf_hub_id else
                           f"https://huggingface.co/{config.hf_hub_id}/resolve/main/"
                           "model.safetensors")
        assert row.license.lower() == config.license
    assert not ours


@pytest.mark.parametrize("source", [source for source, row in PRETRAINED.items()
                                    if row.library == "keras"])
def test_rows_of_keras(source, monkeypatch):
    """Keras requests the row's URL and checksum, and prepares pixels like the row."""
    row, asked = PRETRAINED[source], []

    def get_file(name, url, file_hash=None, **other):
        asked.append((url, file_hash))
        raise KeyboardInterrupt  # nothing is downloaded

    from keras.src.utils import file_utils
    monkeypatch.setattr(file_utils, "get_file", get_file)
    make = keras.applications
    name, fields = source.partition(":")[2], {}
    if match := re.fullmatch(r"(mobilenet(?:_v2)?)_([\d.]+)", name):
        name, fields = match[1], {"alpha": float(match[2])}
    with pytest.raises(KeyboardInterrupt):
        getattr(make, KERAS[name])(weights="imagenet", **fields)
    digits = row.checksum and row.checksum[1]
    assert asked == [(row.url, digits)]
    assert row.bgr == (row.scaling == CAFFE)


def test_the_stored_shapes_are_those_of_the_libraries():
    stored = json.loads(published_shapes.FILE.read_text())
    assert stored.keys() == set(published_shapes.STORED)
    for source, shapes in stored.items():
        assert published_shapes.published_shapes(source) == shapes
