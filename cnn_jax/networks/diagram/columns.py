"""Places the ranks from top to bottom, and cuts a high level into columns."""

import collections
import math
from collections.abc import Mapping, Sequence

from cnn_jax.networks.diagram.slots import Piece, Slot
from cnn_jax.networks.parts import part_of

GAP, TRACK = 26, 9  # pixels between two ranks; between two horizontal lines there
GUTTER = 44         # pixels between two columns
HIGHEST, ASPECT = 900, 1.5  # a higher level becomes columns, of this width / height
MOST_COLUMNS, FILLED = 12, 0.55  # least fraction of the columns' height to use
WITHIN, WITHIN_PIXELS = 0.1, 100  # the cost of a cut within a part, such as stage1


def place_down(slots: Sequence[Slot], rows: Sequence[Sequence[int]],
               gaps: Sequence[Mapping[Piece, int]], pieces: Sequence[Piece]
               ) -> list[tuple[int, int]]:
    """Chooses y; returns the ranks of each column, (first, stop)."""
    heights = [max((slots[i].height for i in row), default=0.0) for row in rows]
    spaces = [gap_height(gap) for gap in gaps]
    count_below = collections.Counter(slots[piece.upper].rank for piece in pieces)
    cuts = [rank + 1 for rank in range(len(rows) - 1)
            if len(rows[rank]) == len(rows[rank + 1]) == count_below[rank] == 1
            and all(slots[i].rect is not None for i in (*rows[rank], *rows[rank + 1]))]
    columns = choose_columns(slots, rows, heights, spaces, cuts)
    for first, stop in columns:
        y = 0.0
        for rank in range(first, stop):
            for i in rows[rank]:
                slots[i].y = y + (heights[rank] - slots[i].height) / 2
            y += heights[rank] + (spaces[rank] if rank + 1 < stop else 0.0)
    return columns


def gap_height(gap: Mapping[Piece, int]) -> float:
    return GAP + TRACK * max(gap.values(), default=0)


def choose_columns(slots: Sequence[Slot], rows: Sequence[Sequence[int]],
                   heights: Sequence[float], spaces: Sequence[float],
                   cuts: Sequence[int]) -> list[tuple[int, int]]:
    """Cuts the ranks into columns of similar height; the picture is near `ASPECT`."""
    def height(first: int, stop: int) -> float:
        return sum(heights[first:stop]) + sum(spaces[first:stop - 1])

    def width(first: int, stop: int) -> float:
        inside = [slots[i] for row in rows[first:stop] for i in row]
        return (max(slot.x + slot.width / 2 for slot in inside)
                - min(slot.x - slot.width / 2 for slot in inside))

    one_column = [(0, len(rows))]
    if height(0, len(rows)) <= HIGHEST:
        return one_column

    def within(rank: int) -> bool:
        before, after = (slots[rows[r][0]].rect for r in (rank - 1, rank))
        assert before is not None and after is not None
        return part_of(before.item.name) == part_of(after.item.name)

    ends = [*cuts, len(rows)]
    costs = {rank: WITHIN_PIXELS * within(rank) for rank in cuts} | {0: 0}
    # best[k][stop]: (height of the highest of k columns up to `stop`, their starts)
    best: list[dict[int, tuple[float, list[int]]]] = [{0: (0.0, [])}]
    for _ in range(min(MOST_COLUMNS, len(ends))):
        best.append({stop: min((max(high, height(first, stop)) + costs[first],
                                [*starts, first])
                               for first, (high, starts) in best[-1].items()
                               if first < stop)
                     for stop in ends if any(first < stop for first in best[-1])})
    cut_lists = [row[len(rows)][1] for row in best[1:] if len(rows) in row]
    choices = [[*zip(starts, [*starts[1:], len(rows)])] for starts in cut_lists]
    choices = [columns for columns in choices if height(0, len(rows)) > FILLED * len(
        columns) * max(height(*column) for column in columns)]

    def badness(columns: list[tuple[int, int]]) -> float:
        across = sum(width(*column) + GUTTER for column in columns)
        down = max(height(*column) for column in columns)
        return (abs(math.log(across / down / ASPECT))
                + WITHIN * sum(costs[first] > 0 for first, _ in columns))

    return min([one_column, *choices], key=badness)
