"""Rectangles, slots and lines of a diagram; orders the slots of each rank."""

import bisect
import collections
import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cnn_jax.networks.diagram.items import INPUT, OUTPUT, Edge, Item, Level

LANE = 14  # width of a passing line, pixels

Point = tuple[float, float]


class Line(NamedTuple):
    """An edge as a polyline; `arrow` tells whether it ends in an arrowhead."""

    edge: Edge
    points: list[Point]
    arrow: bool


@dataclasses.dataclass
class Rectangle:
    """The rectangle of an item: (x, y) is its upper left corner in its level."""

    item: Item
    x: float
    y: float
    width: float
    height: float
    header: float = 0.0             # of a frame
    inner: "Drawing | None" = None  # of a frame; its origin is below the header


@dataclasses.dataclass
class Drawing:
    """A level as rectangles and lines."""

    width: float
    height: float
    rects: list[Rectangle]
    lines: list[Line]
    out: dict[str, float]  # value -> the x where it leaves at the bottom


@dataclasses.dataclass
class Slot:
    """An item, the end of a level, or a passing line, in one rank."""

    rank: int
    width: float
    height: float = 0.0
    rect: Rectangle | None = None
    wide: bool = False           # lines may leave it anywhere
    end: int | None = None       # INPUT or OUTPUT
    x: float = 0.0               # of its centre
    y: float = 0.0
    exits: dict[str, float] = dataclasses.field(default_factory=dict)  # from its centre


class Piece(NamedTuple):
    """A part of an edge between two ranks."""

    upper: int
    lower: int
    value: str


def make_slots(level: Level, rects: Sequence[Rectangle]) -> list[Slot]:
    """Makes the slots of the items, by the longest path from the input."""
    ranks = [0] * len(rects)
    for _ in rects:  # until nothing changes: ports come after the items that use them
        before = list(ranks)
        for edge in level.edges:
            if edge.target != OUTPUT:
                least = 1 if edge.source == INPUT else ranks[edge.source] + 1
                ranks[edge.target] = max(ranks[edge.target], least)
        if ranks == before:
            break
    slots = []
    for rank, rect in zip(ranks, rects):
        exits = {} if rect.inner is None else {
            value: x - rect.width / 2 for value, x in rect.inner.out.items()}
        slots.append(Slot(rank, rect.width, rect.height, rect,
                          getattr(rect.item, "text", "") == "Concat", exits=exits))
    return slots


def make_pieces(level: Level, slots: list[Slot]
                ) -> tuple[list[Piece], list[tuple[Edge, list[Piece]]]]:
    """Cuts edges at the ranks that they pass, and adds a slot for each cut."""
    last = max((slot.rank for slot in slots), default=0) + 1
    top = None
    passing: dict[tuple[int, str, int], int] = {}
    ends: dict[str, int] = {}

    def added(slot: Slot) -> int:
        slots.append(slot)
        return len(slots) - 1

    paths = []
    for edge in level.edges:
        if edge.source == INPUT and top is None:
            top = added(Slot(0, 0, wide=True, end=INPUT))
        source = top if edge.source == INPUT else edge.source
        if edge.target == OUTPUT and edge.value not in ends:
            ends[edge.value] = added(Slot(last, 0, end=OUTPUT))
        target = ends[edge.value] if edge.target == OUTPUT else edge.target
        assert source is not None
        steps = [source]
        for rank in range(slots[source].rank + 1, slots[target].rank):
            key = source, edge.value, rank
            if key not in passing:
                passing[key] = added(Slot(rank, LANE))
            steps.append(passing[key])
        steps.append(target)
        paths.append((edge, [Piece(upper, lower, edge.value)
                             for upper, lower in zip(steps, steps[1:])]))
    pieces = dict.fromkeys(piece for _, path in paths for piece in path)
    return list(pieces), paths


def neighbours(pieces: Iterable[Piece]
               ) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """Returns the slots above and below each slot."""
    above, below = collections.defaultdict(list), collections.defaultdict(list)
    for piece in pieces:
        above[piece.lower].append(piece.upper)
        below[piece.upper].append(piece.lower)
    return above, below


def order_rows(slots: Sequence[Slot], pieces: Sequence[Piece]) -> list[list[int]]:
    """Orders the slots of each rank so that few lines cross."""
    rows: list[list[int]] = [[] for _ in range(max(s.rank for s in slots) + 1)]
    for i, slot in enumerate(slots):
        rows[slot.rank].append(i)
    above, below = neighbours(pieces)
    best, least = [list(row) for row in rows], crossings(rows, pieces)
    for sweep in range(8):
        side = above if sweep % 2 == 0 else below
        for row in rows if sweep % 2 == 0 else reversed(rows):
            position = {i: k for other in rows for k, i in enumerate(other)}
            row.sort(key=lambda i: (sum(position[j] for j in side[i]) / len(side[i])
                                    if side[i] else position[i]))
        if (count := crossings(rows, pieces)) < least:
            best, least = [list(row) for row in rows], count
    return best


def crossings(rows: Sequence[Sequence[int]], pieces: Sequence[Piece]) -> int:
    """Counts the pairs of lines that cross."""
    position = {i: k for row in rows for k, i in enumerate(row)}
    rank = {i: r for r, row in enumerate(rows) for i in row}
    by_rank: dict[int, list[tuple[int, int]]] = collections.defaultdict(list)
    for piece in pieces:
        by_rank[rank[piece.upper]].append((position[piece.upper],
                                           position[piece.lower]))
    total = 0
    for ends in by_rank.values():
        seen: list[int] = []
        for upper, lower in sorted(ends):
            total += len(seen) - bisect.bisect_right(seen, lower)
            bisect.insort(seen, lower)
    return total
