"""A network as a picture: an SVG file that browsers, slides and reports show.

    text = svg(graph, calls, "resnet50")

Every box has the name of a layer, what it computes, its output shape for one image, and
its number of parameters. The picture is light or dark like the reader's screen.
"""

import html
import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence

from cnn_jax.errors import one_line
from cnn_jax.networks.diagram.blocks import blocks_of
from cnn_jax.networks.diagram.items import Box, Frame, Item, Shape
from cnn_jax.networks.diagram.layout import draw_level
from cnn_jax.networks.diagram.slots import Drawing, Line, Point, Rectangle
from cnn_jax.networks.graph import Graph
from cnn_jax.networks.trace import Call

SIZE, LEADING, CHARACTER = 12, 16, 6.9  # text, pixels; CHARACTER is a generous width
MARGIN, CORNER = 10, 6
WIDEST = 30   # characters in a line of text, at most
LONGEST = 60  # characters of a name, at most; the tooltip has the whole name
LEGEND = ("box: layer, what it computes, output (height × width × channels), "
          "parameters")
# Kind of box -> (fill, stroke) on light, then on dark paper
COLOURS = {
    "input": ("#ffffff", "#767676", "#15181c", "#9aa3ab"),
    "conv": ("#dcebfb", "#3f78b5", "#1d3a57", "#6fa5dd"),
    "dense": ("#fde6d0", "#bd6a1c", "#54351a", "#e0a067"),
    "pool": ("#dcf2dd", "#3f8a48", "#1f4425", "#76bd7e"),
    "join": ("#ece1f7", "#7d55a8", "#3d2a54", "#b592db"),
    "other": ("#eeeeee", "#767676", "#33383d", "#9aa3ab"),
    "port": ("#ffffff", "#767676", "#15181c", "#9aa3ab"),
    "frame": ("#f7f8fa", "#9aa3ab", "#20252b", "#5c656e")}
INK, PAPER = ("#1b1b1b", "#e8e8e8"), ("#ffffff", "#15181c")


def svg(graph: Graph, calls: Sequence[Call], name: str) -> str:
    """Writes the picture of a network; it is XML.

    calls: of the network as it is initialized, see `trace_shapes`.
    name: the title.
    """
    blocks = blocks_of(graph, calls)
    drawing = draw_level(blocks.level, measure)
    title = (f"{name}: {blocks.params:,} parameters, input "
             f"{shape_text(graph.image_shape)}")
    lines = [LEGEND]
    if blocks.unused:
        unused = ", ".join(f"{module or 'the network itself'} ({count:,})"
                           for module, count in blocks.unused.items())
        lines.append(f"parameters that prediction does not use: {unused}")
    width = max(drawing.width, len(title) * CHARACTER * 1.4, *(
        len(line) * CHARACTER for line in lines)) + 2 * MARGIN
    top = 2 * MARGIN + LEADING * (len(lines) + 1.5)
    height = top + drawing.height + MARGIN
    body = [f'<rect class="paper" width="{width:.0f}" height="{height:.0f}" '
            f'fill="{PAPER[0]}"/>',
            text(title, 2 * MARGIN, 2 * MARGIN + LEADING, "bold", 1.4),
            *(text(line, 2 * MARGIN, 2 * MARGIN + LEADING * (i + 2.2))
              for i, line in enumerate(lines)),
            f'<g transform="translate({(width - drawing.width) / 2:.1f} {top:.0f})">',
            *draw(drawing), "</g>"]
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" class="network" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img" '
        f'font-family="Helvetica, Arial, sans-serif" font-size="{SIZE}" '
        f'fill="{INK[0]}" data-parameters="{blocks.params}">',
        f"<title>{escape(title)}</title>", style(), *body, "</svg>"]) + "\n"


def style() -> str:
    """Writes the colours for dark paper; those for light paper are attributes."""
    rules = [f".network {{ fill: {INK[1]}; }}",
             f".network .paper {{ fill: {PAPER[1]}; }}",
             f".network .line {{ stroke: {INK[1]}; }}"]
    rules += [f".network .{kind} {{ fill: {fill}; stroke: {stroke}; }}"
              for kind, (_, _, fill, stroke) in COLOURS.items()]
    return ("<style>@media screen and (prefers-color-scheme: dark) {\n"
            + "\n".join(rules) + "\n}</style>")


def measure(item: Item) -> tuple[float, float]:
    """Returns the size of a box, or of the header of a frame."""
    lines = lines_of(item)
    width = max(len(lines[0]) * 1.1, *map(len, lines[1:]), 8) * CHARACTER + 2 * MARGIN
    return math.ceil(width), LEADING * len(lines) + MARGIN + 2


def lines_of(item: Item) -> list[str]:
    """Writes the text of a box or of the header of a frame, its name first."""
    name = shortened(item.name)
    if isinstance(item, Frame):
        many = f"{item.count} × " if item.count > 1 else ""
        kind = f"{many}{one_line(item.kind)}" if item.kind else f"{item.count} times"
        each = (f"{many}{item.params[0]:,}" if len(set(item.params)) == 1
                else f"{sum(item.params):,}")
        return [name, " · ".join([kind, shapes_text(item.shapes),
                                  *[f"{each} parameters"] * any(item.params)])]
    if item.colour == "port":
        return [f"from {name}"]
    lines = [name, *textwrap.wrap(one_line(item.text), WIDEST)]
    if item.name.lower() in ("", item.text.lower().split(",")[0]):  # add: 'add, relu'
        del lines[0]
    last = shapes_text(item.shapes)
    if any(item.params):
        last += f" · {span(f'{count:,}' for count in item.params)}"
    return [*lines, last]


def shortened(name: str) -> str:
    name = one_line(name)
    return name if len(name) <= LONGEST else f"{name[:LONGEST - 1]}…"


def span(texts: Iterable[str]) -> str:
    """Writes '64 … 256' of values that differ between the repeats of a block."""
    first, *others = texts
    return first if not others or others[-1] == first else f"{first} … {others[-1]}"


def shape_text(shape: Shape) -> str:
    return " × ".join(map(str, shape)) or "1"


def shapes_text(shapes: Sequence[Shape]) -> str:
    """Writes '28 × 28 × 160 … 512' for outputs that differ in their channels."""
    if not shapes[0]:
        return "1"
    *size, _ = map(str, shapes[0])
    if any(shape[:-1] != shapes[0][:-1] for shape in shapes):
        return span(map(shape_text, shapes))
    return " × ".join([*size, span(str(shape[-1]) for shape in shapes)])


def draw(drawing: Drawing) -> Iterator[str]:
    """Draws the frames, then the lines around the boxes, then the boxes."""
    for rect in drawing.rects:
        if rect.inner is not None:
            yield from draw_frame(rect)
    for line in drawing.lines:
        yield draw_line(line)
    for rect in drawing.rects:
        if rect.inner is None:
            yield from draw_box(rect)


def draw_frame(rect: Rectangle) -> Iterator[str]:
    assert rect.inner is not None
    yield from draw_box(rect)
    yield (f'<g transform="translate({rect.x:.1f} {rect.y + rect.header:.1f})">')
    yield (f'<path class="frame" d="M0 0H{rect.width:.1f}" '
           f'stroke="{COLOURS["frame"][1]}" stroke-width="0.7"/>')
    yield from draw(rect.inner)
    yield "</g>"


def draw_box(rect: Rectangle) -> Iterator[str]:
    """Draws a box or a frame with its text; the tooltip lists the box's operations."""
    item = rect.item
    kind = "frame" if isinstance(item, Frame) else item.colour
    fill, stroke, _, _ = COLOURS[kind]
    count = "" if isinstance(item, Frame) else f' data-parameters="{sum(item.params)}"'
    yield f'<g class="{"block" if isinstance(item, Frame) else "layer"}"{count}>'
    if isinstance(item, Box) and item.nodes:
        yield f"<title>{escape(chr(10).join(map(one_line, item.nodes)))}</title>"
    yield (f'<rect class="{kind}" x="{rect.x:.1f}" y="{rect.y:.1f}" '
           f'width="{rect.width:.1f}" height="{rect.height:.1f}" rx="{CORNER}" '
           f'fill="{fill}" stroke="{stroke}"/>')
    for i, line in enumerate(lines_of(item)):
        weight = "bold" if i == 0 else ""
        y = rect.y + MARGIN / 2 + LEADING * (i + 0.8)
        yield text(line, rect.x + rect.width / 2, y, weight, middle=True)
    yield "</g>"


def draw_line(line: Line) -> str:
    """Draws an edge with rounded corners, and its arrowhead."""
    path = (f'<path class="line" fill="none" stroke="{INK[0]}" '
            f'd="{rounded(line.points)}"/>')
    if not line.arrow:
        return path
    x, y = line.points[-1]
    return path + f'<path d="M{x:.1f} {y:.1f}l-4 -7h8z"/>'


def rounded(points: Sequence[Point]) -> str:
    """Writes a polyline with rounded corners as the commands of an SVG path."""
    commands = [f"M{points[0][0]:.1f} {points[0][1]:.1f}"]
    for before, corner, after in zip(points, points[1:], points[2:]):
        radius = min(CORNER, *(math.dist(corner, end) / 2 for end in (before, after)))
        start, stop = (toward(corner, end, radius) for end in (before, after))
        commands.append(f"L{start[0]:.1f} {start[1]:.1f}"
                        f"Q{corner[0]:.1f} {corner[1]:.1f} "
                        f"{stop[0]:.1f} {stop[1]:.1f}")
    return "".join([*commands, f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"])


def toward(start: Point, end: Point, length: float) -> Point:
    fraction = length / math.dist(start, end)
    return (start[0] + fraction * (end[0] - start[0]),
            start[1] + fraction * (end[1] - start[1]))


def text(content: str, x: float, y: float, weight: str = "", scale: float = 1,
         middle: bool = False) -> str:
    style = ' font-weight="bold"' if weight else ""
    style += ' text-anchor="middle"' if middle else ""
    style += f' font-size="{SIZE * scale:.0f}"' if scale != 1 else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{style}>{escape(content)}</text>'


def escape(content: str) -> str:
    return html.escape(content)
