"""What is under way, for those who wait and where no steps can be counted."""

import contextlib
from collections.abc import Iterator

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cnn_jax.training.metrics import Reporter


@contextlib.contextmanager
def under_way(report: Reporter, words: str, plain: bool = True) -> Iterator[None]:
    """Shows the words while the block runs: on a terminal beside a spinner and the time
    it has taken, until it ends; elsewhere as a line, if `plain`."""
    if not report.console.is_terminal:
        if plain:
            report.line(f"{words} ...")
        yield
        return
    with Progress(SpinnerColumn(), TextColumn("{task.description}", markup=False),
                  TimeElapsedColumn(), console=report.console, transient=True) as bar:
        bar.add_task(words, total=None)
        yield
