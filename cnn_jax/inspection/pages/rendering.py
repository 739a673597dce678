"""Fills the templates of pages. A page is one file, with pictures as data URIs.

Everything that comes from a workdir is escaped: names of classes, fields and files.
"""

import base64
import datetime
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cnn_jax import __version__
from cnn_jax.inspection.draw import picture as draw
from cnn_jax.inspection.draw.picture import DPI, IndexRow, Picture

TEMPLATES = Path(__file__).parent / "templates"
LONG = 24  # characters; longer words may break anywhere in a table
LEAST = 0.75  # fraction of its width to which a picture may shrink; then it scrolls
WIDE = 480  # CSS pixels; a wider picture takes a whole row, not a column


class Table(NamedTuple):
    """Holds a table as text; the first cell of a row is the heading of the row."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    text_columns: int  # number of the first columns that hold text; others hold numbers
    last: Sequence[str] | None = None  # the row below the line, such as means


def render(template: str, **values: Any) -> str:
    """Fills a template. The page is ASCII, with references such as &#233;."""
    # Imported here: not every command writes a page.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["has_long_word"] = lambda cell: any(
        len(word) > LONG for word in cell.split())
    now = datetime.datetime.now(datetime.UTC)
    text = environment.get_template(template).render(
        version=__version__, written=f"{now:%Y-%m-%d %H:%M} UTC", **values)
    return text.encode("ascii", "xmlcharrefreplace").decode()


def drawn(picture: Picture) -> dict[str, Any]:
    """Embeds a picture that has just been drawn."""
    file = io.BytesIO()
    draw.render(picture, file)
    return embedded(file.getvalue(), picture)


def stored(folder: Path, row: IndexRow, best_step: int | None) -> dict[str, Any]:
    """Embeds a picture from a folder.

    A note says if it is missing or shows another checkpoint than the best one.
    """
    path = folder / f"{row.name}.png"
    if not path.exists():
        return embedded(b"", row, f"{path.name} is missing: draw it again.")
    return embedded(path.read_bytes(), row, "" if row.step == best_step
                    else f"From the checkpoint of step {row.step}.")


def embedded(png: bytes, texts: Picture | IndexRow, note: str = "") -> dict[str, Any]:
    """Returns what the templates need: texts, data URI, and size in CSS pixels."""
    # The PNG header: 8 bytes of signature, length and name of a chunk, width, height.
    width, height = (round(int.from_bytes(png[at:at + 4]) * 96 / DPI)
                     for at in (16, 20))
    return {"name": texts.name, "title": texts.title, "caption": texts.caption,
            "alt": texts.alt, "note": note, "uri": data_uri(png) if png else "",
            "width": width, "height": height, "least": round(LEAST * width),
            "wide": width > WIDE}


def data_uri(png: bytes) -> str:
    """Returns a data URI that holds a PNG file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
