"""A network as a table: one row a layer, with what it holds, costs and sees.

Everything is computed from shapes (`jax.eval_shape`): no array is made, so the table
of the largest network takes seconds. Words, for one image of [H, W, C]:

    MACs     multiply-adds of convolutions and dense layers, counted once; a tap that
             falls on padding counts; bias, normalisation and pooling do not
    memory   bytes of the layer's output in the compute dtype; 0 where it is a view
    field    the receptive field: output p of a layer depends on the input pixels
             stride * p + offset ... stride * p + offset + size - 1 along an axis

Source of the last: Araujo, Norris, Sim, "Computing receptive fields of convolutional
neural networks", Distill 2019. Where branches meet, the field is the union. After a
transposed convolution not all positions see as much: there the field holds what each
of them sees, and it is blank where its stride would be a fraction.
"""

import collections
import csv
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cnn_jax import layers
from cnn_jax.json_files import sealed
from cnn_jax.native import library
from cnn_jax.networks.blocks import SeparableConv
from cnn_jax.networks.lenet import SparseConv
from cnn_jax.ops.conv import describe
from cnn_jax.ops.geometry import conv_spec, resolve_padding

VIEWS = (layers.Flatten,)
WHOLE_IMAGE = (layers.Flatten, layers.GlobalAvgPool)


class Field(NamedTuple):
    """The receptive field along one axis, in pixels of the network's input."""

    size: int
    stride: int  # 0 where the layer has a single position
    offset: int  # of the first position's first pixel; negative: in the padding


class Row(NamedTuple):
    """One layer."""

    name: str
    kind: str
    shape: tuple[int, ...]              # of the output, without the batch
    params: int
    macs: int
    memory: int                         # bytes
    field: tuple[Field, Field] | None   # (vertical, horizontal); None: not known
    conv: str = ""                      # what computes a convolution on this device


class LayerTable(NamedTuple):
    """The rows in the order of the calls, and the totals."""

    model: str
    input_shape: tuple[int, int, int]
    rows: tuple[Row, ...]
    params: int  # trainable
    stats: int   # running statistics of batch norm

    @property
    def macs(self) -> int:
        return sum(row.macs for row in self.rows)

    @property
    def memory(self) -> int:
        return sum(row.memory for row in self.rows)

    def records(self) -> list[dict[str, Any]]:
        """One flat dict a row, as written to CSV and JSON."""
        return [record(row) for row in self.rows]

    def csv(self) -> str:
        """The rows, and the totals in a last one whose layer is 'total'."""
        out = io.StringIO()
        writer = csv.DictWriter(out, list(self.records()[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.records())
        writer.writerow({"layer": "total", "params": self.params, "macs": self.macs,
                         "memory_bytes": self.memory})
        return out.getvalue()

    def json(self) -> str:
        totals = {"params": self.params, "stats": self.stats, "macs": self.macs,
                  "memory_bytes": self.memory}
        return json.dumps(sealed({
            "model": self.model, "input_shape": self.input_shape, **totals,
            "layers": self.records()}), indent=1) + "\n"

    def text(self) -> str:
        """The table for people, at most 100 columns wide."""
        head = ("layer", "kind", "output shape", "parameters", "MACs (M)",
                "memory (KiB)", "field", "stride", "offset")
        body = [cells(row) for row in self.rows]
        widths = [max(map(len, column)) for column in zip(head, *body)]
        widths[0] -= max(0, sum(widths) + len(widths) - 1 - 100)

        def line(row):
            name = row[0] if len(row[0]) <= widths[0] else "~" + row[0][1 - widths[0]:]
            left = [f"{name:<{widths[0]}}", f"{row[1]:<{widths[1]}}"]
            return " ".join(left + [f"{cell:>{width}}" for cell, width in
                                    zip(row[2:], widths[2:])]).rstrip()

        rule = "-" * (sum(widths) + len(widths) - 1)
        size = "x".join(map(str, self.input_shape))
        totals = (f"parameters {self.params:,}   running statistics {self.stats:,}   "
                  f"MACs {self.macs / 1e6:,.3f} M   activations "
                  f"{self.memory / 2**20:,.2f} MiB")
        return "\n".join([f"{self.model} on {size}", rule, line(head), rule,
                          *map(line, body), rule, totals]) + "\n"

    def convolutions(self) -> str:
        """'conv1 by banded / im2col / lax; 5 by onednn', and what that is: names of
        three layers at most that have a form to themselves, or how many it computes."""
        layers = self.by_form()
        named = 3 if len(layers) > 1 else 0
        found = "; ".join(
            f"{' and '.join(names) if len(names) <= named else len(names)} by {conv}"
            for conv, names in layers.items())
        if any("/" in conv for conv in layers):
            found += " (forward / input gradient / weight gradient)"
        if any("onednn" in conv or "native" in conv for conv in layers):
            found += f"; in a library with {library.describe()}"
        return found or "none"

    def by_form(self) -> dict[str, list[str]]:
        """{what computes them: names of convolutions}, the fewest first."""
        layers = collections.defaultdict(list)
        for row in self.rows:
            if row.conv:
                layers[row.conv].append(row.name)
        return dict(sorted(layers.items(), key=lambda item: len(item[1])))

    def save(self, folder: str | Path) -> None:
        """Writes summary.txt, summary.csv and summary.json."""
        for ending, content in (("txt", self.text()), ("csv", self.csv()),
                                ("json", self.json())):
            Path(folder, f"summary.{ending}").write_text(content)


def cells(row: Row) -> list[str]:
    """A row as the text table shows it; of the field, the vertical axis."""
    field = ["", "", ""]
    if row.field is not None:
        size, stride, offset = row.field[0]
        field = [str(size), str(stride or "-"), str(offset)]
    return [row.name, row.kind, "x".join(map(str, row.shape)),
            f"{row.params:,}" if row.params else "-",
            f"{row.macs / 1e6:.3f}" if row.macs else "-",
            f"{row.memory / 1024:,.1f}" if row.memory else "-", *field]


def record(row: Row) -> dict[str, Any]:
    out = {"layer": row.name, "kind": row.kind,
           "output_shape": "x".join(map(str, row.shape)), "params": row.params,
           "macs": row.macs, "memory_bytes": row.memory, "conv": row.conv}
    for axis, name in enumerate(("vertical", "horizontal")):
        field = row.field[axis] if row.field else (None, None, None)
        out |= {f"field_{what}_{name}": value
                for what, value in zip(Field._fields, field)}
    return out


def layer_table(model: nn.Module, input_shape: tuple[int, int, int],
                images: int = 1) -> LayerTable:
    """The table of a network for images of `input_shape` = (H, W, C).

    images: that a device computes at a time, by which its convolutions are chosen.
    """
    rows: list[Row] = []
    open_modules: list[nn.Module] = []
    counted: set[tuple[str, ...]] = set()
    # Receptive field by traced value; the value is kept, so that its id stays its own.
    fields: dict[int, tuple[Any, tuple[Field, Field] | None]] = {}

    def watch(call, args, kwargs, context):
        module = context.module
        if context.method_name != "__call__" or any(
                module is other for other in open_modules):
            return call(*args, **kwargs)
        inputs = [a for a in jax.tree.leaves((args, kwargs)) if hasattr(a, "shape")]
        if not module.path:
            fields[id(inputs[0])] = (inputs[0], (Field(1, 1, 0), Field(1, 1, 0)))
        open_modules.append(module)
        start = len(rows)
        out = call(*args, **kwargs)
        open_modules.pop()
        inside = rows[start:]
        if inside and not is_one_row(module):
            return out
        seen = [fields.get(id(x), (x, None))[1] for x in inputs]
        field = inside[-1].field if inside else field_of(module, inputs[0], seen)
        view = isinstance(module, VIEWS) or any(out is x for x in inputs)
        own = {} if module.path in counted else module.variables.get("params")
        counted.add(module.path)
        rows[start:] = [Row(
            "/".join(module.path), kind_of(module), out.shape[1:], size_of(own),
            sum(row.macs for row in inside) or macs_of(module, inputs[0], out),
            0 if view else out[0].size * out.dtype.itemsize, field,
            conv_of(module, inputs[0], out, images))]
        fields[id(out)] = (out, field)
        return out

    with nn.intercept_methods(watch):
        variables = jax.eval_shape(
            lambda: model.init(jax.random.key(0), jnp.zeros((1, *input_shape)),
                               train=False))
    return LayerTable(type(model).__name__, tuple(input_shape), tuple(rows),
                      size_of(variables.get("params")),
                      size_of(variables.get("batch_stats")))


def is_one_row(module: nn.Module) -> bool:
    """Whether a module made of others is a layer of its own: people know it as one, or
    it has parameters beside those of its parts."""
    parameters = module.variables.get("params", {}).values()
    return (isinstance(module, SeparableConv)
            or not all(isinstance(value, Mapping) for value in parameters))


def size_of(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def macs_of(module: nn.Module, x: jax.Array, y: jax.Array) -> int:
    """Multiply-adds for one image: outputs times the products summed in each, or for a
    transposed convolution inputs times the products that each adds to."""
    if isinstance(module, nn.Conv):
        return (math.prod(y.shape[1:]) * math.prod(module.kernel_size)
                * x.shape[-1] // module.feature_group_count)
    if isinstance(module, layers.ConvTranspose):
        return (math.prod(x.shape[1:]) * math.prod(module.kernel_size)
                * y.shape[-1] // module.feature_group_count)
    if isinstance(module, SparseConv):
        return (math.prod(y.shape[1:3]) * math.prod(module.kernel_size)
                * len(module.connections))
    if isinstance(module, nn.Dense):
        return math.prod(y.shape[1:]) * x.shape[-1]
    return 0


def conv_of(module: nn.Module, x: jax.Array, y: jax.Array, images: int) -> str:
    """What computes a layer's convolution of so many images here ('' for other layers).
    """
    transposed = isinstance(module, layers.ConvTranspose)
    if not transposed and not isinstance(module, nn.Conv):
        return ""
    kernel, strides, padding, dilation = window_of(module)
    w = module.variables["params"]["kernel"]
    if transposed:  # the input gradient of the convolution from y to x
        name, image = module.implementation, y.shape
        reaches = [(k - 1) * d + 1 for k, d in zip(kernel, both(dilation))]
        padding = resolve_padding(padding, [n * s for n, s in zip(
            x.shape[1:], both(strides))], reaches, both(strides))
    else:
        hook = module.conv_general_dilated
        name = hook.__name__.removeprefix("conv_") if hook else "lax"
        image = x.shape
    spec = conv_spec((images, *image[1:]), w.shape, strides, padding, None, dilation,
                     module.feature_group_count)
    return describe(name, spec, jnp.dtype(module.dtype or x.dtype))


def window_of(module: nn.Module):
    """(kernel, strides, padding, dilation) of a layer with a moving window, or None."""
    if isinstance(module, (nn.Conv, layers.ConvTranspose)):
        return (module.kernel_size, module.strides, module.padding,
                module.kernel_dilation)
    if isinstance(module, SparseConv):
        return module.kernel_size, 1, "VALID", 1
    if isinstance(module, (layers.MaxPool, layers.AvgPool)):
        return module.window, module.strides, module.padding, 1
    if isinstance(module, layers.ZeroPad):
        return (1, 1), 1, module.padding, 1
    if isinstance(module, layers.Subsample):
        return (1, 1), module.stride, "VALID", 1
    return None


def both(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


def kind_of(module: nn.Module) -> str:
    """The class, with the window and stride of those that have one: Conv 3x3/2."""
    name = type(module).__name__
    window = window_of(module)
    if window is None or isinstance(module, layers.ZeroPad):
        return name
    kernel, strides = both(window[0]), both(window[1])
    stride = "" if strides == (1, 1) else f"/{strides[0]}"
    if len(set(strides)) > 1:
        stride = f"/{strides[0]}x{strides[1]}"
    groups = getattr(module, "feature_group_count", 1)
    return (f"{name} {kernel[0]}x{kernel[1]}{stride}"
            + (f" g{groups}" if groups > 1 else ""))


def field_of(module: nn.Module, x: jax.Array, seen: list) -> tuple[Field, Field] | None:
    """The receptive field of a layer's output from those of its inputs."""
    if not seen or None in seen:
        return None
    before = [union([inputs[axis] for inputs in seen]) for axis in (0, 1)]
    if None in before:
        return None
    if isinstance(module, WHOLE_IMAGE):
        return tuple(Field(f.size + (n - 1) * f.stride, 0, f.offset)
                     for f, n in zip(before, x.shape[1:3]))
    window = window_of(module)
    if window is None:
        return tuple(before)
    kernel, strides, padding, dilation = window
    strides = both(strides)
    reaches = [(k - 1) * d + 1 for k, d in zip(both(kernel), both(dilation))]
    if isinstance(module, layers.ConvTranspose):
        same = [n * stride for n, stride in zip(x.shape[1:3], strides)]
        pads = resolve_padding(padding, same, reaches, strides)
        fields = tuple(map(transposed_field, before, reaches, strides, pads))
        return None if None in fields else fields
    pads = resolve_padding(padding, x.shape[1:3], reaches, strides)
    return tuple(Field(f.size + (reach - 1) * f.stride, f.stride * stride,
                       f.offset - low * f.stride)
                 for f, reach, stride, (low, _) in zip(before, reaches, strides, pads))


def transposed_field(before: Field, reach: int, stride: int,
                     pad: tuple[int, int]) -> Field | None:
    """The field after a transposed convolution, or None if its stride is no integer.

    Position q sees the positions (q + low - reach + 1) / stride ... (q + low) / stride
    of its input, of which each sees `before`.
    """
    fine, rest = divmod(before.stride, stride)
    if rest:
        return None
    return Field(before.size + (reach - 1) * fine, fine,
                 before.offset + (pad[0] - reach + 1) * fine)


def union(fields: list[Field]) -> Field | None:
    """The smallest field that holds all of them; None where the strides differ."""
    if len({field.stride for field in fields}) != 1:
        return None
    first = min(field.offset for field in fields)
    last = max(field.offset + field.size for field in fields)
    return Field(last - first, fields[0].stride, first)
