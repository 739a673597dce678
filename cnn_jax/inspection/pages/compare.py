"""Compares runs on one page: differing configs, curves, and results with spread.

Runs whose configs differ only in the seed form a group; the spread of a group is over
its seeds. The page is one file, like report.html.
"""

import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_jax import data
from cnn_jax.config import FIELDS
from cnn_jax.console import command
from cnn_jax.errors import InputError, RunError
from cnn_jax.files import write_atomically
from cnn_jax.inspection.draw.drawing import fold, new_figure
from cnn_jax.inspection.draw.learning_curves import (SPLITS, capitalized,
                                                     caption, set_epoch_ticks,
                                                     metrics_of)
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.pages.headline import chance
from cnn_jax.inspection.pages.record import Record, fields, read_record
from cnn_jax.inspection.pages.rendering import Table, drawn, render
from cnn_jax.inspection.pages.report import MANY, text

# The name of a group shows these fields first, and at most NAMED fields.
FIRST = ("model.name", "data.name", "optimizer.name", "optimizer.learning_rate")
NAMED = 4
FEW = 5  # groups; with more of them, a legend shows letters instead of names
# Colours that colour-blind readers can tell apart (Okabe and Ito, 2008), the pale ones
# darkened. After the last colour, the line style changes.
COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#a8487e", "#8a6d00", "#3a8fc0", "#000000")
STYLES = ("-", "--", "-.", ":")

# Figure in results.json -> (name on the page, format)
FIGURES = {
    "test_accuracy": ("test accuracy", ".4f"),
    "test_mean_iou": ("test mean IoU", ".4f"),
    "test_macro_f1": ("test macro F1", ".4f"),
    "test_loss": ("test loss", ".4f"),
    "validation_accuracy": ("validation accuracy", ".4f"),
    "validation_mean_iou": ("validation mean IoU", ".4f"),
    "validation_macro_f1": ("validation macro F1", ".4f"),
    "best_epoch": ("best epoch", ".3g"),
    "params": ("parameters", ",.0f"),
    "train_seconds": ("training, s", ".1f"),
    "images_per_second": ("images/s", ",.0f"),
}


class Group(NamedTuple):
    """Holds runs whose configs differ only in the seed."""

    letter: str
    runs: list[Record]
    config: dict[str, Any]  # without the seed


def write_comparison(folders: Sequence[Path], path: Path) -> None:
    """Writes the page.

    Raises InputError for fewer than two folders, for a folder that is given twice or is
    not a run, and for a file that cannot be written.
    """
    if len(folders) < 2:
        raise InputError(f"--mode=compare needs the folders of at least two runs, not "
                         f"{len(folders)}: "
                         f"{command('--mode=compare', 'A', 'B', '...')}")
    resolved = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if resolved[i] in resolved[:i]:
            raise InputError(f"--mode=compare: {folder} is given twice")
        if not (folder / "config.json").is_file():
            raise InputError(f"--mode=compare: {folder} is not the folder of a run: it "
                             "has no config.json")
    page = render("compare.html", **page_of(list(map(read_record, folders))))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, page)
    except (OSError, RunError) as error:
        raise InputError(f"--output={path} cannot be used ({error}): name another file"
                         ) from error


def page_of(runs: Sequence[Record]) -> dict[str, Any]:
    """Returns the values for the template."""
    groups = grouped(runs)
    names = group_names(groups)
    heading = f"{len(runs)} runs in {len(groups)} group{'s' * (len(groups) > 1)}"
    return {"title": heading, "heading": heading, "warnings": warnings(runs),
            "groups": group_table(groups, names), "runs": run_table(groups),
            "differences": difference_table(groups),
            "classes": class_table(groups), "many": MANY,
            "chance": chance_of(runs),
            "curves": [drawn(picture) for picture in draw_curves(groups, names)]}


def grouped(runs: Sequence[Record]) -> list[Group]:
    """Groups runs in the order of their first ones: A, B, ..., Z, AA, AB, ..."""
    groups: dict[str, Group] = {}
    for run in runs:
        config = {name: value for name, value in fields(run.config).items()
                  if name != "seed"
                  and (name not in FIELDS or FIELDS[name].changes_result)}
        group = Group(letters(len(groups)), [], config)
        groups.setdefault(repr(sorted(config.items())), group).runs.append(run)
    return list(groups.values())


def letters(index: int) -> str:
    """Maps 0 to A, 25 to Z, 26 to AA."""
    high, low = divmod(index, 26)
    return (letters(high - 1) if high else "") + string.ascii_uppercase[low]


def differing(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Returns {field: its value in each group} for the fields that differ.

    The value is None if a group does not set the field or lacks it.
    """
    names = sorted(set().union(*(group.config for group in groups)))
    values = {name: [group.config.get(name) for group in groups] for name in names}
    return {name: row for name, row in values.items()
            if any(value != row[0] for value in row)}


def group_names(groups: Sequence[Group]) -> list[str]:
    """Names each group by the differing fields: 'optimizer adam, learning_rate 0.002'.

    The fields of `FIRST` come first. Each group shows the first NAMED fields that it
    sets, and if these do not tell it from another group, the first field that does. A
    group that sets none of the fields is named by its network and data.
    """
    values = {field: texts(row) for field, row in differing(groups).items()}
    order = sorted(values, key=lambda field: (
        FIRST.index(field) if field in FIRST else len(FIRST)))
    short = dict(zip(order, short_names(order)))
    fields_set = [[field for field in order if group.config.get(field) is not None]
                  for group in groups]
    names = []
    for i, (group, known, shown) in enumerate(zip(groups, fields_set, told_apart(
            groups, [known[:NAMED] for known in fields_set], order))):
        parts = [f"{short[field]} {values[field][i]}" for field in shown]
        more = f" and {len(known) - len(shown)} more"
        names.append(", ".join(parts) + more * (len(shown) < len(known)) or
                     f"{group.config['model.name']} on {group.config['data.name']}")
    return names


def texts(values: Sequence[Any]) -> list[str]:
    """Formats the values of a field that differ.

    Numbers have at least four significant digits, and as many as tell them apart.
    """
    numbers = {value for value in values if isinstance(value, float)}
    digits = next((n for n in range(4, 17)
                   if len({f"{number:.{n}g}" for number in numbers}) == len(numbers)),
                  17)
    return ["-" if value is None else
            text(float(f"{value:.{digits}g}") if isinstance(value, float) else value)
            for value in values]


def told_apart(groups: Sequence[Group], shown: Sequence[list[str]],
               order: Sequence[str]) -> list[list[str]]:
    """Adds fields to those that each group shows, until no two groups show the same.

    A group shows only fields that it sets.
    """
    alike: dict[str, list[int]] = {}
    for i, (group, names) in enumerate(zip(groups, shown)):
        alike.setdefault(repr([(name, group.config[name]) for name in names]),
                         []).append(i)
    longer = list(shown)
    for members in alike.values():
        same = [groups[i] for i in members]
        if differ := [field for field in order if field in differing(same)]:
            added = [[*shown[i], differ[0]] if groups[i].config.get(differ[0])
                     is not None else shown[i] for i in members]
            for i, names in zip(members, told_apart(same, added, order)):
                longer[i] = names
    return longer


def short_names(fields: Sequence[str]) -> list[str]:
    """Shortens fields: 'optimizer.name' to optimizer, 'data.limit' to limit.

    Fields that would get one name keep their own.
    """
    short = [field.removesuffix(".name").rpartition(".")[2] for field in fields]
    return [name if short.count(name) == 1 else field
            for name, field in zip(short, fields)]


def warnings(runs: Sequence[Record]) -> list[str]:
    """Says what makes a comparison unfair."""
    lines = []
    unfinished = [run.name for run in runs if run.results is None]
    if unfinished:
        lines.append("Runs without results, which the means leave out: "
                     f"{', '.join(unfinished)}.")
    # The seed decides the split, so runs of several seeds may differ only in that.
    facts = {(run.info.name, run.info.image_shape, run.info.class_names,
              *run.info.counts.items()) for run in runs}
    seeds = {run.config.seed for run in runs}
    if len({run.info.sha256 for run in runs}) > 1 and (
            len(facts) > 1 or len(seeds) == 1):
        lines.append("The runs used different data, so their accuracies were measured "
                     "on different images.")
    results = [run.results for run in runs if run.results is not None]
    if len({result.machine for result in results}) > 1:
        lines.append("The runs used different machines: do not compare their times.")
    if len({tuple(result.devices) for result in results}) > 1:
        lines.append("The runs used different devices: do not compare their times.")
    if any(result.versions != results[0].versions for result in results):
        lines.append("The runs used different versions of the packages.")
    return lines


def chance_of(runs: Sequence[Record]) -> str:
    """Says how accurate a random guess is, if that is the same for all runs."""
    sizes = {len(run.info.class_names)
             if data.task_of(run.config.data).exclusive else 0 for run in runs}
    classes = sizes.pop()
    return "" if sizes or classes < 2 else capitalized(chance(classes))


def figures(runs: Sequence[Record], name: str) -> list[float]:
    """Lists a figure of results.json for the runs that have it."""
    values = [run.results.flat().get(name) for run in runs if run.results is not None]
    return [float(value) for value in values if value is not None]


def in_words(values: Sequence[float], style: str) -> str:
    """Formats mean and standard deviation (with n - 1) as '0.9833 ± 0.0039'.

    Equal values are shown as one value without spread; no values as '-'.
    """
    if not values:
        return "-"
    spread = (f" ± {np.std(values, ddof=1):{style}}" if len(set(values)) > 1 else "")
    return f"{np.mean(values):{style}}{spread}"


def shown_figures(groups: Sequence[Group]) -> list[str]:
    """Lists the figures that at least one run has."""
    return [name for name in FIGURES
            if any(figures(group.runs, name) for group in groups)]


def group_table(groups: Sequence[Group], names: Sequence[str]) -> Table:
    """Makes a row for each group: its name, its finished runs, mean and spread."""
    shown = shown_figures(groups)
    rows = []
    for group, name in zip(groups, names):
        ended = sum(run.results is not None for run in group.runs)
        rows.append((group.letter, name,
                     str(ended) if ended == len(group.runs)
                     else f"{ended} of {len(group.runs)}",
                     *(in_words(figures(group.runs, figure), FIGURES[figure][1])
                       for figure in shown)))
    return Table("Results of each group",
                 ("group", "what differs", "runs",
                  *(FIGURES[figure][0] for figure in shown)), rows, text_columns=2)


def run_table(groups: Sequence[Group]) -> Table:
    """Makes a row for each run. Folders with the same name are named by their path."""
    shown, names = shown_figures(groups), [run.name for group in groups
                                           for run in group.runs]
    return Table(
        "Every run",
        ("run", "group", "seed", "epochs", *(FIGURES[figure][0] for figure in shown)),
        [(run.name if names.count(run.name) == 1 else str(run.folder), group.letter,
          str(run.config.seed), f"{len(run.history)} of {run.config.epochs}",
          *(in_words(figures([run], figure), FIGURES[figure][1]) for figure in shown))
         for group in groups for run in group.runs], text_columns=2)


def difference_table(groups: Sequence[Group]) -> Table:
    """Makes a row for each field that differs, and a column for each group."""
    return Table(
        "Fields of the configs that differ; all others are equal",
        ("field", *(f"group {group.letter}" for group in groups)),
        [(name, *texts(values)) for name, values in differing(groups).items()],
        text_columns=1 + len(groups))


def class_table(groups: Sequence[Group]) -> Table | None:
    """Makes a row for each class with its F1 in each group.

    None unless every group has been measured on the same classes and the same split.
    """
    metrics = [[run.metrics for run in group.runs if run.metrics] for group in groups]
    facts = {(tuple(row.name for row in scores.classes), scores.split)
             for group in metrics for scores in group}
    if not all(metrics) or len(facts) > 1:
        return None
    (names, split), = facts
    f1 = [[[scores.classes[i].f1 for scores in group] for group in metrics]
          for i in range(len(names))]
    return Table(
        f"F1 of every class on the {split} split",
        ("class", *(f"group {group.letter}" for group in groups)),
        [(name, *(in_words([value for value in values if value is not None], ".3f")
                  for values in row)) for name, row in zip(names, f1)], text_columns=1)


def draw_curves(groups: Sequence[Group], names: Sequence[str]) -> list[Picture]:
    """Draws a picture for each metric: a colour for each group, a line for each run.
    """
    metrics = dict.fromkeys(name for group in groups for run in group.runs
                            for name in metrics_of(run.history))
    titles = {prefix + name: f"{split} {caption(name)}"
              for name in metrics for prefix, split, _ in SPLITS}
    titles["learning_rate"] = caption("learning_rate")
    return [draw_curve(column, title, groups, names)
            for column, title in titles.items()
            if any(column in row for group in groups for run in group.runs
                   for row in run.history[:1])]


def draw_curve(column: str, title: str, groups: Sequence[Group],
               names: Sequence[str]) -> Picture:
    """Draws one column of history.csv for all runs."""
    legend_columns = 1 if len(groups) <= FEW else 6
    labels = [fold(f"{group.letter}: {name}", 3.7, 8) if len(groups) <= FEW
              else group.letter for group, name in zip(groups, names)]
    lines = (sum(label.count("\n") + 1 for label in labels) if len(groups) <= FEW
             else -(-len(groups) // legend_columns))
    figure = new_figure(4.5, 3.1 + 0.18 * lines)
    axes = figure.subplots()
    ends = []
    for i, (group, label) in enumerate(zip(groups, labels)):
        runs = [run for run in group.runs if column in (run.history or [{}])[0]]
        for run in runs:
            axes.plot([row["epoch"] for row in run.history],
                      [row[column] for row in run.history],
                      color=COLOURS[i % len(COLOURS)],
                      linestyle=STYLES[i // len(COLOURS) % len(STYLES)],
                      linewidth=1.3, alpha=0.85,
                      marker="o" if len(run.history) == 1 else None, markersize=4,
                      label=label if run is runs[0] else None)
        last = [float(run.history[-1][column]) for run in runs]
        ends.append(f"{group.letter} ends at {in_words(last, '.3g')}")
    axes.set(xlabel="epoch", ylabel=title)
    set_epoch_ticks(axes, max(len(run.history) for group in groups
                              for run in group.runs))
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize=8, ncols=legend_columns)
    return Picture(f"compare_{column}", capitalized(title), "",
                   "; ".join(ends) + ".", figure, {})
