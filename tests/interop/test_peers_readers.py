"""Files that PyTorch, timm and Keras write are read bit for bit.

Needs the `peers` extra; then: pytest -m slow tests/interop/test_peers_readers.py
"""

import os

import jax
import numpy as np
import pytest

from cnn_jax.interop.readers import read_arrays, write_safetensors

os.environ.setdefault("KERAS_BACKEND", "jax")
torch = pytest.importorskip("torch", reason="needs the `peers` extra: torch")
keras = pytest.importorskip("keras", reason="needs the `peers` extra: keras")
pytestmark = pytest.mark.slow


def assert_same(got, expected):
    assert sorted(got) == sorted(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        assert got[name].tobytes() == array.tobytes(), name


def as_numpy(state):
    return {name: (tensor.float() if tensor.dtype == torch.bfloat16 else tensor)
            .detach().numpy() for name, tensor in state.items()}


def network():
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.PReLU(8),
        torch.nn.Flatten(), torch.nn.Linear(8, 5))
    net(torch.randn(2, 3, 3, 3))
    return net


TENSORS = {
    "transposed": torch.arange(12.0).reshape(3, 4).T,
    "part": torch.arange(24).reshape(4, 6)[1:3, 2:5],
    "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "number": torch.tensor(2.5), "empty": torch.zeros(0, 3),
    "parameter": torch.nn.Parameter(torch.randn(3)),
    "mask": torch.tensor([True, False]),
    **{str(kind): torch.arange(-3, 4).to(kind)
       for kind in (torch.float64, torch.float16, torch.bfloat16, torch.int64,
                    torch.int32, torch.int16, torch.int8, torch.uint8)}}


@pytest.mark.parametrize("options", [
    {}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4},
    {"pickle_protocol": 5, "_use_new_zipfile_serialization": False}])
@pytest.mark.parametrize("state", [network().state_dict(), TENSORS], ids=["net", "odd"])
def test_state_dict_of_torch(tmp_path, state, options):
    torch.save(state, tmp_path / "net.pth", **options)
    assert_same(read_arrays(tmp_path / "net.pth"), as_numpy(state))


def test_tensors_that_share_a_storage(tmp_path):
    whole = torch.arange(1000.0)
    state = {"whole": whole, "half": whole[::2], "square": whole[:900].reshape(30, 30)}
    torch.save(state, tmp_path / "net.pth")
    assert_same(read_arrays(tmp_path / "net.pth"), as_numpy(state))


@pytest.mark.parametrize("new", [True, False])
def test_checkpoint_of_torch_with_its_optimizer(tmp_path, new):
    net = network()
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.randn(2, 3, 3, 3)).sum().backward()
    optimizer.step()
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(),
                "epoch": 3, "best": 0.5}, tmp_path / "net.pt",
               _use_new_zipfile_serialization=new)
    assert_same(read_arrays(tmp_path / "net.pt"), as_numpy(net.state_dict()))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")
def test_modules_and_programs_are_refused(tmp_path):
    torch.save(network(), tmp_path / "net.pth")
    with pytest.raises(ValueError, match="Sequential"):
        read_arrays(tmp_path / "net.pth")
    torch.jit.save(torch.jit.script(network()), tmp_path / "program.pt")
    with pytest.raises(ValueError, match="TorchScript"):
        read_arrays(tmp_path / "program.pt")


def test_safetensors_of_torch_and_timm_there_and_back(tmp_path):
    from safetensors.torch import load_file, save_file
    timm = pytest.importorskip("timm", reason="needs the `peers` extra: timm")
    state = timm.create_model("resnet18").state_dict()
    state["half"] = torch.randn(3).to(torch.bfloat16)
    save_file(state, tmp_path / "net.safetensors")
    arrays = read_arrays(tmp_path / "net.safetensors")
    assert_same(arrays, as_numpy(state))
    write_safetensors(tmp_path / "back.safetensors", arrays, {"format": "pt"})
    assert_same(as_numpy(load_file(tmp_path / "back.safetensors")), arrays)


def layers_of(model, prefix=""):
    """Yields (path, layer), also of models inside the model."""
    for layer in model.layers:
        if hasattr(layer, "layers"):
            yield from layers_of(layer, f"{prefix}{layer.name}/")
        else:
            yield f"{prefix}{layer.name}", layer


def keras_weights(model):
    return {f"{path}/{weight.name}": np.asarray(weight)
            for path, layer in layers_of(model) for weight in layer.weights}


def randomize(model):
    rng = np.random.default_rng(1)
    for weight in model.weights:
        weight.assign(rng.standard_normal(weight.shape))
    return model


def small_model():
    inner = keras.Sequential([
        keras.layers.Conv2D(4, 3, use_bias=False, name="conv"),
        keras.layers.BatchNormalization(name="bn")], name="inner")
    x = images = keras.Input((9, 9, 3))
    for layer in (keras.layers.Conv2D(4, 3, name="conv1"),
                  keras.layers.BatchNormalization(center=False, name="bn1"),
                  keras.layers.PReLU(name="prelu"), keras.layers.Dropout(0.5),
                  keras.layers.DepthwiseConv2D(3, name="dw"), inner,
                  keras.layers.SeparableConv2D(5, 3, name="sep"),
                  keras.layers.GlobalAveragePooling2D(),
                  keras.layers.Dense(2, name="fc")):
        x = layer(x)
    model = keras.Model(images, x, name="net")
    model.compile("adam", "mse", metrics=["mae"])
    with jax.numpy_rank_promotion("allow"):
        model.fit(np.zeros((2, 9, 9, 3)), np.zeros((2, 2)), verbose=0)
    return model


def sequential_model():
    """Makes a model whose name is part of the names of its variables."""
    return keras.Sequential([
        keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv1"),
        keras.layers.Flatten(), keras.layers.Dense(3, name="fc")])


MODELS = {
    "small": small_model, "sequential": sequential_model,
    **{name: lambda name=name: getattr(keras.applications, name)(weights=None)
       for name in ("ResNet50", "ResNet50V2", "DenseNet121", "InceptionV3", "Xception",
                    "MobileNet", "MobileNetV2", "VGG16")}}


@pytest.mark.filterwarnings("ignore")  # what Keras says about its legacy format
@pytest.mark.parametrize("name", MODELS)
def test_three_formats_of_keras_give_one_kind_of_name(tmp_path, name):
    model = randomize(MODELS[name]())
    expected = keras_weights(model)
    for suffix in ("net.keras", "net.h5", "net.weights.h5"):
        path = tmp_path / suffix
        (model.save_weights if "weights" in suffix else model.save)(path)
        got = read_arrays(path)
        if "weights" in suffix:
            got = {named(key, expected): array for key, array in got.items()}
        assert_same(got, expected)
        path.unlink()


def named(key, expected):
    """Names the gamma or beta of a norm, which a .weights.h5 file does not tell."""
    layer = key.removesuffix("/vars/0")
    if layer == key:
        return key
    one, = {f"{layer}/gamma", f"{layer}/beta"} & set(expected)
    return one
