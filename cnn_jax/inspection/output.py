"""Draws pictures into a workdir, with TensorBoard's events, metrics and the report."""

from collections.abc import Mapping
from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.console import Reporter
from cnn_jax.inspection.draw import activation_stats, classification_metrics
from cnn_jax.inspection.draw.events import add, open_events
from cnn_jax.inspection.draw.picture import Row, write
from cnn_jax.inspection.explain.classification_metrics import save
from cnn_jax.inspection.inspected_run import InspectedRun
from cnn_jax.inspection.pages.report import PICTURES, write_report
from cnn_jax.inspection.selection import NotForThisNetwork

# What a run draws when it ends: it takes one forward pass over the split. All else is
# left to --mode=inspect.
AT_END: dict[str, Row] = {
    "classification_metrics": classification_metrics.metrics,
    "weights": activation_stats.weights}


def draw_at_end(run: InspectedRun, workdir: Path, progress: Reporter) -> None:
    """Draws the pictures and the report that every run leaves."""
    draw_rows(run, AT_END, run.config.inspect, workdir, progress)


def draw_rows(run: InspectedRun, rows: Mapping[str, Row], settings: ConfigDict,
              workdir: Path, progress: Reporter) -> list[Path]:
    """Draws rows of `pictures.PICTURES`, writes the report, and returns the pictures.

    A row that this kind of network does not have is skipped with a line that says so,
    unless `settings.only` names it.
    """
    paths: list[Path] = []
    done, name = 0, ""
    run = run.with_progress(lambda text: progress.advance(done, text))
    with progress.progress_bar("pictures", len(rows)), open_events(workdir) as events:
        for done, (name, row) in enumerate(rows.items()):
            progress.advance(done, name)
            try:
                for picture in row(run, settings):
                    file, = write([picture], workdir / PICTURES, run.step)
                    add(events, picture, file, run.step)
                    paths.append(file)
            except NotForThisNetwork as error:
                if settings.only:
                    raise
                progress.line(f"without {name}: {error}")
    with progress.under_way("writing the report", plain=False):
        if "classification_metrics" in rows:
            save(classification_metrics.measure_run(run), workdir)
        write_report(workdir)
    return paths
