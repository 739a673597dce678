"""Lists everything that flags and configs name, for --mode=list: 80 columns wide."""

import ast
import collections
import sys
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import flax.linen as nn

from cnn_jax import data, networks, ops, optimizers
from cnn_jax.cli.config_file import CONFIGS, config_names
from cnn_jax.cli.request import Request
from cnn_jax.config import FIELDS
from cnn_jax.console import discard
from cnn_jax.interop.pretrained import PRETRAINED, SOURCES_COMMAND
from cnn_jax.native import convolution as onednn
from cnn_jax.ops import conv, pool
from cnn_jax.ops.pool import reduce_window

WIDTH = 80
# The fields whose names have a table of their own.
TABLES = ("model.name", "model.conv", "model.pool", "optimizer.name", "schedule.name")


def list_names(request: Request) -> None:
    """Prints the networks, data sets, configs, optimizers and operations."""
    print_piped("\n\n".join([
        table("Configs: --config", ((f"configs/{name}", first_line(ast.get_docstring(
            ast.parse((CONFIGS / name).read_text()))))
            for name in config_names(CONFIGS))),
        *network_tables(), table("Data sets: --config.data.name", data_rows()),
        table("Optimizers: --config.optimizer.name", documented(optimizers.OPTIMIZERS)),
        table("Schedules of the learning rate: --config.schedule.name",
              documented(optimizers.SCHEDULES)),
        table("Convolution: --config.model.conv", convolutions()),
        table("Pooling: --config.model.pool", poolings()),
        table("Operations: cnn_jax.ops", documented(
            {name: value for name in ops.__all__
             if callable(value := getattr(ops, name))})),
        table("Names of other fields", (
            (f"--config.{name}", ", ".join(sorted(field.rule.names)))
            for name, field in FIELDS.items()
            if field.rule.names and name not in TABLES)),
        table("Pretrained weights: --model, --config.model.init_from", (
            (f"{library}:NAME", f"{count} sets of weights: {SOURCES_COMMAND} "
             "prints them")
            for library, count in collections.Counter(
                source.partition(":")[0] for source in PRETRAINED).items()))]))


def network_tables() -> list[str]:
    """Makes a table for each class of network: input and fields of its variants."""
    rows: dict[type[nn.Module], list[tuple[str, str]]] = {}
    for name, network in networks.NETWORKS.items():
        shape = " x ".join(map(str, network.input_shape))
        fields = ", ".join(f"{key}={value}" for key, value in network.fields.items())
        rows.setdefault(network.constructor, []).append((name, f"{shape:14} {fields}"))
    return ["Networks: --config.model.name, input and fields of its class",
            *(table(f"{constructor.__name__}: {first_line(constructor.__doc__)}",
                    variants, indent=15) for constructor, variants in rows.items())]


def data_rows() -> list[tuple[str, str]]:
    """Lists (name, task and source) of each data set."""
    sources = data.SOURCES | {"tfds:NAME": data.CATALOGUE}
    return [*((name, f"{source.task.name}: "
               f"{source.about or first_line(source.read.__doc__)}")
              for name, source in sources.items()),
            ("MODULE:FUNCTION", "Calls a function of your own, see "
             "docs/howto/your_code.md.")]


def convolutions() -> list[tuple[str, str]]:
    """Lists (name, description) of the algorithms of convolution."""
    return documented({name: onednn if name == "onednn" else getattr(conv, name)
                       for name in ops.ALGORITHMS})


def poolings() -> list[tuple[str, str]]:
    """Lists (name, description) of the algorithms of pooling."""
    return [*documented({name: reduce_window if name == "lax" else getattr(pool, name)
                         for name in ops.POOLS if name != "auto"}),
            ("auto", "Selects windows on a CPU, lax elsewhere.")]


def documented(named: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists (name, first line of the docstring) of functions or modules."""
    return [(name, first_line(value.__doc__)) for name, value in named.items()]


def first_line(docstring: str | None) -> str:
    """Returns the first paragraph of a docstring, which is its first sentence."""
    return " ".join((docstring or "").partition("\n\n")[0].split())


def table(title: str, rows: Iterable[tuple[str, str]], indent: int = 0) -> str:
    """Formats a column of names and one of descriptions, together 80 columns wide.

    indent: how many columns the lines of a description after the first are indented.
    """
    descriptions, lines = dict(rows), textwrap.wrap(title, WIDTH)
    width = max(map(len, descriptions))
    for name, text in descriptions.items():
        lines += textwrap.wrap(
            text, WIDTH, initial_indent=f"  {name:{width}}  ",
            subsequent_indent=" " * (width + 4 + indent), break_on_hyphens=False
        ) or [f"  {name}"]
    return "\n".join(lines)


def print_piped(text: str) -> None:
    """Prints a text, whose reader may close the pipe (`| head`) before the end."""
    try:
        print(text, flush=True)
    except BrokenPipeError:  # Python would flush, and fail, again when it exits
        discard(sys.stdout)
