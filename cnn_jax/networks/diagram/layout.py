"""Places the boxes of a diagram, and routes its lines around them.

A level is a layered drawing (Sugiyama, Tagawa, Toda: Methods for visual understanding
of hierarchical system structures, 1981): the rank of an item is its longest path from
the input. An edge over several ranks gets a slot in each of them, so that it crosses no
box. Lines turn only between two ranks. A high level is cut into columns.
"""

import collections
import math
from collections.abc import Callable, Mapping, Sequence

from cnn_jax.networks.diagram.across import (INSET, passing_lines, place_across,
                                             straighten, widen_joins)
from cnn_jax.networks.diagram.columns import GAP, GUTTER, TRACK, place_down
from cnn_jax.networks.diagram.items import INPUT, OUTPUT, Edge, Frame, Item, Level
from cnn_jax.networks.diagram.slots import (Drawing, Line, Piece, Point, Rectangle,
                                            Slot, make_pieces, make_slots, order_rows)

PAD = 16  # pixels around a level

Measure = Callable[[Item], tuple[float, float]]  # (width, height); of a frame's header


def draw_level(level: Level, measure: Measure) -> Drawing:
    """Draws a level and all levels inside it."""
    rects = [make_rect(item, measure) for item in level.items]
    slots = make_slots(level, rects)
    pieces, paths = make_pieces(level, slots)
    rows = order_rows(slots, pieces)
    place_across(slots, rows, pieces)
    straighten(slots, rows, passing_lines(slots, pieces))
    widen_joins(slots, rows, pieces)
    ports = {piece: port(slots, piece) for piece in pieces}
    gaps = [tracks_of([piece for piece in pieces if slots[piece.upper].rank == rank],
                      slots, ports) for rank in range(len(rows) - 1)]
    columns = place_down(slots, rows, gaps, pieces)
    return assemble(level, slots, columns, gaps, ports, paths)


def make_rect(item: Item, measure: Measure) -> Rectangle:
    """Makes the rectangle of an item, not yet at its position; draws inner levels."""
    width, height = measure(item)
    if not isinstance(item, Frame):
        return Rectangle(item, 0, 0, width, height)
    inner = draw_level(item.inner, measure)
    shift = max(0.0, (width - inner.width) / 2)
    inner.width += 2 * shift
    for rect in inner.rects:
        rect.x += shift
    inner.lines = [line._replace(points=[(x + shift, y) for x, y in line.points])
                   for line in inner.lines]
    inner.out = {value: x + shift for value, x in inner.out.items()}
    return Rectangle(item, 0, 0, inner.width, height + inner.height, height, inner)


def port(slots: Sequence[Slot], piece: Piece) -> tuple[float, float]:
    """Returns where a line leaves the upper slot and enters the lower: x above, below.

    Where both can have the same x, the line is straight.
    """
    upper, lower = slots[piece.upper], slots[piece.lower]
    if upper.end == INPUT:
        low, high = -math.inf, math.inf
    elif upper.wide:
        reach = max(0.0, upper.width / 2 - INSET)
        low, high = upper.x - reach, upper.x + reach
    else:
        low = high = upper.x + upper.exits.get(
            piece.value, next(iter(upper.exits.values()), 0.0))
    reach = max(0.0, lower.width / 2 - INSET) if lower.rect is not None else 0.0
    exit_x = lower.x if math.isinf(low) else min(max(lower.x, low), high)
    entry = min(max(exit_x, lower.x - reach), lower.x + reach)
    return exit_x if not math.isinf(low) else entry, entry


def tracks_of(pieces: Sequence[Piece], slots: Sequence[Slot],
              ports: Mapping[Piece, tuple[float, float]]) -> dict[Piece, int]:
    """Gives each line that turns between two ranks a horizontal track: 0, 1, ...

    Lines of one source, or else to one target, share a track. If a line leaves at the x
    where another arrives, its track is above the other's.
    """
    fork = collections.Counter(piece.upper for piece in pieces)
    groups: dict[tuple[bool, int], list[Piece]] = {}
    for piece in pieces:
        if abs(ports[piece][0] - ports[piece][1]) > 0.5:
            split = fork[piece.upper] > 1 and not slots[piece.upper].wide
            key = (split, piece.upper if split else piece.lower)
            groups.setdefault(key, []).append(piece)

    def must_be_above(upper: list[Piece], lower: list[Piece]) -> bool:
        return any(abs(ports[a][0] - ports[b][1]) < 3 for a in upper for b in lower)

    waiting = sorted(groups.values(), key=lambda group: min(
        min(ports[piece]) for piece in group))
    placed: list[tuple[int, float, float, list[Piece]]] = []
    while waiting:
        group = next((candidate for candidate in waiting if not any(
            must_be_above(other, candidate) for other in waiting
            if other is not candidate)), waiting[0])
        waiting.remove(group)
        left = min(min(ports[piece]) for piece in group) - TRACK
        right = max(max(ports[piece]) for piece in group) + TRACK
        free = max((track + 1 for track, *_, other in placed
                    if must_be_above(other, group)), default=0)
        full = {track for track, start, stop, _ in placed
                if start < right and left < stop}
        while free in full:
            free += 1
        placed.append((free, left, right, group))
    return {piece: track for track, *_, group in placed for piece in group}


def assemble(level: Level, slots: Sequence[Slot], columns: Sequence[tuple[int, int]],
             gaps: Sequence[Mapping[Piece, int]],
             ports: Mapping[Piece, tuple[float, float]],
             paths: Sequence[tuple[Edge, list[Piece]]]) -> Drawing:
    """Moves the columns side by side and draws the lines."""
    column_of = {rank: c for c, (first, stop) in enumerate(columns)
                 for rank in range(first, stop)}
    shifts, bottoms, edges, x = [], [], [], float(PAD)
    top = (PAD if len(columns) > 1 or not any(slot.end == INPUT for slot in slots)
           else 0.0)
    for c in range(len(columns)):
        inside = [slot for slot in slots if column_of[slot.rank] == c]
        left = min(slot.x - slot.width / 2 for slot in inside)
        right = max(slot.x + slot.width / 2 for slot in inside)
        shifts.append(x - left)
        bottoms.append(top + max(slot.y + slot.height for slot in inside))
        x += right - left + GUTTER
        edges.append(x - GUTTER / 2)
    height = max(bottoms) + (PAD if len(columns) > 1 or not any(
        slot.end == OUTPUT for slot in slots) else 0.0)
    for slot in slots:
        slot.y += top
        if slot.rect is not None:
            shift = shifts[column_of[slot.rank]]
            slot.rect.x, slot.rect.y = slot.x + shift - slot.width / 2, slot.y

    def points(piece: Piece) -> list[Point]:
        upper, lower = slots[piece.upper], slots[piece.lower]
        c, d = column_of[upper.rank], column_of[lower.rank]
        start, stop = ports[piece][0] + shifts[c], ports[piece][1] + shifts[d]
        begin = start, 0.0 if upper.end == INPUT else upper.y + upper.height
        end = stop, height if lower.end == OUTPUT else lower.y
        if c != d:
            down, up = bottoms[c] + PAD / 2 + 2, top - PAD / 2 - 2
            return [begin, (start, down), (edges[c], down), (edges[c], up), (stop, up),
                    end]
        if abs(start - stop) <= 0.5:
            return [begin, (start, end[1])]
        row_bottom = max(slot.y + slot.height for slot in slots
                         if slot.rank == upper.rank)
        turn = row_bottom + GAP * 0.4 + TRACK * gaps[upper.rank][piece]
        return [begin, (start, turn), (stop, turn), end]

    lines = []
    for edge, path in paths:
        route = [point for piece in path for point in points(piece)]
        lines.append(Line(edge, tidy(route), edge.target != OUTPUT))
    out = {edge.value: line.points[-1][0] for line in lines
           if (edge := line.edge).target == OUTPUT}
    return Drawing(x - GUTTER + PAD, height,
                   [slot.rect for slot in slots if slot.rect is not None], lines, out)


def tidy(route: Sequence[Point]) -> list[Point]:
    """Removes points that are equal or on a straight line."""
    kept: list[Point] = []
    for point in route:
        if kept and math.dist(kept[-1], point) < 0.01:
            continue
        if len(kept) > 1 and any(abs(kept[-2][axis] - kept[-1][axis]) < 0.01
                                 and abs(kept[-1][axis] - point[axis]) < 0.01
                                 for axis in (0, 1)):
            kept.pop()
        kept.append(point)
    return kept
