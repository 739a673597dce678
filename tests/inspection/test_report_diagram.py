"""The report embeds the diagram of the network as an image."""

import base64
import re
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tests.support.made_runs import made_run
from tests.support.tiny_runs import tiny

from cnn_jax import networks
from cnn_jax.console import Reporter
from cnn_jax.data.examples import Examples
from cnn_jax.data.scaling import Scaling
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw.network import draw_network
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.pages.report import write_report
from cnn_jax.tasks import classify
from flax import linen as nn


class Sorted(nn.Module):
    """A network with an operation that layer graphs do not support."""

    num_classes: int = 10

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.num_classes, name="head")(jnp.sort(x, 1).mean((1, 2)))


def inspected(network) -> InspectedRun:
    pixels = np.zeros((1, 8, 8, 1), np.uint8)
    variables = jax.eval_shape(lambda: network.init(
        jax.random.key(0), jnp.zeros((1, 8, 8, 1)), train=False))
    return InspectedRun("run", network, variables, Scaling(0.0, 1 / 255), (), pixels,
                        None, (), "test", Examples(pixels, np.zeros(1)), tiny(), 1, [],
                        classify.TASK)


def test_the_report_shows_the_diagram_folded_and_scrolling(tmp_path):
    run = made_run(tmp_path / "run")
    assert "Diagram of" not in write_report(run).read_text()
    draw_network(inspected(networks.create("baseline", 10)), run, Reporter(quiet=True))
    text = write_report(run).read_text()
    folded = re.search(r"<details>\s*<summary>Diagram.*?</details>", text, re.DOTALL)[0]
    assert '<div class="scroll"' in folded
    content = re.search(r'src="data:image/svg\+xml;base64,([^"]+)"', folded)[1]
    assert base64.b64decode(content) == (run / "network.svg").read_bytes()
    root = ElementTree.fromstring(base64.b64decode(content))
    assert f'width="{root.get("width")}" height="{root.get("height")}"' in folded
    assert root.get("data-parameters") == "13874"


def test_a_damaged_diagram_is_named(tmp_path):
    run = made_run(tmp_path / "run")
    (run / "network.svg").write_text("<html>")
    with pytest.raises(InputError, match="network.svg"):
        write_report(run)


def test_a_network_that_cannot_be_traced_has_no_diagram(tmp_path, capsys):
    draw_network(inspected(Sorted()), tmp_path, Reporter())
    assert re.search("diagram.*Sorted.*sort", capsys.readouterr().out)
    assert not [*tmp_path.iterdir()]
