"""Several runs side by side: what differs, their curves, and results with spread.

Runs that differ in nothing but the seed are one group; the spread of a group is over
its seeds. The page is one file, like report.html.
"""

import math
import string
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.config import FIELDS
from cnn_jax.errors import InputError, RunError
from cnn_jax.files import write_atomically
from cnn_jax.inspection.draw.drawing import fit
from cnn_jax.inspection.draw.learning_curves import CURVES
from cnn_jax.inspection.draw.picture import Picture
from cnn_jax.inspection.explain.classification_metrics import class_scores
from cnn_jax.inspection.pages.record import Record, fields, read_record
from cnn_jax.inspection.pages.rendering import drawn, render
from cnn_jax.inspection.pages.report import share, text

SEED = "seed"
# The fields that name a group: these before others, and at most so many.
FIRST = ("model.name", "data.name", "optimizer.name", "optimizer.learning_rate")
NAMED = 4
FEW = 5  # groups that a legend has the room to name
# Colours that colour-blind readers can tell apart (Okabe and Ito, 2008), made darker
# where they would be pale on white. After them the line style changes.
COLOURS = ("#0072b2", "#d55e00", "#007a5a", "#a8487e", "#8a6d00", "#3a8fc0", "#000000")
STYLES = ("-", "--", "-.", ":")
CONTENTS = (("results", "Results"), ("differences", "Differences"),
            ("curves", "Learning curves"), ("classes", "Classes"), ("runs", "Runs"))


class Figure(NamedTuple):
    """A figure of results.json and its format."""

    words: str
    style: str


FIGURES = {
    "test_accuracy": Figure("test accuracy", ".4f"),
    "test_mean_iou": Figure("test mean IoU", ".4f"),
    "test_macro_f1": Figure("test macro F1", ".4f"),
    "test_loss": Figure("test loss", ".4f"),
    "validation_accuracy": Figure("validation accuracy", ".4f"),
    "validation_mean_iou": Figure("validation mean IoU", ".4f"),
    "validation_macro_f1": Figure("validation macro F1", ".4f"),
    "best_epoch": Figure("best epoch", ".3g"),
    "params": Figure("parameters", ",.0f"),
    "train_seconds": Figure("training, s", ".1f"),
    "images_per_second": Figure("images/s", ",.0f"),
}


class Group(NamedTuple):
    """Runs whose configs differ in nothing but the seed."""

    letter: str
    runs: tuple[Record, ...]
    config: dict[str, Any]  # without the seed


def write_comparison(folders: Sequence[Path], path: Path) -> None:
    """Writes the page.

    Raises InputError for fewer than two folders, for a folder that is given twice or is
    not a run, and for a file that cannot be written.
    """
    if len(folders) < 2:
        raise InputError(f"--mode=compare needs the folders of at least two runs, not "
                         f"{len(folders)}: python main.py --mode=compare A B ...")
    places = [folder.resolve() for folder in folders]
    for i, folder in enumerate(folders):
        if places[i] in places[:i]:
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


def grouped(runs: Sequence[Record]) -> list[Group]:
    """Groups runs in the order of their first ones: A, B, ..., Z, AA, AB, ..."""
    found: dict[str, tuple[dict, list[Record]]] = {}
    for run in runs:
        config = computed(run)
        config.pop(SEED)
        found.setdefault(repr(sorted(config.items())), (config, []))[1].append(run)
    return [Group(letters(i), tuple(members), config)
            for i, (config, members) in enumerate(found.values())]


def computed(run: Record) -> dict[str, Any]:
    """Returns the fields of a config that change the result."""
    return {name: value for name, value in fields(run.config).items()
            if name not in FIELDS or FIELDS[name].changes_result}


def letters(index: int) -> str:
    """Maps 0 to A, 25 to Z, 26 to AA."""
    high, low = divmod(index, 26)
    return (letters(high - 1) if high else "") + string.ascii_uppercase[low]


def differing(groups: Sequence[Group]) -> dict[str, list[Any]]:
    """Returns {field: its value in each group} of the fields that differ; None where a
    group lacks the field or does not set it."""
    names = sorted(set().union(*(group.config for group in groups)))
    found = {name: [group.config.get(name) for group in groups] for name in names}
    return {name: values for name, values in found.items()
            if any(value != values[0] for value in values)}


def figures_of(run: Record) -> dict[str, float]:
    """Returns the figures of a run that has ended; {} of another."""
    return {name: float(run.results[name]) for name in FIGURES
            if run.results and run.results.get(name) is not None}


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Computes (mean, standard deviation with n - 1); NaN for too few values."""
    return (float(np.mean(values)) if len(values) else math.nan,
            float(np.std(values, ddof=1)) if len(values) > 1 else math.nan)


def in_words(values: Sequence[float], style: str) -> str:
    """Formats '0.9833 ± 0.0039', a single value alone, '-' for none."""
    mean, deviation = spread(values)
    if math.isnan(mean):
        return "-"
    same = math.isnan(deviation) or len(set(values)) == 1
    return format(mean, style) + ("" if same else f" ± {format(deviation, style)}")


def page_of(runs: Sequence[Record]) -> dict[str, Any]:
    """Returns what the template shows."""
    groups = grouped(runs)
    unlike = differing(groups)
    figures = {run.folder: figures_of(run) for run in runs}
    shown = [name for name in FIGURES
             if any(name in found for found in figures.values())]
    heading = f"{len(runs)} runs in {len(groups)} group{'s' * (len(groups) > 1)}"
    classes = class_table(groups)
    names = [run.name for run in runs]
    titles = {run.folder: run.name if names.count(run.name) == 1 else str(run.folder)
              for run in runs}
    return {
        "title": heading, "heading": heading,
        "contents": [row for row in CONTENTS if row[0] != "classes" or classes],
        "warnings": warnings(runs),
        "groups": {
            "columns": [("group", False), ("what differs", False), ("runs", True),
                        *((FIGURES[name].words, True) for name in shown)],
            "rows": [(group.letter, named(group, groups, unlike), ended(group),
                      *(in_words([figures[run.folder][name] for run in group.runs
                                  if name in figures[run.folder]], FIGURES[name].style)
                        for name in shown)) for group in groups]},
        "differences": {
            "columns": [("field", False),
                        *((f"group {group.letter}", False) for group in groups)],
            "rows": [(name, *("-" if value is None else text(value)
                              for value in values))
                     for name, values in unlike.items()]},
        "curves": [drawn(picture) for picture in overlaid(groups, unlike)],
        "classes": classes,
        "runs": {
            "columns": [("run", False), ("group", False), ("seed", True),
                        ("epochs", True),
                        *((FIGURES[name].words, True) for name in shown)],
            "rows": [(titles[run.folder], group.letter, str(run.config.seed),
                      f"{len(run.history)} of {run.config.epochs}",
                      *(in_words([figures[run.folder][name]], FIGURES[name].style)
                        if name in figures[run.folder] else "-" for name in shown))
                     for group in groups for run in group.runs]}}


def named(group: Group, groups: Sequence[Group], unlike: dict) -> str:
    """Names a group by the values of the differing fields, such as 'adam, 0.002'.

    The fields of `FIRST` come first, and it says how many more differ. A single group
    is named by its network and data.
    """
    place = groups.index(group)
    order = sorted(unlike, key=lambda name: (
        FIRST.index(name) if name in FIRST else len(FIRST)))
    values = [text(unlike[name][place]) for name in order
              if unlike[name][place] is not None]
    if not values:
        return f"{group.config['model.name']} on {group.config['data.name']}"
    more = f" and {len(values) - NAMED} more" if len(values) > NAMED else ""
    return ", ".join(values[:NAMED]) + more


def ended(group: Group) -> str:
    """Returns '5', or '3 of 5' where the others have no results yet."""
    count = sum(run.results is not None for run in group.runs)
    return str(count) if count == len(group.runs) else f"{count} of {len(group.runs)}"


def warnings(runs: Sequence[Record]) -> list[str]:
    """Says what makes a comparison unfair."""
    said = []
    unfinished = [run.name for run in runs if run.results is None]
    if unfinished:
        said.append("Runs without results, which are in no mean: "
                    f"{', '.join(unfinished)}.")
    if len({run.info.sha256 for run in runs}) > 1 and not only_split_differs(runs):
        said.append("The runs were made with different data, so their accuracies were "
                    "measured on different images.")
    for what, words in (("machine", "on different machines"),
                        ("devices", "on different devices"),
                        ("versions", "with different versions of the packages")):
        if len({repr(run.results.get(what)) for run in runs if run.results}) > 1:
            said.append(f"The runs were made {words}: their times do not compare."
                        if what != "versions" else f"The runs were made {words}.")
    return said


def only_split_differs(runs: Sequence[Record]) -> bool:
    """Tells whether the data may differ only in the split, which the seed decides."""
    alike = {(run.info.name, run.info.image_shape, run.info.class_names,
              tuple(run.info.counts.items())) for run in runs}
    return len(alike) == 1 and len({run.config.seed for run in runs}) > 1


def class_table(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Returns F1 of every class in every group.

    None unless all groups have been measured on the same classes and the same split.
    """
    measured = [run.metrics for group in groups for run in group.runs if run.metrics]
    if any(not any(run.metrics for run in group.runs) for group in groups) or len(
            {(metrics.class_names, metrics.split) for metrics in measured}) != 1:
        return None
    scores = [[class_scores(run.metrics.counts)["f1"] for run in group.runs
               if run.metrics] for group in groups]
    return {
        "caption": f"F1 of every class on the {measured[0].split} split",
        "columns": [("class", False),
                    *((f"group {group.letter}", True) for group in groups)],
        "rows": [(name, *(f1_in_words([float(f1[i]) for f1 in group])
                          for group in scores))
                 for i, name in enumerate(measured[0].class_names)]}


def f1_in_words(values: Sequence[float]) -> str:
    """Formats the mean and spread of the values that are not 0 / 0."""
    known = [value for value in values if not math.isnan(value)]
    return in_words(known, ".3f") if known else share(math.nan)


def overlaid(groups: Sequence[Group], unlike: dict) -> list[Picture]:
    """Draws a picture for each quantity: a colour for each group, a line for each run.
    """
    # Imported here: matplotlib takes a second, and few modes draw.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    pictures = []
    for name, words in CURVES.items():
        for prefix, split in (("", "training "), ("val_", "validation ")):
            column = prefix + name
            if not any(column in row for group in groups for run in group.runs
                       for row in run.history[:1]):
                continue
            rows = len(groups) if len(groups) <= FEW else -(-len(groups) // 6)
            figure = Figure(figsize=(4.5, 3.1 + 0.18 * rows), layout="constrained")
            axes = figure.subplots()
            said: list[str] = []
            arrays: dict[str, np.ndarray] = {}
            for place, group in enumerate(groups):
                colour = COLOURS[place % len(COLOURS)]
                style = STYLES[place // len(COLOURS) % len(STYLES)]
                label = (group.letter if len(groups) > FEW else
                         fit(f"{group.letter}: {named(group, groups, unlike)}", 50))
                lasts: list[float] = []
                for run in group.runs:
                    values = np.array([(row["epoch"], row[column])
                                       for row in run.history if column in row])
                    if len(values):
                        axes.plot(values[:, 0], values[:, 1], color=colour,
                                  linestyle=style, linewidth=1.3, alpha=0.85,
                                  marker="." if len(values) == 1 else None,
                                  label=None if lasts else label)
                        arrays[str(run.folder)] = values
                        lasts.append(values[-1, 1])
                said.append(f"{group.letter} ends at {in_words(lasts, '.3g')}")
            title = words if name == "learning_rate" else split + words
            axes.set(xlabel="epoch", ylabel=title)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            figure.legend(loc="outside lower center", fontsize=8,
                          ncols=1 if len(groups) <= FEW else 6)
            pictures.append(Picture(
                f"compare_{column}", title[0].upper() + title[1:], "",
                "; ".join(said) + ".", figure, arrays))
    return pictures
