"""Makes the tables of the reference from the code, as MyST Markdown.

The directive `{code-table} NAME` inserts the text of the function NAME. A function that
makes sections gives them headings of level 2.
"""

import functools
import importlib
import inspect
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cnn_jax import data, networks, ops, optimizers, tasks
from cnn_jax.cli import commands, program
from cnn_jax.cli.listing import convolutions, documented, first_line, poolings
from cnn_jax.config import FIELDS
from cnn_jax.interop.pretrained import PRETRAINED
from cnn_jax.interop.pretrained import table as pretrained
from cnn_jax.layers import Layers
from cnn_jax.networks.summary import LayerTable, layer_table
from experiments.published import EXPERIMENTS
from tests.support.peer_networks import KERAS, TORCH

PLAIN = Layers(conv="lax", pool="lax")  # the fastest to trace, with the same counts
SECTIONS = {  # of the config: the first word of a field's name -> the heading
    "": "The run", "model": "Network", "data": "Data", "progressive": "Image sizes",
    "augment": "Augmentation", "loss": "Loss", "optimizer": "Optimizer",
    "schedule": "Schedule", "early_stopping": "Early stopping",
    "checkpoint": "Checkpoints", "log": "Logging", "eval": "Evaluation",
    "inspect": "Pictures"}

# Top-1 in percent that is published for networks without weights to load.
PUBLISHED = (  # (data set, source, {network: top-1})
    ("ImageNet", "Caffe's models", {"alexnet": 57.1, "caffenet": 57.4,
                                    "googlenet": 68.7}),
    ("ImageNet", "Zeiler, Fergus, 2014: one network", {"zfnet": 61.7}),
    ("ImageNet", "the authors' repository: one crop", {
        "resnet50": 75.3, "resnet101": 76.4, "resnet152": 77.0, "densenet264": 77.9}),
    ("CIFAR-10", "akamaster/pytorch_resnet_cifar10", {
        "cifar_resnet20": 91.73, "cifar_resnet32": 92.63, "cifar_resnet44": 93.10,
        "cifar_resnet56": 93.39, "cifar_resnet110": 93.68, "cifar_resnet1202": 93.82}),
    ("CIFAR-10", "He et al.: Identity mappings, 2016", {
        "cifar_resnet110_preact": 93.63, "cifar_resnet164_preact": 94.54,
        "cifar_resnet1001_preact": 95.08}),
    ("CIFAR-10", "the authors' repository", {
        "cifar_densenet40_k12": 94.76, "cifar_densenet100_k12": 95.90,
        "cifar_densenet_bc100_k12": 95.49, "cifar_densenet_bc250_k24": 96.38,
        "cifar_densenet_bc190_k40": 96.54}))

CHECKED = """\
**Checked against** names the libraries whose own network has the same logits with the
same weights, within 1e-9 of their standard deviation in float64. *Training*: all
parameters and running statistics are the same after three steps, too. *torch*: the
network is written with PyTorch's functions. *Fewer blocks*: a shorter network of the
same blocks is compared. *Counts*: only parameters and multiply-adds are checked. The
column lists the cases of the tests `test_peers_pretrained.py`, `test_peers_keras.py`
and `test_peers_torch.py`."""
CITED = """\
## Published accuracies

What others publish for networks that no published weights fit. Our own runs of the
tutorials are [beside theirs](../results/accuracy.md)."""


def table(head: Sequence[str], rows: Iterable[Sequence[object]],
          right: range = range(0)) -> str:
    """Formats a table; the columns whose numbers are in `right` align to the right."""
    rules = ["--:" if column in right else "---" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (head, rules, *rows))


def escaped(text: str) -> str:
    """Escapes the characters that have a meaning in Markdown."""
    for sign in "\\|*_<>$`[]":
        text = text.replace(sign, f"\\{sign}")
    return text


def config_fields() -> str:
    """Lists every field of a config, a section for each group."""
    groups: dict[str, list[str]] = {}
    for name in FIELDS:
        groups.setdefault(name.rpartition(".")[0].partition(".")[0], []).append(name)
    return "\n\n".join(f"## {SECTIONS[group]}\n\n" + table(
        ("field", "default", "meaning", "allowed"), map(field_row, names))
        for group, names in groups.items())


def field_row(name: str) -> tuple[str, ...]:
    field = FIELDS[name]
    mark = "" if field.changes_result else " ↻"
    allowed = field.rule.allowed
    if len(field.rule.names) > 20:
        allowed = "a name of its table, or MODULE:CLASS of your own"
    return (f"`{name}`{mark}", f"`{field.default!r}`", escaped(field.help),
            escaped(allowed))


def network_table() -> str:
    """Lists every network with its size, cost, field, published weights and checks."""
    counts = table(("network", "input", "parameters", "multiply-adds (M)", "field",
                    "best published top-1 %", "sets of weights", "checked against"),
                   map(network_row, networks.NETWORKS), right=range(1, 7))
    return f"{CHECKED}\n\n{counts}"


@functools.cache
def layers_of(name: str) -> LayerTable:
    return layer_table(networks.create(name, layers=PLAIN),
                       networks.NETWORKS[name].input_shape)


def network_row(name: str) -> tuple[object, ...]:
    shape, layers = networks.NETWORKS[name].input_shape, layers_of(name)
    fields = [row.field[0].size for row in layers.rows
              if row.field and row.field[0].stride]
    weights = [row for row in PRETRAINED.values() if row.network == name]
    top1 = max((row.top1 for row in weights if row.top1 is not None), default=None)
    return (f"`{name}`", " x ".join(map(str, shape)), f"{layers.params:,}",
            f"{layers.macs / 1e6:,.3f}", f"{max(fields):,}" if fields else "-",
            "-" if top1 is None else f"{top1:.1f}", len(weights) or "-",
            checked_against(name))


def pretrained_sources() -> str:
    """Lists the pretrained weights of each library."""
    return pretrained.tables(lambda row: pretrained.parameters_of(row) if row.fields
                             else layers_of(row.network).params)


def checked_against(name: str) -> str:
    """Names the libraries whose networks equal one of ours, by the cases of the tests.

    Every row of `PRETRAINED` is a case of test_peers_pretrained.py, for the logits.
    """
    found = {source.partition(":")[0].replace("keras", "Keras"): ""
             for source, row in PRETRAINED.items() if row.network == name}
    cases = [*(("Keras", case) for case in KERAS.values()),
             *((case.theirs.split()[0], case) for case in TORCH.values())]
    for library, case in cases:
        fewer = {"blocks", "depth"} & set(case.fields)
        if case.name == name and not found.get(library):
            found[library] = ("" if not case.trained else " (training, fewer blocks)"
                              if fewer else " (training)")
    return ", ".join(library + note for library, note in found.items()) or "counts"


def published_accuracy() -> str:
    """Lists accuracies that others publish for networks without weights to load."""
    rows = [(f"`{name}`", data, top1, source)
            for data, source, figures in PUBLISHED for name, top1 in figures.items()]
    for experiment, row in EXPERIMENTS.items():
        if row.published and not experiment.endswith("_ours"):
            file, _, variant = row.config.partition(".py:")
            config = importlib.import_module(f"cnn_jax.configs.{file}").get_config(
                *filter(None, [variant]))
            rows.append((f"`{config.model.name}`", f"`{config.data.name}`",
                         f"{100 * row.published:.2f}",
                         f"the tutorial of `{experiment}`"))
    return table(("network", "data", "top-1 %", "published by"), rows, range(2, 3))


def families() -> str:
    """Lists cited accuracies, then the classes of networks with their docstrings."""
    classes: dict[type, list[str]] = {}
    for name, network in networks.NETWORKS.items():
        classes.setdefault(network.constructor, []).append(name)
    return f"{CITED}\n\n{published_accuracy()}\n\n" + "\n\n".join(
        f"## {constructor.__name__}\n\n{', '.join(f'`{name}`' for name in names)}\n\n"
        f"{docstring(constructor)}" for constructor, names in classes.items())


def docstring(value: Any) -> str:
    """Shows a docstring as it is: its formulas depend on the columns."""
    return f"```text\n{inspect.getdoc(value)}\n```"


def operations() -> str:
    """Lists the functions of cnn_jax.ops with signature and docstring."""
    functions = {name: value for name in ops.__all__
                 if callable(value := getattr(ops, name))}
    return "\n\n".join(f"## {name}\n\n```python\n{signature(name, function)}\n```\n\n"
                       f"{docstring(function)}" for name, function in functions.items())


def signature(name: str, function: Any) -> str:
    """Writes a signature without its annotations; a long one takes several lines."""
    whole = inspect.signature(function)
    arguments = [argument.replace(annotation=inspect.Parameter.empty)
                 for argument in whole.parameters.values()]
    short = whole.replace(parameters=arguments,
                          return_annotation=inspect.Signature.empty)
    text = f"{name}{short}"
    return "\n".join(textwrap.wrap(text, 84, subsequent_indent=" " * (len(name) + 1)))


def algorithms() -> str:
    """Lists the implementations of convolution and pooling."""
    return ("## Convolution\n\n"
            + table(("`model.conv`", "algorithm"), as_code(convolutions()))
            + "\n\n## Pooling\n\n"
            + table(("`model.pool`", "algorithm"), as_code(poolings())))


def named(rows: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists (name, first sentence of the docstring)."""
    return as_code(documented(rows))


def as_code(rows: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Formats the names of (name, description) as code."""
    return [(f"`{name}`", escaped(text)) for name, text in rows]


def data_sets() -> str:
    """Lists the data sets that have a name."""
    return table(("`data.name`", "task", "what it is"), (
        (f"`{name}`", f"`{source.task.name}`",
         escaped(source.about or first_line(source.read.__doc__)))
        for name, source in (data.SOURCES | {"tfds:NAME": data.CATALOGUE}).items()))


def optimizer_table() -> str:
    """Lists optimizers and schedules."""
    return ("## Optimizers\n\n" + table(("`optimizer.name`", ""),
                                        named(optimizers.OPTIMIZERS))
            + "\n\n## Schedules\n\n" + table(("`schedule.name`", ""),
                                             named(optimizers.SCHEDULES)))


def task_table() -> str:
    """Lists tasks, losses and metrics."""
    return ("## Tasks\n\n" + table(("`data.task`", "a label is for an", "metrics"), (
        (f"`{name}`", task.unit,
         ", ".join(f"`{metric}`" for metric in task.monitors) or "-")
        for name, task in tasks.TASKS.items()))
        + "\n\n## Losses\n\n" + table(("`loss.name`", ""), named(tasks.LOSSES)))


def modes() -> str:
    """Lists the commands of --mode."""
    return table(("`--mode`", "what it does"), (
        (f"`{name}`", escaped(first_line(command.__doc__)))
        for name, command in commands.COMMANDS.items()))


def flags() -> str:
    """Lists the flags of the command line."""
    from absl import flags as absl_flags

    known = absl_flags.FLAGS.get_key_flags_for_module(program.__name__)
    return table(("flag", "default", "meaning"), (
        (f"`--{flag.name}`", "-" if flag.default is None else f"`{flag.default}`",
         escaped(flag.help)) for flag in known))
