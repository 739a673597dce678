"""The layer table as files: summary.txt, summary.csv and summary.json."""

import csv
import io
import itertools
from collections.abc import Sequence
from pathlib import Path

import msgspec

from cnn_jax.files import write_atomically, write_json
from cnn_jax.networks.parts import part_of
from cnn_jax.networks.roofline import Peak
from cnn_jax.networks.summary import LayerTable, Row

__all__ = ["plain_text"]

WIDTH = 100  # columns of the text
SHORT = 40   # the log lists at most so many layers one by one
HEAD = ("layer", "kind", "output shape", "parameters", "MACs (M)", "memory (KiB)",
        "FLOP/B", "field", "stride", "offset")


class LayerRecord(msgspec.Struct):
    """A layer in summary.json, and a row of summary.csv."""

    layer: str
    kind: str
    output_shape: str  # '14x14x32'
    params: int
    macs: int
    memory_bytes: int
    conv: str
    # The receptive field in pixels; None if unknown.
    field_size_vertical: int | None
    field_stride_vertical: int | None
    field_offset_vertical: int | None
    field_size_horizontal: int | None
    field_stride_horizontal: int | None
    field_offset_horizontal: int | None
    flops_per_byte: float | None = None  # see `Row.intensity`; None without MACs


class Summary(msgspec.Struct):
    """summary.json."""

    model: str
    input_shape: tuple[int, int, int]
    params: int
    stats: int
    macs: int
    memory_bytes: int
    layers: list[LayerRecord]


def summary_of(table: LayerTable) -> Summary:
    """Makes the content of summary.json."""
    return Summary(table.model, table.input_shape, table.params, table.stats,
                   table.macs, table.memory,
                   [record(row, table.images) for row in table.rows])


def record(row: Row, images: int) -> LayerRecord:
    """Flattens a row. images: that a device computes at a time."""
    vertical, horizontal = row.field or ((None,) * 3, (None,) * 3)
    layer = LayerRecord(row.name, row.kind, "x".join(map(str, row.shape)), row.params,
                        row.macs, row.memory, row.conv, *vertical, *horizontal)
    return msgspec.structs.replace(
        layer, flops_per_byte=round(row.intensity(images), 3) or None)


def csv_text(table: LayerTable) -> str:
    """Writes one row per layer, then the totals in a row whose layer is 'total'."""
    out = io.StringIO()
    writer = csv.DictWriter(out, LayerRecord.__struct_fields__, lineterminator="\n")
    writer.writeheader()
    writer.writerows(msgspec.structs.asdict(record(row, table.images))
                     for row in table.rows)
    writer.writerow({"layer": "total", "params": table.params, "macs": table.macs,
                     "memory_bytes": table.memory})
    return out.getvalue()


def plain_text(table: LayerTable) -> str:
    """Formats the table for people, at most `WIDTH` columns wide."""
    body = [cells(row, table.images) for row in table.rows]
    widths = [max(map(len, column)) for column in zip(HEAD, *body)]
    widths[0] -= max(0, sum(widths) + len(widths) - 1 - WIDTH)

    def line(row: Sequence[str]) -> str:
        name = row[0] if len(row[0]) <= widths[0] else "~" + row[0][1 - widths[0]:]
        left = [f"{name:<{widths[0]}}", f"{row[1]:<{widths[1]}}"]
        return " ".join(left + [f"{cell:>{width}}" for cell, width in
                                zip(row[2:], widths[2:])]).rstrip()

    rule = "-" * (sum(widths) + len(widths) - 1)
    size = "x".join(map(str, table.input_shape))
    totals = (f"parameters {table.params:,}   running statistics {table.stats:,}   "
              f"MACs {table.macs / 1e6:,.3f} M   activations "
              f"{table.memory / 2**20:,.2f} MiB")
    return "\n".join([f"{table.model} on {size}", rule, line(HEAD), rule,
                      *map(line, body), rule, totals]) + "\n"


def short_text(table: LayerTable) -> str:
    """Formats the table for the log; a long table by parts, see `parts_of_table`."""
    if len(table.rows) <= SHORT:
        return plain_text(table)
    return (plain_text(parts_of_table(table))
            + f"summary.txt in the workdir has all {len(table.rows):,} layers\n")


def parts_of_table(table: LayerTable) -> LayerTable:
    """Adds up the layers of each part, such as stage1; see `networks.part_of`.

    Shape and receptive field of a part are those of its last layer.
    """
    parts = itertools.groupby(table.rows, lambda row: part_of(row.name.split("/")[0]))
    return table._replace(rows=tuple(
        inside[-1]._replace(
            name=name, kind=f"{len(inside)} layers" if len(inside) > 1
            else inside[0].kind, params=sum(row.params for row in inside),
            macs=sum(row.macs for row in inside),
            memory=sum(row.memory for row in inside),
            inputs=sum(row.inputs for row in inside),
            weights=sum(row.weights for row in inside))
        for name, inside in ((name, [*rows]) for name, rows in parts)))


def cells(row: Row, images: int) -> list[str]:
    """Formats a row for `plain_text`; its field is the one along the vertical axis."""
    field = ["", "", ""]
    if row.field is not None:
        size, stride, offset = row.field[0]
        field = [str(size), str(stride or "-"), str(offset)]
    return [row.name, row.kind, "x".join(map(str, row.shape)),
            f"{row.params:,}" if row.params else "-",
            f"{row.macs / 1e6:.3f}" if row.macs else "-",
            f"{row.memory / 1024:,.1f}" if row.memory else "-",
            f"{row.intensity(images):,.1f}" if row.macs else "-", *field]


def roofline_text(table: LayerTable, device: str, peak: Peak, dtype: str) -> str:
    """Formats the least time of each layer's forward pass on a device.

    The layers are computed one by one: each reads its input and parameters from memory
    and writes its output. A compiler that fuses layers moves less.
    """
    rows = [(row.name, 2 * row.macs * table.images, row.traffic(table.images))
            for row in table.rows if row.traffic(table.images)]
    seconds = [peak.seconds(flops, size, dtype) for _, flops, size in rows]
    total = sum(seconds)
    lines = [f"{name:<40} {1e6 * limit:>12,.2f} us {limit / total:>7.1%}  bound by "
             + ("memory" if flops / getattr(peak, dtype) < size / peak.bandwidth
                else "arithmetic")
             for (name, flops, size), limit in zip(rows, seconds)]
    return "\n".join([
        f"least time of a forward pass of {table.images} images in {dtype} on "
        f"{device}: {getattr(peak, dtype) / 1e12:,.3g} TFLOP/s, "
        f"{peak.bandwidth / 1e9:,.3g} GB/s",
        *lines, f"total {1e6 * total:,.2f} us: at most {table.images / total:,.0f} "
        "images/s"]) + "\n"


def save_summary(table: LayerTable, folder: Path) -> None:
    """Writes summary.txt, summary.csv and summary.json."""
    write_atomically(folder / "summary.txt", plain_text(table))
    write_atomically(folder / "summary.csv", csv_text(table))
    write_json(folder / "summary.json", summary_of(table))
