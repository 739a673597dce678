"""Chooses the x of the slots of each rank."""

import math
from collections.abc import Iterable, Mapping, Sequence

from cnn_jax.networks.diagram.items import INPUT
from cnn_jax.networks.diagram.slots import Piece, Slot, neighbours

SIDE = 22     # pixels between two slots of a rank
INSET = 14    # pixels between a line and the corners of a box
SWEEPS = 9    # down and up, the last one down
YIELD = 0.05  # weight of a passing line that competes with a box for the same x


def place_across(slots: Sequence[Slot], rows: Sequence[Sequence[int]],
                 pieces: Sequence[Piece]) -> None:
    """Chooses x: each slot below its inputs, as far as its row allows."""
    above, below = neighbours(pieces)

    def target(i: int, first: Mapping[int, list[int]],
               second: Mapping[int, list[int]]) -> float:  # mean x of its neighbours
        for side in (first[i], second[i]):
            near = [j for j in side if slots[j].end != INPUT]
            boxes = [j for j in near if slots[j].rect is not None]
            if slots[i].rect is not None and boxes:
                near = boxes  # lines that pass other boxes come from the side
            if near:
                return sum(slots[j].x for j in near) / len(near)
        return slots[i].x

    for row in rows:
        spread(slots, row, [0.0] * len(row))
    for sweep in range(SWEEPS):  # the last one goes down
        sides = (above, below) if sweep % 2 == 0 else (below, above)
        for row in rows if sweep % 2 == 0 else reversed(rows):
            spread(slots, row, [target(i, *sides) for i in row])


def spread(slots: Sequence[Slot], row: Sequence[int],
           targets: Sequence[float]) -> None:
    """Moves the slots of a row as near to their targets as they fit without overlap.

    Least squares under minimal distances, by pooling adjacent violators.
    """
    offsets = [0.0]
    for left, right in zip(row, row[1:]):
        half_widths = (slots[left].width + slots[right].width) / 2
        offsets.append(offsets[-1] + SIDE + half_widths)
    pools: list[tuple[float, float, int]] = []  # mean, weight, number of slots
    for i, value, offset in zip(row, targets, offsets):
        pools.append((value - offset, 1.0 if slots[i].rect else YIELD, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, v, m), (b, w, n) = pools[-2:]
            pools[-2:] = [((a * v + b * w) / (v + w), v + w, m + n)]
    means = (mean for mean, _, count in pools for _ in range(count))
    for i, mean, offset in zip(row, means, offsets):
        slots[i].x = mean + offset


def passing_lines(slots: Sequence[Slot], pieces: Sequence[Piece]) -> list[list[int]]:
    """Lists, for each line over several ranks, the slot of its source and its own."""
    def passes(i: int) -> bool:
        return slots[i].rect is None and slots[i].end is None

    after = {piece.upper: piece.lower for piece in pieces
             if passes(piece.upper) and passes(piece.lower)}
    lines = []
    for piece in pieces:
        if passes(piece.lower) and not passes(piece.upper):
            lines.append([piece.upper, piece.lower])
            while lines[-1][-1] in after:
                lines[-1].append(after[lines[-1][-1]])
    return lines


def straighten(slots: Sequence[Slot], rows: Sequence[Sequence[int]],
               chains: Iterable[Sequence[int]]) -> None:
    """Gives all slots of a passing line the same x, where there is room.

    chains: for each line the slot of its source, and its own slots.
    """
    def free_range(row: Sequence[int], at: int) -> tuple[float, float]:
        low, high = -math.inf, math.inf
        if at:
            left = slots[row[at - 1]]
            low = left.x + left.width / 2 + SIDE + slots[row[at]].width / 2
        if at + 1 < len(row):
            right = slots[row[at + 1]]
            high = right.x - right.width / 2 - SIDE - slots[row[at]].width / 2
        return low, high

    for source, *passing in chains:
        ranges = [free_range(rows[slots[i].rank], rows[slots[i].rank].index(i))
                  for i in passing]
        low, high = max(low for low, _ in ranges), min(high for _, high in ranges)
        if low <= high:
            target = slots[passing[0]].x if slots[source].wide else slots[source].x
            for i in passing:
                slots[i].x = min(max(target, low), high)


def widen_joins(slots: Sequence[Slot], rows: Sequence[Sequence[int]],
                pieces: Sequence[Piece]) -> None:
    """Widens each concatenation to a bar below all its inputs, where there is room."""
    above, _ = neighbours(pieces)
    for row in rows:
        for at, i in enumerate(row):
            slot = slots[i]
            near = [slots[j].x for j in above[i] if slots[j].end != INPUT]
            if not slot.wide or slot.rect is None or len(near) < 2:
                continue
            low, high = -math.inf, math.inf
            if at:
                left = slots[row[at - 1]]
                low = left.x + left.width / 2 + SIDE
            if at + 1 < len(row):
                right = slots[row[at + 1]]
                high = right.x - right.width / 2 - SIDE
            start = max(low, min(slot.x - slot.width / 2, min(near) - INSET))
            stop = min(high, max(slot.x + slot.width / 2, max(near) + INSET))
            slot.x, slot.width = (start + stop) / 2, stop - start
            slot.rect.width = slot.width
