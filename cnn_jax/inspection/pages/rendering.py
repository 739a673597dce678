"""Pages that are one file: templates filled by Jinja2, pictures as data URIs.

Whatever comes from a workdir is escaped: names of classes, fields and files are text.
"""

import base64
import datetime
import io
from pathlib import Path
from typing import Any

from cnn_jax import __version__
from cnn_jax.errors import InputError
from cnn_jax.inspection.draw.picture import Picture

TEMPLATES = Path(__file__).parent / "templates"
PNG = b"\x89PNG\r\n\x1a\n"
DPI = 120  # of the pictures; CSS counts 96 pixels to the inch
LONG = 24  # characters: longer words may break anywhere in a table
LEAST = 0.75  # of its size in CSS pixels: how far a picture shrinks before it scrolls
WIDE = 680  # CSS pixels: from here on a picture takes a row of its own


def render(template: str, **values: Any) -> str:
    """A page as text in ASCII: other characters are references such as &#233;"""
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
    """What the templates need of a picture."""
    file = io.BytesIO()
    picture.figure.savefig(file, dpi=DPI, format="png")
    return {"title": picture.title, "caption": picture.caption, "alt": picture.alt,
            "note": ""} | embedded(file.getvalue())


def stored(folder: Path, row: dict[str, Any], step: int | None) -> dict[str, Any]:
    """The same of a row of pictures.json and the file beside it.

    step: of the best checkpoint; a picture of another one says so.
    Raises InputError where the row or the file is not what `picture.write` makes.
    """
    damaged = f"{folder / 'pictures.json'} is damaged: delete {folder}, then draw again"
    words = {key: row.get(key) for key in ("name", "title", "caption", "alt")}
    missing = [key for key, word in words.items() if not isinstance(word, str)]
    if missing:
        raise InputError(f"{damaged} (picture {row['name']!r} lacks "
                         f"{', '.join(missing)})")
    name = words.pop("name")
    if not name or Path(name).name != name:
        raise InputError(f"{damaged} ({name!r} is no name of a picture)")
    found = {"name": name, "note": ""} | words
    if row.get("step") not in (None, step):
        found["note"] = f"Of the checkpoint of step {row['step']}."
    path = folder / f"{name}.png"
    if not path.is_file():
        return found | {"uri": "", "wide": False,
                        "note": f"{path.name} is missing: draw it again."}
    content = path.read_bytes()
    if not content.startswith(PNG) or len(content) < 24:
        raise InputError(f"{path} is no PNG picture: delete it, then draw again")
    return found | embedded(content)


def embedded(png: bytes) -> dict[str, Any]:
    """A PNG file as a data URI, with its size in CSS pixels."""
    # The header: a signature of 8 bytes, length and name of a chunk, width, height.
    width, height = (round(int.from_bytes(png[at:at + 4]) * 96 / DPI)
                     for at in (16, 20))
    return {"uri": data_uri(png), "width": width, "height": height,
            "least": round(LEAST * width), "wide": width > WIDE}


def data_uri(png: bytes) -> str:
    """A PNG file as an address that holds it."""
    return "data:image/png;base64," + base64.b64encode(png).decode()
