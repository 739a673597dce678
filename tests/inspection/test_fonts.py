"""Names in any script are drawn without a warning: by an installed font, or escaped."""

import logging

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from cnn_jax.inspection.draw import fonts
from cnn_jax.inspection.draw.drawing import fit, fold, sheet
from cnn_jax.inspection.draw.picture import Picture, write

PIXELS = np.arange(16, dtype=np.uint8).reshape(1, 4, 4, 1)


@pytest.fixture
def plain(monkeypatch):
    """Hides all fonts except those of matplotlib."""
    def forget():
        for function in (fonts.installed, fonts.family_of, fonts.characters):
            function.cache_clear()

    manager = font_manager.fontManager
    monkeypatch.setattr(manager, "ttflist", [
        font for font in manager.ttflist
        if str(font.fname).startswith(matplotlib.get_data_path())])
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [])
    forget()
    yield
    forget()


def make_font(path, weight: int):
    """Makes a font with a square for 猫 and nothing for the monkey."""
    builder, pen = FontBuilder(1000, isTTF=True), TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 900), (900, 900), (900, 0)):
        pen.lineTo(corner)
    pen.closePath()
    empty = TTGlyphPen(None).glyph()
    builder.setupGlyphOrder([".notdef", "cat", "monkey"])
    builder.setupCharacterMap({ord("猫"): "cat", ord("🐒"): "monkey"})
    builder.setupGlyf({".notdef": empty, "cat": pen.glyph(), "monkey": empty})
    builder.setupHorizontalMetrics(dict.fromkeys(builder.font.getGlyphOrder(),
                                                 (1000, 0)))
    builder.setupHorizontalHeader(ascent=900, descent=-100)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Medium"})
    builder.setupOS2(usWeightClass=weight)
    builder.setupPost()
    builder.save(path)


def drawn(name: str, folder) -> bytes:
    """Draws a picture with a name above it."""
    figure = sheet(PIXELS, [(name, "is it")])
    figure.axes[0].text(0, 0, fit(name), weight="bold")
    return write(Picture("one", "", "", "", figure, {}), folder, 1).read_bytes()


def test_characters_that_no_font_has_are_escaped(plain, tmp_path, caplog):
    assert fonts.drawable("猫 é❤\ufe0f🐒\n") == r"\u732b é❤\U0001f412\n"
    assert fit("猫" * 9) == "\\u732b\\u732b\\u7…"
    assert fold("$猫", 2, 8) == r"\$\u732b"
    with caplog.at_level(logging.WARNING):
        assert drawn("猫🐒", tmp_path) == drawn(r"\u732b\U0001f412", tmp_path)
    assert not caplog.records


@pytest.mark.parametrize("weight", [400, 500])
def test_a_font_that_was_installed_later_draws_what_it_has(plain, tmp_path, caplog,
                                                           monkeypatch, weight):
    path = str(tmp_path / "squares.ttf")
    make_font(path, weight)
    (tmp_path / "broken.ttf").write_text("no font")
    monkeypatch.setattr(font_manager, "findSystemFonts",
                        lambda: [path, str(tmp_path / "broken.ttf")])
    assert fonts.families("猫 or é") == [*matplotlib.rcParams["font.family"], "Squares"]
    assert fonts.drawable("猫🐒") == r"猫\U0001f412"  # its monkey has no outline
    assert fit("猫" * 9) == "猫" * 7 + "…"  # each is two characters wide
    with caplog.at_level(logging.WARNING):
        assert drawn("猫", tmp_path) != drawn(r"\u732b", tmp_path)
    assert not caplog.records
