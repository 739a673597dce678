"""Joins equal blocks in a row into one frame with a count."""

import collections
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from cnn_jax.networks.diagram.items import (INPUT, OUTPUT, Box, Edge, Frame, Item,
                                            Level)


def collapse(level: Level, longest: int) -> Level:
    """Joins consecutive repeats of up to `longest` items into one frame."""
    into: dict[int, list[int]] = collections.defaultdict(list)
    out: dict[int, list[int]] = collections.defaultdict(list)
    for edge in level.edges:
        into[edge.target].append(edge.source)
        out[edge.source].append(edge.target)

    def following(i: int) -> int | None:
        j = out[i][0] if len(out[i]) == 1 else OUTPUT
        return j if j >= 0 and into[j] == [i] else None

    frames: dict[int, list[list[int]]] = {}  # first item -> the items of each repeat
    taken: set[int] = set()
    for start in range(len(level.items)):
        if start in taken or len(into[start]) != 1:
            continue
        chain: list[int] = [start]
        while (after := following(chain[-1])) is not None:
            chain.append(after)
        period, count = repeats([level.items[i] for i in chain], longest)
        while count > 1 and len(out[chain[period * count - 1]]) != 1:
            count -= 1  # the last repeat must have one output
        if count > 1:
            frames[start] = [chain[at:at + period]
                             for at in range(0, period * count, period)]
            taken.update(chain[:period * count])
    return replace(level, frames, taken)


def replace(level: Level, frames: Mapping[int, list[list[int]]],
            taken: set[int]) -> Level:
    """Replaces each of the given sequences of items by one frame."""
    items: list[Item] = []
    index = {INPUT: INPUT, OUTPUT: OUTPUT}
    for i, item in enumerate(level.items):
        if i in frames:
            index |= dict.fromkeys(itertools.chain(*frames[i]), len(items))
            items.append(repeated([[level.items[j] for j in repeat]
                                   for repeat in frames[i]]))
        elif i not in taken:
            index[i] = len(items)
            items.append(item)
    edges = (Edge(index[edge.source], index[edge.target], edge.value)
             for edge in level.edges)
    return Level(items, [edge for edge in edges if edge.source != edge.target])


def repeats(chain: Sequence[Item], longest: int) -> tuple[int, int]:
    """Finds (period, count) of the longest repetition at the start of a chain."""
    best = 1, 1
    for period in range(1, longest + 1):
        if period == 1 and isinstance(chain[0], Box):
            continue  # layers stand alone
        first = chain[:period]
        count = 1 + sum(1 for _ in itertools.takewhile(
            lambda at: same(first, chain[at:at + period]),
            range(period, len(chain) - period + 1, period)))
        if count > 1 and period * count > best[0] * best[1]:
            best = period, count
    return best


def same(some: Sequence[Item], others: Sequence[Item]) -> bool:
    loose = len(some) == 1 and is_dense(some[0]) and is_dense(others[0])
    return [*map(lambda item: signature(item, loose), some)] == [
        *map(lambda item: signature(item, loose), others)]


def is_dense(item: Item) -> bool:
    """Tells whether a block concatenates its input with what it computes from it."""
    if isinstance(item, Box):
        return False
    last = {edge.source for edge in item.inner.edges if edge.target == OUTPUT}
    return any(Edge(INPUT, i, edge.value) in item.inner.edges
               and isinstance(box := item.inner.items[i], Box) and box.text == "Concat"
               for i in last for edge in item.inner.edges if edge.source == INPUT)


def signature(item: Item, loose: bool) -> Any:
    """Returns what equal blocks have in common; loose: but the numbers of channels."""
    shapes = [shape[:-1] if loose else shape for shape in item.shapes]
    if isinstance(item, Box):
        return item.text, shapes, loose or item.params
    return (item.kind, item.count, shapes, loose or item.params,
            [signature(inner, loose) for inner in item.inner.items],
            [(edge.source, edge.target) for edge in item.inner.edges])


def repeated(repeats: Sequence[Sequence[Item]]) -> Frame:
    """Makes one frame of the items of each repeat."""
    name = f"{repeats[0][0].name} … {repeats[-1][-1].name}"
    inner = [merged(items) for items in zip(*repeats)]
    if len(inner) == 1:
        assert isinstance(inner[0], Frame)
        return dataclasses.replace(inner[0], name=name, count=len(repeats))
    edges = [Edge(i - 1 if i else INPUT, i if i < len(inner) else OUTPUT, "")
             for i in range(len(inner) + 1)]
    return Frame(name, "", Level(inner, edges), list(repeats[-1][-1].shapes),
                 [sum(sum(item.params) for item in repeat) for repeat in repeats],
                 len(repeats))


def merged(items: Sequence[Item]) -> Item:
    """Merges the corresponding items of all repeats into one item."""
    first = items[0]
    shapes = [shape for item in items for shape in item.shapes]
    params = [count for item in items for count in item.params]
    if isinstance(first, Box):
        return dataclasses.replace(first, nodes=[
                name for item in items for name in item.nodes],
            shapes=shapes, params=params)
    inner = [merged(group) for group in zip(
        *(item.inner.items for item in items if isinstance(item, Frame)))]
    return dataclasses.replace(first, inner=Level(inner, first.inner.edges),
                               shapes=shapes, params=params)
