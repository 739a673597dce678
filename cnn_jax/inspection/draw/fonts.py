"""Finds installed fonts for characters that matplotlib's own font does not draw.

Names of classes and files may be in any script. matplotlib draws each character in the
first font of a list that has it. If none has it, it would draw a box and warn, so such
a character is escaped here.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from typing import TYPE_CHECKING

from cnn_jax.errors import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontEntry
    from matplotlib.ft2font import FT2Font

# They choose between two shapes of the character before them, and draw nothing.
VARIATION_SELECTORS = "\ufe0e\ufe0f"
BOXES = "LastResort"  # a font that draws a box for every character
NORMAL = 400  # the weight of upright text


def drawable(text: str) -> str:
    """Escapes characters that no installed font draws, and those that break a line."""
    return "".join(
        c if c.isascii() or family_of(c) else ascii(c)[1:-1]
        for c in one_line(text) if c not in VARIATION_SELECTORS)


def families(text: str) -> list[str]:
    """Lists the default font families, and then the others that a text needs."""
    from matplotlib import rcParams

    needed = (family_of(c) for c in text if not c.isascii())
    return list(dict.fromkeys([*rcParams["font.family"], *filter(None, needed)]))


def use_fonts(figure: Figure) -> None:
    """Gives each text of a figure the fonts that its characters need."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if not text.get_text().isascii():
            text.set(fontfamily=families(text.get_text()), fontweight="normal")


@functools.cache
def family_of(character: str) -> str | None:
    """Names the first font family that draws a character, the default one first."""
    if draws(default(), character):
        return default().name
    return next((font.name for font in installed() if draws(font, character)), None)


@functools.cache
def default() -> FontEntry:
    """Finds the font that matplotlib draws with, under the name of its family."""
    from matplotlib import font_manager, rcParams

    path = font_manager.findfont(font_manager.FontProperties())
    font = next(font for font in font_manager.fontManager.ttflist if font.fname == path)
    return dataclasses.replace(font, name=rcParams["font.family"][0])


@functools.cache
def installed() -> list[FontEntry]:
    """Lists a font of each family, those without serifs first.

    matplotlib keeps a list of fonts. Those that were installed later are added to it.
    """
    from matplotlib import font_manager

    manager = font_manager.fontManager
    known = {str(font.fname) for font in manager.ttflist}
    for path in sorted({*font_manager.findSystemFonts()} - known):
        # As matplotlib does: it cannot draw bitmap fonts, such as Noto Color Emoji.
        with contextlib.suppress(OSError, RuntimeError, NotImplementedError):
            manager.addfont(path)
    best: dict[str, FontEntry] = {}
    for font in sorted(manager.ttflist, key=lambda font: (
            font.style != "normal", font.stretch != "normal", distance(font))):
        if not font.name.replace(" ", "").startswith(BOXES):
            best.setdefault(font.name, font)
    # matplotlib warns about a family without the normal weight.
    manager.ttflist += [dataclasses.replace(font, weight=NORMAL)
                        for font in best.values() if distance(font)]
    return sorted(best.values(), key=lambda font: ("Sans" not in font.name, font.name))


def distance(font: FontEntry) -> int:
    """Returns how far the weight of a font is from the normal one."""
    from matplotlib.font_manager import weight_dict

    weight = font.weight
    return abs((weight_dict[weight] if isinstance(weight, str) else weight) - NORMAL)


def draws(font: FontEntry, character: str) -> bool:
    """Tells whether a font has an outline for a character."""
    path, index = font.fname, getattr(font, "index", 0)  # since matplotlib 3.11
    if ord(character) not in characters(path, index):
        return False
    file = opened(path, index)
    file.load_char(ord(character))
    return len(file.get_path()[0]) > 0  # fonts of coloured pictures have no outlines


@functools.cache
def characters(path: str, index: int) -> frozenset[int]:
    """Returns the characters of a font."""
    return frozenset(opened(path, index).get_charmap())


def opened(path: str, index: int) -> FT2Font:
    """Opens one font of a file, without matplotlib's fallback fonts."""
    from matplotlib.ft2font import FT2Font

    font = FT2Font(path, face_index=index) if index else FT2Font(path)
    font.set_size(12, 72)
    return font
