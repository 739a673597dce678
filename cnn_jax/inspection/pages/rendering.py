"""Pages that are one file: templates filled by Jinja2, pictures as data URIs.

Everything that comes from a workdir is escaped: names of classes, fields and files.
"""

import base64
import datetime
import io
from pathlib import Path
from typing import Any

from cnn_jax import __version__
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw.picture import INDEX, IndexRow, Picture

TEMPLATES = Path(__file__).parent / "templates"
PNG = b"\x89PNG\r\n\x1a\n"
DPI = 120  # of the pictures; CSS counts 96 pixels to the inch
LONG = 24  # characters: longer words may break anywhere in a table
LEAST = 0.75  # of its size in CSS pixels: how far a picture shrinks before it scrolls
WIDE = 480  # CSS pixels: a wider picture takes a row, since it would not fit a column


def render(template: str, **values: Any) -> str:
    """Fills a template; the page is ASCII, with references such as &#233;."""
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
    """Returns what the templates need of a picture that is drawn now."""
    file = io.BytesIO()
    picture.figure.savefig(file, dpi=DPI, format="png")
    return {"title": picture.title, "caption": picture.caption, "alt": picture.alt,
            "note": ""} | embedded(file.getvalue())


def stored(folder: Path, row: IndexRow, step: int | None) -> dict[str, Any]:
    """Returns what the templates need of a picture in a folder.

    step: of the best checkpoint; a picture of another one says so.
    Raises InputError where the row or the file is not what `picture.write` makes.
    """
    if not row.name or Path(row.name).name != row.name:
        raise InputError(f"{folder / INDEX} is damaged ({row.name!r} is not the name "
                         f"of a picture): delete {folder}, then draw again")
    image = {"name": row.name, "title": row.title, "caption": row.caption,
             "alt": row.alt, "note": ""}
    if row.step not in (None, step):
        image["note"] = f"From the checkpoint of step {row.step}."
    path = folder / f"{row.name}.png"
    if not path.is_file():
        return image | {"uri": "", "wide": False,
                        "note": f"{path.name} is missing: draw it again."}
    content = path.read_bytes()
    if not content.startswith(PNG) or len(content) < 24:
        raise InputError(f"{path} is not a PNG picture: delete it, then draw again")
    return image | embedded(content)


def embedded(png: bytes) -> dict[str, Any]:
    """Returns a PNG file as a data URI, with its size in CSS pixels."""
    # The header: a signature of 8 bytes, length and name of a chunk, width, height.
    width, height = (round(int.from_bytes(png[at:at + 4]) * 96 / DPI)
                     for at in (16, 20))
    return {"uri": data_uri(png), "width": width, "height": height,
            "least": round(LEAST * width), "wide": width > WIDE}


def data_uri(png: bytes) -> str:
    """Returns an address that holds a PNG file."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
