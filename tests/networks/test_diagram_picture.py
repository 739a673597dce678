"""Pictures of networks have every layer once, without overlaps, and all parameters."""

import functools
import re
import xml.etree.ElementTree as ElementTree

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest
from tests.support.tiny_runs import tiny

from cnn_jax import networks
from cnn_jax.cli import commands
from cnn_jax.cli.request import Request
from cnn_jax.errors import InputError
from cnn_jax.layers import Layers
from cnn_jax.networks.diagram.blocks import blocks_of
from cnn_jax.networks.diagram.items import INPUT, OUTPUT
from cnn_jax.networks.diagram.layout import draw_level
from cnn_jax.networks.diagram.svg import measure, svg
from cnn_jax.networks.graph import layer_graph
from cnn_jax.networks.summary import size_of
from cnn_jax.networks.trace import trace_shapes

SVG = "{http://www.w3.org/2000/svg}"


class UNet(nn.Module):
    """Two levels down and up, with names that XML and Mermaid must escape."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, train):
        skips = []
        for i in (1, 2):
            x = Double(4 * i, name=f"down{i} <&\"'>")(x)
            skips.append(x)
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = Double(16, name="bottom")(x)
        for i in (2, 1):
            x = Up(4 * i, name=f"up{i}")(x, skips.pop())
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class Double(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        for i in (1, 2):
            x = nn.relu(nn.Conv(self.features, (3, 3), name=f"conv{i}")(x))
        return x


class Up(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x, skip):
        x = nn.Conv(self.features, (1, 1), name="narrow")(x)
        n, h, w, c = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 2, c)
                             ).reshape(n, 2 * h, 2 * w, c)
        return Double(self.features, name="convs")(jnp.concatenate([x, skip], -1))


class Shared(nn.Module):
    """Runs one block twice, with a layer in between, and has an unused parameter."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, train):
        self.param("unused", nn.initializers.zeros, (7,))
        block = Double(4, name="block")
        x = block(nn.Conv(4, (1, 1), name="in")(x))
        x = block(nn.Conv(4, (1, 1), name="between")(x))
        return nn.Dense(self.num_classes, name="head")(x.mean((1, 2)))


class Wrapped(nn.Module):
    """Has all layers inside one module, too many for one column."""

    num_classes: int = 3
    inside: bool = False

    @nn.compact
    def __call__(self, x, train):
        if not self.inside:
            return Wrapped(inside=True, name="backbone")(x, train)
        for i in range(14):
            x = nn.relu(nn.Conv(4 + i, (3, 3), name=f"conv{i}")(x))
        return nn.Dense(self.num_classes, name="head")(x.max((1, 2)))


OWN = {"unet": (UNet(), (16, 16, 3)), "shared": (Shared(), (8, 8, 3)),
       "wrapped": (Wrapped(), (8, 8, 3))}
FAST = ("unet", "shared", "wrapped", "lenet5", "cifar_resnet20", "squeezenet1_1",
        "shapes_fcn")
SLOW = ("alexnet", "googlenet", "mobilenet_v2", "vgg16", "resnet50", "densenet121",
        "inception_v3", "resnet50_v2", "xception", "mobilenet_v1", "cifar_resnet110",
        "resnext50_32x4d", "tf2_inception10")


@functools.cache
def graph_of(name):
    network, shape = OWN.get(name) or (
        networks.create(name, layers=Layers(conv="lax", pool="lax")),
        networks.NETWORKS[name].input_shape)
    calls = trace_shapes(network, None, shape)
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
                             dict(calls[-1].variables))
    return layer_graph(network, variables, shape), calls


@pytest.fixture(scope="module", params=[
    *FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def drawn(request):
    graph, calls = graph_of(request.param)
    return graph, calls, svg(graph, calls, "a <name> & more")


def test_the_picture_has_every_layer_once_and_all_parameters(drawn):
    graph, calls, text = drawn
    root = ElementTree.fromstring(text)
    layers = [group for group in root.iter(SVG + "g") if group.get("class") == "layer"]
    names = [name for group in layers for title in group.findall(SVG + "title")
             for name in title.text.split("\n")]
    assert sorted(names) == sorted(node.name for node in graph.nodes)
    total = size_of(calls[-1].variables["params"])
    assert root.get("data-parameters") == str(total)
    unused = re.search(r"parameters that prediction does not use: (.*)", "\n".join(
        element.text for element in root.iter(SVG + "text")))
    others = [int(count.replace(",", "")) for count in re.findall(
        r"\(([\d,]+)\)", unused[1])] if unused else []
    assert sum(int(group.get("data-parameters")) for group in layers) + sum(
        others) == total


def test_nothing_overlaps_and_no_line_crosses_a_box(drawn):
    graph, calls, _ = drawn
    assert check(draw_level(blocks_of(graph, calls).level, measure)) >= 9


def check(drawing, edge=1.0) -> int:
    """Asserts the geometry of a level and of inner ones; counts the boxes."""
    count = 0
    rects = drawing.rects
    for i, rect in enumerate(rects):
        assert 0 <= rect.x and rect.x + rect.width <= drawing.width, rect.item
        assert 0 <= rect.y and rect.y + rect.height <= drawing.height, rect.item
        for other in rects[:i]:
            assert apart(rect, (other.x, other.y), (other.x + other.width,
                                                    other.y + other.height))
        count += 1
        if rect.inner is not None:
            assert rect.inner.width <= rect.width + edge
            assert rect.inner.height + rect.header <= rect.height + edge
            count += check(rect.inner)
    for line in drawing.lines:
        ends = line.edge.source, line.edge.target
        for start, stop in zip(line.points, line.points[1:]):
            assert start[0] == stop[0] or start[1] == stop[1]
            assert all(-edge <= x <= drawing.width + edge and
                       -edge <= y <= drawing.height + edge for x, y in (start, stop))
            for i, rect in enumerate(rects):
                assert apart(rect, start, stop), (rect.item, line, i in ends)
        touches(drawing, line, 0, ends[0], INPUT, 0)
        touches(drawing, line, -1, ends[1], OUTPUT, drawing.height)
    return count


def apart(rect, start, stop) -> bool:
    """Tells whether a segment or rectangle is outside another; borders may touch."""
    (left, right), (top, bottom) = (sorted(pair) for pair in zip(start, stop))
    return (right <= rect.x + 0.1 or left >= rect.x + rect.width - 0.1
            or bottom <= rect.y + 0.1 or top >= rect.y + rect.height - 0.1)


def touches(drawing, line, end, item, outside, border) -> None:
    """Asserts that a line begins below its source, and ends above its target."""
    x, y = line.points[end]
    if item == outside:
        assert y == pytest.approx(border)
        return
    rect = drawing.rects[item]
    assert rect.x <= x <= rect.x + rect.width
    assert y == pytest.approx(rect.y + (rect.height if end == 0 else 0))


@pytest.mark.parametrize("name, text", [
    ("cifar_resnet20", "2 × ResidualBlock"), ("squeezenet1_1", "Fire"),
    pytest.param("densenet121", "24 × DenseLayer", marks=pytest.mark.slow),
    pytest.param("resnet50", "5 × ResidualBlock", marks=pytest.mark.slow)])
def test_equal_blocks_are_one_frame_with_their_number(name, text):
    graph, calls = graph_of(name)
    assert f"{text} · " in svg(graph, calls, name)


# --mode=summary --diagram=FILE

class Sorted(nn.Module):
    """A network with an operation that layer graphs do not support."""

    num_classes: int = 3

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.num_classes, name="head")(jnp.sort(x, 1).mean((1, 2)))


def summary(path, name="lenet5", mode="summary"):
    commands.run(Request(mode, tiny({"model.name": name, "data.image_size": (8, 8),
                                     "data.channels": 1} if name != "lenet5" else
                                    {"model.name": name}), None, diagram=path))


@pytest.mark.parametrize("suffix, start", [
    ("svg", "<svg "), ("mmd", "flowchart TD\n"), ("md", "# lenet5\n\n```mermaid\n")])
def test_the_suffix_decides_what_is_written(suffix, start, tmp_path, capsys):
    path = tmp_path / "new folder" / f"net.{suffix}"
    summary(path)
    assert path.read_text(encoding="utf-8").startswith(start)
    output = capsys.readouterr().out
    assert output.startswith("LeNet5 on 32x32x1") and output.endswith(f"{path}\n")


def test_networks_that_cannot_be_drawn_are_refused_before_printing(
        tmp_path, monkeypatch, capsys):
    row = networks.Network(Sorted, (8, 8, 1))
    monkeypatch.setitem(networks.NETWORKS, "sorted", row)
    (tmp_path / "file").write_text("")
    for path, name, message in [
            (tmp_path / "net.png", "lenet5", r"net\.png.*\.svg.*\.mmd"),
            (tmp_path / "file" / "net.svg", "lenet5", "file"),
            (tmp_path / "net.svg", "sorted", "sort")]:
        with pytest.raises(InputError, match=message):
            summary(path, name)
    with pytest.raises(InputError, match="--mode=summary"):
        summary(tmp_path / "net.svg", mode="show_data")
    assert not capsys.readouterr().out and [*tmp_path.iterdir()] == [tmp_path / "file"]
