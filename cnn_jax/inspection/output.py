"""What looking inside leaves in a workdir: pictures, events, figures, the report."""

from collections.abc import Callable, Mapping
from pathlib import Path

from cnn_jax.inspection.draw import classification_metrics as quality_pictures
from cnn_jax.inspection.explain import classification_metrics as quality, units
from cnn_jax.inspection.draw.events import add, open_events
from cnn_jax.inspection.draw.picture import write
from cnn_jax.inspection.pages.report import PICTURES, write_report
from cnn_jax.inspection.explain.selection import NotForThisNetwork
from cnn_jax.inspection.settings import Settings
from cnn_jax.inspection.inspected_run import Subject
from cnn_jax.console import Reporter

# What a run draws when it ends: one compiled forward pass over the part; all else is
# left to --mode=inspect.
AT_END = {"quality": quality_pictures.quality, "weights": units.weights}


def draw_at_end(subject: Subject, workdir: Path, progress: Reporter) -> None:
    draw_rows(subject, AT_END, Settings(), workdir, progress)


def draw_rows(subject: Subject, rows: Mapping[str, Callable], settings: Settings,
              workdir: Path, progress: Reporter) -> list[Path]:
    """Draws rows of `pictures.PICTURES` into WORKDIR/pictures and TensorBoard's events,
    then writes the report; returns the files.

    Rows that this kind of network does not have are left out, with a line that says so,
    unless `settings.only` names them. The row 'quality' also leaves its figures as
    quality.json.
    """
    paths, done = [], 0
    subject = subject.telling(lambda text: progress.advance(done, text))
    progress.start("pictures", len(rows))
    try:
        with open_events(workdir) as events:
            for done, (name, row) in enumerate(rows.items()):
                progress.advance(done, name)
                try:
                    for picture in row(subject, settings):
                        files = write([picture], workdir / PICTURES, subject.step)
                        add(events, picture, files[0], subject.step)
                        paths += files
                except NotForThisNetwork as error:
                    if settings.only:
                        raise
                    progress.line(f"without {name}: {error}")
    finally:
        progress.stop()
    with progress.under_way("writing the report", plain=False):
        if "quality" in rows:
            quality.save(quality.measure(subject), workdir)
        write_report(workdir)
    return paths
