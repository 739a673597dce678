"""Draws the diagram of a run's network into its workdir."""

from pathlib import Path

from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.files import write_atomically
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.networks import diagram

FILE = "network.svg"  # in a workdir


def draw_network(run: InspectedRun, workdir: Path, progress: Reporter) -> None:
    """Writes WORKDIR/network.svg, unless it is there.

    A line says so if the layer graph of the network cannot be read.
    """
    path = workdir / FILE
    if path.exists():
        return
    with progress.under_way("drawing the network", plain=False):
        try:
            text = diagram.drawn(run.network, run.config.model.name,
                                 run.pixels.shape[1:], path.suffix)
        except InputError as error:
            progress.line(f"without a diagram of the network: {error}")
        else:
            write_atomically(path, text)
