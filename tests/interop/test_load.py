"""Pretrained weights become a run without epochs, which every mode accepts."""

import hashlib
import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from tests.support.file_server import Server
from tests.support.tiny_runs import tiny, untrained

from cnn_jax import data, training
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request, imported_run
from cnn_jax.data.images import Preprocessing
from cnn_jax.data.scaling import FIXED, scale
from cnn_jax.errors import InputError
from cnn_jax.interop import load, pretrained
from cnn_jax.interop.imagenet import (classes_of_folders, imagenet_classes,
                                      imagenet_table)
from cnn_jax.interop.library_files import write_library
from cnn_jax.interop.pretrained.row import Pretrained
from cnn_jax.interop.weights import write_npz
from cnn_jax.training.evaluate_run import evaluate_run
from cnn_jax.workdir import trained
from configs import finetune, transfer

pytestmark = pytest.mark.usefixtures("compiled_once", "undrawn")
NAMES = tuple(map(str, range(1000)))
SUFFIX = {"torchvision": ".safetensors", "keras": ".h5"}


@pytest.fixture
def network():
    """Makes an untrained network for pictures of 12 x 12 pixels and 1,000 classes."""
    return untrained(tiny(), (12, 12, 3), NAMES)


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "wide.png"
    pixels = np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def source(network, tmp_path, monkeypatch):
    """Publishes the network on a server, as 'torchvision:tiny'."""
    folder = tmp_path / "served"
    folder.mkdir()
    path = write_npz(folder / "tiny.npz", network.variables)
    server = Server(folder)
    row = Pretrained(
        "baseline", "cnn_jax", f"{server.url}/tiny.npz",
        ("sha256", hashlib.sha256(path.read_bytes()).hexdigest()),
        Preprocessing((12, 12), 3, 14, "bicubic"), FIXED["imagenet"], 50.0,
        dict(network.config.model.fields), "keras")
    monkeypatch.setitem(pretrained.PRETRAINED, "torchvision:tiny", row)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    yield "torchvision:tiny"
    server.close()


def test_the_example_of_the_document(source, picture, tmp_path, monkeypatch):
    text = (Path(__file__).parents[2] / "docs" / "howto" / "pretrained.md").read_text()
    example = text.split("```python\n")[1].split("```")[0]
    *lines, last = example.strip().splitlines()
    picture.rename(tmp_path / "photo.jpg")
    namespace = {}
    exec("\n".join(lines).replace("torchvision:resnet50", source), namespace)
    assert eval(last, namespace) in imagenet_classes()
    assert namespace["pixels"].shape == (12, 12, 3)


def test_a_published_set_predicts(source, network, picture, capsys):
    for _ in range(2):  # the second time without the server
        commands.run(Request("predict", None, None, model=source, paths=(str(picture),),
                             top=2, json=True))
    [first, second] = capsys.readouterr().out.strip().rsplit("\n[", 1)
    [answer] = json.loads(first)
    assert json.loads("[" + second) == [answer]
    loaded = trained.load(imported_run(source, None, None))
    assert loaded.info.class_names[0] == "tench"
    assert loaded.info.preprocessing == Preprocessing((12, 12), 3, 14, "bicubic")
    assert loaded.info.scaling == FIXED["imagenet"]
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, network.variables)
    assert loaded.config.model.bn == "keras" and set(answer["classes"]) < set(
        loaded.info.class_names)


RANKS = [0, 0, 0, 3, 3, 4, 5, 500, 999]  # of the true class, by logit


def write_validation_set(folder, logits_of):
    """Writes pictures into folders of the classes that the network ranks as in RANKS.
    """
    draw = np.random.default_rng(5)
    for number, rank in enumerate(RANKS):
        pixels = draw.integers(0, 256, (12, 12, 3), np.uint8)
        label = np.argsort(-logits_of(pixels), kind="stable")[rank]
        path = folder / imagenet_table()[label][0] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def test_a_published_set_is_evaluated(source, network, tmp_path, capsys):
    """It prints top-1 and top-5 on ImageNet's layout, also for some of its classes."""
    def logits_of(pixels):
        images = scale(pixels[None], FIXED["imagenet"])
        return network.network.apply(network.variables, images, train=False)[0]
    config = load.config_of(source)
    config.data.shorter_side = 12  # else the pictures would be cropped
    config.eval_batch_size = 4
    write_validation_set(tmp_path / "imagenet" / "val", logits_of)
    (tmp_path / "imagenet" / "train" / "other").mkdir(parents=True)
    for folder in ("imagenet", "imagenet/val"):
        config.data.dir = str(tmp_path / folder)
        commands.run(Request("eval", config, None, model=source))
        assert ("top-1 33.33 % (standard error 15.71; published 50 %), top-5 66.67 %"
                in capsys.readouterr().out)
    metrics = evaluate_run(imported_run(source, config, None), config, quiet=True)
    assert metrics["given"]["examples"] == len(RANKS)
    config.data.dir = None
    with pytest.raises(InputError, match="--config.data.dir=FOLDER"):
        commands.run(Request("eval", config, None, model=source))
    config.data.dir = str(next((tmp_path / "imagenet" / "val").iterdir()))
    with pytest.raises(InputError, match=config.data.dir):
        commands.run(Request("eval", config, None, model=source))


def test_classes_of_folders():
    names = imagenet_classes()
    assert classes_of_folders(["n15075141", "tench"], names, "x").tolist() == [999, 0]
    assert classes_of_folders(["b", "c", "a"], "xyz", "x").tolist() == [1, 2, 0]
    with pytest.raises(InputError, match="'cat'.*ImageNet"):
        classes_of_folders(["tench", "cat", "dog"], names, "x")
    with pytest.raises(InputError, match="x .*2 .*3 "):
        classes_of_folders(["a", "b"], "xyz", "x")


def test_the_last_layer_gives_the_number_of_classes(source, tmp_path, capsys):
    network = untrained(tiny(), (12, 12, 3), tuple("abcdefg"))
    path = write_npz(tmp_path / "seven.npz", network.variables)
    loaded = load.load_pretrained(f"{source}={path}")
    assert loaded.info.class_names == tuple(f"class {i}" for i in range(7))
    assert re.search(f"{path}: .*7 classes", " ".join(capsys.readouterr().err.split()))
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, network.variables)
    workdir = imported_run(f"{source}={path}", None, None)
    assert len(trained.load(workdir).info.class_names) == 7
    config = load.config_of(source)
    config.model.num_classes = 8  # the user's number is used
    with pytest.raises(InputError, match="head"):
        load.load_pretrained(f"{source}={path}", config)


@pytest.mark.parametrize("library, name", [
    ("torchvision", "torchvision:squeezenet1_1"),
    pytest.param("keras", "keras:mobilenet_v2_0.35", marks=pytest.mark.slow)])
def test_files_of_libraries_give_their_number_of_classes(library, name, tmp_path):
    config = load.config_of(name)
    config.data.image_size, config.data.shorter_side = (64, 64), None
    config.model.num_classes = 9
    network = untrained(config, (64, 64, 3), tuple("abcdefghi"))
    path = write_library(library, tmp_path / f"weights{SUFFIX[library]}", network)
    config.model.num_classes = None
    loaded = load.load_pretrained(f"{name}={path}", config)
    assert len(loaded.info.class_names) == 9
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, network.variables)


def test_a_file_needs_its_network(network, tmp_path):
    path = str(write_npz(tmp_path / "weights.npz", network.variables))
    with pytest.raises(InputError, match="--config=configs/network.py:NAME"):
        load.config_of(path)
    with network.config.unlocked():
        config = network.config.copy_and_resolve_references()
    config.data.scaling = "standard"
    with pytest.raises(InputError, match="unit, signed, imagenet, caffe"):
        load.load_pretrained(path, config)
    config.data.update(scaling="signed", image_size=(12, 12), channels=3)
    config.model.num_classes = 1000
    loaded = load.load_pretrained(path, config)
    assert loaded.info.scaling == FIXED["signed"]
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, network.variables)
    config.model.num_classes = 7
    with pytest.raises(InputError, match=r"head.*1000"):
        load.load_pretrained(path, config)


def test_a_file_for_another_variant_of_a_network_warns(tmp_path, caplog):
    config = load.config_of("torchvision:resnet18")
    config.data.image_size, config.data.shorter_side = (32, 32), None
    config.model.num_classes = 3
    network = untrained(config, (32, 32, 3), tuple("abc"))
    path = write_library("torchvision", tmp_path / "x.safetensors", network)
    load.load_pretrained(str(path), config)
    assert not caplog.text
    config.model.bn = "keras"
    load.load_pretrained(str(path), config)
    assert "torchvision" in caplog.text and "0.001 instead of 1e-05" in caplog.text


def test_a_run_starts_from_a_published_set(source, network, tmp_path, monkeypatch):
    monkeypatch.setattr("cnn_jax.training.train.draw", lambda *_: None)
    read = []  # the file must be read only once
    monkeypatch.setattr("cnn_jax.training.setup.read_source", lambda name: (
        read.append(name), load.read_source(name))[1])
    config = tiny({"data.channels": 3, "data.image_size": (12, 12), "epochs": 1,
                   "model.init_from": source, "model.bn": "keras",
                   "optimizer.learning_rate": 1e-9})
    training.run(config, tmp_path / "run", quiet=True)
    assert read == [source]
    tuned = trained.load(tmp_path / "run").variables["params"]
    for layer, tree in network.variables["params"].items():
        if layer != "head":
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
                         tuned[layer], tree)
    assert tuned["head"]["bias"].shape == (10,)
    config.model.bn = "paper"
    with pytest.raises(InputError, match="model.name=baseline.*model.bn=keras"):
        training.run(config, tmp_path / "other", quiet=True)


@pytest.mark.parametrize("file,reason", [
    ("missing.pt", "missing.pt"), ("damaged.pt", "damaged.pt"), ("", "http")])
def test_an_unreachable_source_is_refused_before_data_is_loaded(
        source, tmp_path, monkeypatch, file, reason):
    monkeypatch.setattr("cnn_jax.data.load", None)
    monkeypatch.setattr("cnn_jax.download._TRIES", 1)
    (tmp_path / "damaged.pt").write_bytes(b"PK" + bytes(100))
    (tmp_path / "served" / "tiny.npz").unlink()
    named = f"{source}={tmp_path / file}" if file else source
    config = tiny({"model.init_from": named, "model.bn": "keras"})
    with pytest.raises(InputError, match=f"config.model.init_from = {named}.*{reason}"):
        training.run(config, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def without(variables, *layers):
    """Leaves layers out of the parameters."""
    return variables | {"params": {
        layer: tree for layer, tree in variables["params"].items()
        if layer not in layers}}


def test_a_run_starts_from_a_trunk_in_a_file(source, network, tmp_path, monkeypatch,
                                             capsys):
    """The row gives the network; the file may lack the head, but nothing else."""
    monkeypatch.setattr("cnn_jax.training.train.draw", lambda *_: None)
    trunk = write_npz(tmp_path / "trunk.npz", without(network.variables, "head"))
    config = transfer.get_config(f"{source}={trunk}")
    config.update_from_flattened_dict({
        "data.name": "digits", "data.limit": 64, "epochs": 1, "eval_batch_size": 100})
    training.run(config, tmp_path / "run")
    lines = capsys.readouterr().out
    assert re.search(f"{source}={trunk}: .*3 layers; .*: head", lines)
    assert re.search("1,290 of [0-9,]+ parameters.*: head; frozen: trunk", lines)
    tuned = trained.load(tmp_path / "run").variables["params"]
    for layer in ("group1_conv1", "fc1"):
        jax.tree.map(np.testing.assert_array_equal, tuned[layer],
                     network.variables["params"][layer])
    less = write_npz(tmp_path / "less.npz", without(network.variables, "head", "fc1"))
    config.model.init_from = f"{source}={less}"
    with pytest.raises(InputError, match="missing params/fc1/kernel"):
        training.run(config, tmp_path / "other", quiet=True)
    with pytest.raises(InputError, match=r"missing params/head/kernel"):
        load.load_pretrained(f"{source}={trunk}")  # this needs all layers


def test_our_weights_for_other_classes_start_a_run(source, network, tmp_path,
                                                   monkeypatch, capsys):
    """Under our own names too, a head with other classes starts from random values."""
    monkeypatch.setattr("cnn_jax.training.train.draw", lambda *_: None)
    head = jax.tree.map(lambda x: x[..., :7], network.variables["params"]["head"])
    params = network.variables["params"] | {"head": head}
    file = write_npz(tmp_path / "seven.npz", network.variables | {"params": params})
    config = transfer.get_config(f"{source}={file}")
    config.update_from_flattened_dict({
        "data.name": "digits", "data.limit": 64, "epochs": 1, "eval_batch_size": 100})
    training.run(config, tmp_path / "run")
    assert "newly initialized: head" in capsys.readouterr().out


def test_a_file_alone_needs_the_config_of_its_network(network, picture, tmp_path,
                                                      capsys):
    file = write_npz(tmp_path / "weights.npz", network.variables)
    with pytest.raises(InputError, match="configs/network.py"):
        commands.run(Request("predict", None, None, model=str(file),
                             paths=(str(picture),)))
    config = tiny({"data.scaling": "imagenet", "data.image_size": (12, 12),
                   "data.channels": 3})
    commands.run(Request("predict", config, tmp_path / "run", model=str(file),
                         paths=(str(picture),)))
    assert "wide.png: " in capsys.readouterr().out


def test_a_file_of_another_network_is_refused(network, tmp_path):
    file = write_npz(tmp_path / "other.npz", network.variables)
    for source in ("torchvision:resnet18", "timm:vgg16.tv_in1k"):
        with pytest.raises(InputError, match="other.npz"):
            load.load_pretrained(f"{source}={file}")


def test_a_file_is_found_among_the_downloaded_weights(source, network, tmp_path):
    folder = tmp_path / "cache" / "weights"
    folder.mkdir(parents=True)
    write_npz(folder / "mine.npz", network.variables)
    loaded = load.load_pretrained(f"{source}=mine.npz")
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, network.variables)


def test_finetuning_continues_with_all_layers(source, network, tmp_path, monkeypatch):
    monkeypatch.setattr("cnn_jax.training.train.draw", lambda *_: None)
    config = transfer.get_config(source)
    config.update_from_flattened_dict({
        "data.name": "digits", "data.limit": 64, "epochs": 1, "eval_batch_size": 100})
    training.run(config, tmp_path / "head", quiet=True)
    config = finetune.get_config(str(tmp_path / "head"))
    assert config.data.image_size == (12, 12) and config.optimizer.depth_decay < 1
    config.epochs = 1
    training.run(config, tmp_path / "all", quiet=True)
    before, after = (trained.load(tmp_path / name).variables["params"]
                     for name in ("head", "all"))
    moved = {layer: max(np.abs(a - b).max() for a, b in zip(
        jax.tree.leaves(after[layer]), jax.tree.leaves(before[layer])))
        for layer in after}
    assert 0 < moved["group1_conv1"] < moved["fc1"] < moved["head"] < 1e-3, moved


def test_an_unknown_source_names_the_nearest():
    with pytest.raises(InputError, match="torchvision:resnet18"):
        load.load_pretrained("torchvision:resnet19")
    with pytest.raises(InputError, match="torchvision:resnet50=weights.pt"):
        transfer.get_config("weights.pt")


def test_every_published_set_has_a_config():
    for source in pretrained.PRETRAINED:
        config = load.config_of(source)
        load.check_same_network(source, config)
        data.check(config.data)
        for ours, theirs in zip(FIXED[config.data.scaling],
                                pretrained.PRETRAINED[source].scaling):
            np.testing.assert_allclose(ours, theirs)
