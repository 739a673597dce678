"""Diagrams of networks: boxes, frames and arrows in Mermaid's text."""

import re

import jax
import jax.numpy as jnp
import pytest

from cnn_jax import networks
from cnn_jax.layers import Layers
from cnn_jax.networks.diagram import mermaid
from cnn_jax.networks.graph import layer_graph


def graph_of(name, shape):
    network = networks.create(name, layers=Layers(conv="lax", pool="lax"))
    return layer_graph(network, jax.eval_shape(lambda: network.init(
        jax.random.key(0), jnp.zeros((1, *shape)), train=False)), shape)


def test_lenet_is_a_chain():
    lines = mermaid(graph_of("lenet5", (28, 28, 1))).splitlines()
    assert lines[:4] == [
        "flowchart TD", '  n0["<b>input</b><br/>images<br/>28 × 28 × 1"]',
        '  n1["<b>centre</b><br/>Pad<br/>32 × 32 × 1"]',
        '  n2["<b>conv1</b><br/>Conv 5x5, tanh<br/>28 × 28 × 6"]']
    assert [line for line in lines if "-->" in line] == [
        f"  n{i} --> n{i + 1}" for i in range(9)]


@pytest.mark.parametrize("inside, boxes", [(True, 35), (False, 13)])
def test_blocks_are_frames_or_boxes(inside, boxes):
    text = mermaid(graph_of("cifar_resnet20", (8, 8, 3)), inside)
    names = re.findall(r'n\d+\["<b>(.*?)</b>', text)
    assert len(names) == boxes and ("add" in names) == inside
    assert text.count("subgraph stage2_block1_frame") == inside
    arrows = re.findall(r"(n\d+) --> (n\d+)", text)
    ids = set(re.findall(r"(n\d+)\[", text))
    assert {end for arrow in arrows for end in arrow} == ids
    assert len(set(arrows)) == len(arrows)
