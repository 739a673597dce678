"""Prints tables of all sources of pretrained weights, as Markdown.

    python -m cnn_jax.interop.pretrained.table
"""

import functools
import math
from collections.abc import Callable, Iterator

from cnn_jax.interop.pretrained import PRETRAINED, mapping_of_row
from cnn_jax.interop.pretrained.row import Pretrained

TITLES = {"torchvision": "torchvision", "timm": "timm", "keras": "keras.applications"}
HEAD = ("source", "network here", "parameters", "pictures", "top-1 %", "checked by",
        "license")
# What a server announces for files without a published checksum.
ANNOUNCED = {"huggingface.co": "sha256 from the hub",
             "storage.googleapis.com": "md5 from the server",
             "github.com": "nothing: download it yourself"}


def parameters_of(row: Pretrained) -> int:
    """Counts the trainable parameters of a row's network, auxiliary heads included."""
    return _count(row.network, tuple(row.fields.items()))


@functools.cache
def _count(network: str, fields: tuple) -> int:
    row = next(row for row in PRETRAINED.values() if (
        row.network, tuple(row.fields.items())) == (network, fields))
    return sum(math.prod(leaf.layout.ours)
               for path, leaf in mapping_of_row(row).leaves.items()
               if path.startswith("params/"))


def tables(count: Callable[[Pretrained], int] = parameters_of) -> str:
    """Makes a Markdown table of `PRETRAINED` for each library."""
    return "\n\n".join("\n".join(lines(library, count)) for library in TITLES)


def lines(library: str, count: Callable[[Pretrained], int]) -> Iterator[str]:
    """Yields the heading of a library, and the lines of its table."""
    yield f"## {TITLES[library]}"
    yield ""
    yield f"| {' | '.join(HEAD)} |"
    yield "| --- | --- | --: | --- | --: | --- | --- |"
    for source, row in PRETRAINED.items():
        if row.library == library:
            yield f"| {' | '.join(cells(source, row, count(row)))} |"


def cells(source: str, row: Pretrained, parameters: int) -> list[str]:
    """Formats the cells of a row of `PRETRAINED`."""
    fields = "".join(f", {name}={value}" for name, value in row.fields.items())
    size, _, shorter_side, interpolation = row.preprocessing
    assert size is not None
    host = row.url.split("/")[2]
    checked = f"{row.checksum[0]} {row.checksum[1][:8]}" if row.checksum else (
        ANNOUNCED[host])
    return [f"`{source}`", f"`{row.network}`{fields}", f"{parameters:,}",
            f"{size[0]} of {shorter_side}, {interpolation}",
            "-" if row.top1 is None else f"{row.top1:.3f}".rstrip("0").rstrip("."),
            checked, row.license]


if __name__ == "__main__":
    print(tables())
