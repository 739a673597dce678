"""Draws the figures of the book as HTML that follows the reader's light or dark mode.

Each function returns an `Html`, which a notebook shows when it is the last value of a
cell. Captions are text of the page, so they stay legible on a phone, where the parts of
a `row` wrap. Colours are those of docs/_static/book.css; colour-blind readers can tell
them apart.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

# Matplotlib draws with these colours; `plot` replaces them by variables of the page.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
TEXT, FAINT, PAPER = "#010203", "#040506", "#070809"
VARIABLES = {TEXT: "var(--book-text)", FAINT: "var(--book-faint)",
             PAPER: "var(--color-background-primary)"} | {
    colour: f"var(--book-series-{number})"
    for number, colour in enumerate(SERIES, 1)}
MAPS = {"grey": "gray", "signed": "RdBu_r", "heat": "inferno"}


class Html(str):
    """A piece of HTML that a notebook shows."""

    def _repr_html_(self) -> str:
        return str(self)


class Box(NamedTuple):
    """A frame on a picture, in pixels of the picture."""

    top: float
    left: float
    height: float
    width: float
    series: int = 2  # its colour


def row(*parts: str) -> Html:
    """Places parts side by side; they wrap where the page is narrow."""
    return Html(f'<div class="book-row">{"".join(parts)}</div>')


def text(words: str) -> Html:
    """Places a word or a sign between the parts of a row."""
    return Html(f'<div class="book-sign">{html.escape(words)}</div>')


def picture(values: np.ndarray, title: str = "", kind: str = "grey",
            limits: tuple[float, float] | None = None, width: int = 150,
            boxes: Sequence[Box] = (), alt: str = "") -> Html:
    """Draws an array [H, W] or an image [H, W, 3] with a title.

    kind: grey; signed, blue below and red above 0; heat, dark to bright.
    limits: the values of the first and the last colour; by default those of the array,
        for `signed` with 0 in the middle. Images of three channels are uint8 or 0..1.
    width: in CSS pixels.
    """
    pixels = coloured(np.asarray(values), kind, limits)
    height, across = pixels.shape[:2]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    address = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    frames = "".join(
        f'<rect x="{box.left}" y="{box.top}" width="{box.width}" height="{box.height}" '
        f'style="stroke:var(--book-series-{box.series})"/>' for box in boxes)
    label = html.escape(alt or title.replace("\n", ", ") or "picture", quote=True)
    drawing = f'<img src="{address}" alt="{label}" width="{across}" height="{height}">'
    if boxes:
        drawing = (f'<svg viewBox="0 0 {across} {height}" role="img" '
                   f'aria-label="{label}"><image href="{address}" width="{across}" '
                   f'height="{height}"/>{frames}</svg>')
    return Html(f'<figure class="book-picture" style="width:{width}px">{drawing}'
                f"{caption(title)}</figure>")


def pictures(named: Mapping[str, np.ndarray], kind: str = "grey",
             limits: tuple[float, float] | None = None, width: int = 150) -> Html:
    """Draws several arrays side by side, each with its name."""
    return row(*(picture(values, name, kind, limits, width)
                 for name, values in named.items()))


def coloured(values: np.ndarray, kind: str,
             limits: tuple[float, float] | None) -> np.ndarray:
    """Turns values into uint8 [H, W, 3]."""
    from matplotlib import colormaps

    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 3:
        scaled = values if values.dtype == np.uint8 else np.clip(values, 0, 1) * 255
        return np.rint(scaled).astype(np.uint8)
    values = values.astype(float)
    if limits is None:
        reach = np.abs(values).max() or 1.0
        limits = (-reach, reach) if kind == "signed" else (values.min(), values.max())
    low, high = limits
    shares = np.clip((values - low) / ((high - low) or 1.0), 0, 1)
    return (255 * colormaps[MAPS[kind]](shares)[..., :3]).round().astype(np.uint8)


def caption(title: str) -> str:
    """Writes a title; a line break stays one."""
    lines = html.escape(title).replace("\n", "<br>")
    return f"<figcaption>{lines}</figcaption>" if title else ""


def matrix(values: Iterable[Iterable[float]], title: str = "", form: str = "g",
           marked: Iterable[tuple[int, int]] = (), limit: float | None = None) -> Html:
    """Writes an array [rows, columns] as numbers; a vector is one row.

    marked: the cells (row, column) with a frame.
    limit: colours the cells, blue from -limit and red up to limit.
    """
    array, marked = np.atleast_2d(np.asarray(values)), set(marked)
    rows = []
    for i, line in enumerate(array):
        cells = []
        for j, value in enumerate(line):
            name = ' class="book-marked"' if (i, j) in marked else ""
            shade = ""
            if limit:
                share = float(np.clip(value / limit, -1, 1))
                colour = "positive" if share > 0 else "negative"
                shade = (f' style="background:color-mix(in srgb, var(--book-{colour}) '
                         f'{round(65 * abs(share))}%, transparent)"')
            cells.append(f"<td{name}{shade}>{format(value, form)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    label = html.escape(title or "array", quote=True)
    return Html(f'<figure class="book-matrix"><div class="book-scroll"><table '
                f'aria-label="{label}">{"".join(rows)}</table></div>'
                f"{caption(title)}</figure>")


def table(rows: Sequence[Sequence[object]], head: Sequence[str]) -> Html:
    """Writes a table; the columns after the first are aligned to the right."""
    def line(cells: Sequence[object], kind: str) -> str:
        return "<tr>" + "".join(f"<{kind}>{html.escape(str(cell))}</{kind}>"
                                for cell in cells) + "</tr>"

    return Html('<div class="book-scroll"><table class="book-table"><thead>'
                f"{line(head, 'th')}</thead><tbody>"
                f"{''.join(line(cells, 'td') for cells in rows)}</tbody></table></div>")


def bars(named: Mapping[str, float], unit: str = "", form: str = ",.3g",
         log: bool = False) -> Html:
    """Draws horizontal bars with their values; with `log`, on a logarithmic axis."""
    values = np.array(list(named.values()), float)
    if log:
        low = np.floor(np.log10(values.min()) - 0.3)
        lengths = (np.log10(values) - low) / (np.log10(values.max()) - low)
    else:
        lengths = values / values.max()
    lines = "".join(
        f"<tr><th>{html.escape(name)}</th><td><div class=\"book-bar\" "
        f'style="width:{max(100 * length, 0.5):.1f}%"></div></td>'
        f"<td>{format(value, form)} {html.escape(unit)}</td></tr>"
        for (name, value), length in zip(named.items(), lengths))
    note = ('<p class="book-note">The bars have a logarithmic scale.</p>' if log
            else "")
    return Html(f'<table class="book-bars">{lines}</table>{note}')


def new_plot(width: float = 5.6, height: float = 3.2, rows: int = 1, columns: int = 1):
    """Makes (figure, axes) of matplotlib in the style of the book; sizes in inches."""
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    mpl.rcParams.update({
        "svg.fonttype": "none", "font.size": 10, "text.color": TEXT,
        "axes.edgecolor": TEXT, "axes.labelcolor": TEXT, "xtick.color": TEXT,
        "ytick.color": TEXT, "grid.color": FAINT, "axes.grid": True,
        "axes.spines.top": False, "axes.spines.right": False,
        "axes.facecolor": "none", "figure.facecolor": "none", "legend.frameon": False,
        "axes.prop_cycle": cycler(color=SERIES)
        + cycler(linestyle=["-", "--", "-.", ":", "-", "--"])})
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns)


def plot(figure, alt: str, wide: bool = False) -> Html:
    """Shows a figure of `new_plot` as SVG in the colours and font of the page.

    alt: what it shows, for readers who cannot see it.
    wide: scrolls on a phone instead of shrinking, for figures with much text.
    """
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    drawing = file.getvalue()
    drawing = drawing[drawing.index("<svg"):]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.S)
    drawing = re.sub(r'<g id="[^"]*"', "<g", drawing)  # several figures share a page
    drawing = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", drawing)
    for colour, variable in VARIABLES.items():
        drawing = drawing.replace(colour, variable)
    _, end = re.search(r"<svg[^>]*>", drawing).span()
    box = re.search(r'viewBox="([^"]*)"', drawing)[1]
    width = round(96 * figure.get_figwidth())
    size = f"max-width:{width}px" + (f";min-width:{width}px" if wide else "")
    tag = (f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" role="img" '
           f'aria-label="{html.escape(alt, quote=True)}" style="{size}" '
           f'viewBox="{box}">')
    return Html(f'<figure class="book-plot book-scroll">{tag}{drawing[end:]}</figure>')


def diagram(drawing: str, alt: str) -> Html:
    """Shows the SVG file of a network, such as `networks.diagram.drawn` makes."""
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawing).groups()
    address = base64.b64encode(drawing.encode()).decode()
    return Html(f'<figure class="book-plot book-scroll"><img width="{width}" '
                f'height="{height}" src="data:image/svg+xml;base64,{address}" '
                f'alt="{html.escape(alt, quote=True)}"></figure>')
