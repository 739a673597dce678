"""The items of a diagram: boxes of layers, and frames of blocks."""

import dataclasses

Shape = tuple[int, ...]
INPUT, OUTPUT = -1, -2  # the ends of a level, which its edges to the outside have


@dataclasses.dataclass(eq=False)
class Box:
    """One layer with its followers; in a repeated block it stands for every repeat."""

    name: str            # without the name of the frame around it
    nodes: list[str]     # the names of its nodes
    text: str            # what it computes: 'Conv 3x3/2, BatchNorm, relu'
    colour: str          # a key of `COLOURS`, or 'other'
    shapes: list[Shape]  # of its output, one for each repeat
    params: list[int]    # one for each repeat


@dataclasses.dataclass(eq=False)
class Frame:
    """A block, or `count` equal consecutive blocks."""

    name: str
    kind: str            # the class of the block
    inner: "Level"
    shapes: list[Shape]
    params: list[int]
    count: int = 1

    @property
    def nodes(self) -> list[str]:
        return [name for item in self.inner.items for name in item.nodes]


Item = Box | Frame


@dataclasses.dataclass(frozen=True)
class Edge:
    """A value that one item computes and another takes."""

    source: int  # index of an item, or INPUT
    target: int  # index of an item, or OUTPUT
    value: str   # the node that computes it


@dataclasses.dataclass(eq=False)
class Level:
    """Items side by side in one frame, or in the whole picture."""

    items: list[Item]
    edges: list[Edge]
