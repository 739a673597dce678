"""Makes rows from finished runs, and writes them to RESULTS.json and RESULTS.md."""

import csv
import json
import shlex
import statistics
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
from ml_collections import ConfigDict

from cnn_jax.errors import InputError
from cnn_jax.config import result_fields, flat
from cnn_jax.files import file_errors, read_json, write_atomically
from cnn_jax.workdir.results import read_results
from cnn_jax.workdir.folder import DAMAGED, read_data_info
from configs import default
from experiments.published import Experiment
from experiments.seed_statistics import (mean_interval, paired_differences,
                                         prediction_interval)

HEADINGS = ("experiment", "parameters", "published", "needed", "ours: mean ± std (n)",
            "95 % interval of the mean", "published in our spread", "epochs",
            "seconds per epoch", "peak memory", "hardware", "command")
# {experiment: its name in the README's table}, in the order of that table.
SHORT = {
    "monkeys_faithful": "10 monkey species, 1,098 photographs",
    "monkeys_transfer": "the same, a new last layer on an ImageNet MobileNetV2",
    "monkeys_finetuned": "the same, all layers of that MobileNetV2",
    "shapes_colour_cnn": "colours of drawn shapes, 3,815 parameters",
    "shapes_shape_cnn": "shapes, 19,941 parameters",
    "shapes_both_cnn": "shapes and colours, 20,217 parameters",
    "mnist_keras": "MNIST, Keras CNN",
    "mnist_cnn": "MNIST, CNN of 12,042 parameters",
    "fashion_selu": "Fashion-MNIST, SELU CNN",
    "fashion_separable": "Fashion-MNIST, separable CNN",
    "fashion_cnn": "Fashion-MNIST, CNN of 694,218 parameters",
    "cifar10_keras": "CIFAR-10, Keras CNN, 10 epochs",
    "cifar10_baseline": "CIFAR-10, baseline, 5 epochs",
    "cifar10_lenet5": "CIFAR-10, LeNet-5, 5 epochs",
    "cifar10_resnet18": "CIFAR-10, ResNet-18, 4 epochs",
    "segmentation_shapes": "segmentation of drawn shapes: mean IoU",
}
LEAST_ERROR = 1e-3  # in the picture, whose axis is logarithmic
INTRODUCTION = """# Accuracy of the experiments

Written by `python experiments/reproduce.py`; the figures are those of RESULTS.json.
"Ours" is the test accuracy of the best validation epoch: mean ± standard deviation over
n seeds. "Needed" is the published figure minus the band below. A published figure,
mostly of one run, is "in our spread" if it lies in the 95 % prediction interval of one
more run of ours, mean ± t s sqrt(1 + 1/n) with Student's t. Seconds per epoch cover
training only, without compilation and evaluation. They are the median over the runs of
the median epoch (in older rows, of the mean epoch). Other programs shared the machine,
so shorter times are possible. "5 seeds at once" (older rows): one program trained five
seeds, and the figure is the time of one epoch divided by 5. Peak memory is that of the
whole process, the largest of the runs. On CIFAR-10 our runs train on 45,000 images and
validate on 5,000; the published runs trained on 50,000 and chose their epoch by the
test images. Rows with protocol=published do as they did.

![Each run's error beside the published figure](RESULTS.png)

[measured/speed](../speed/README.md) compares the speed of training with plain Flax,
PyTorch and Keras, without and with oneDNN, in tables and pictures.
"""


PAIRED = """The mean difference of test accuracy over the seeds that both have, and its
95 % interval. A seed decides the initial values, the order and the held-out images."""
AS_PUBLISHED = "as published"


class Target(NamedTuple):
    """One experiment, with the changes that the flags of reproduce.py make."""

    name: str
    experiment: Experiment
    config: ConfigDict  # with seed 0
    folder: Path        # of its runs: FOLDER/seed0, FOLDER/seed1, ...
    changes: tuple[str, ...]  # flags of main.py besides --config
    command: tuple[str, ...]  # repeats the experiment
    data: str           # what the row says about the data
    images: int         # in the whole data set


def settings(fields: dict) -> dict:
    """Returns the fields that differ from configs/default.py, without the seed.

    A run that was made before a field was added is therefore the same experiment if the
    field has its default.
    """
    defaults = result_fields(default.get_config()) | {"seed": fields.get("seed")}
    return {name: value for name, value in fields.items()
            if name not in defaults or value != defaults[name]}


def is_finished(path: Path, config: ConfigDict) -> bool:
    """Tells whether the workdir holds the results of this config.

    Raises InputError if it belongs to another config.
    """
    if not (path / "config.json").exists():
        return False
    known = result_fields(default.get_config())
    written = flat(read_json(path / "config.json", dict, DAMAGED))
    there = {name: value for name, value in written.items() if name in known}
    old, new = settings(there), settings(result_fields(config))
    if old != new:
        changed = [f"{name}: {old.get(name, known.get(name))!r} -> "
                   f"{new.get(name, known.get(name))!r}"
                   for name in sorted(old.keys() | new.keys())
                   if old.get(name) != new.get(name)]
        raise InputError(f"{path} was made by another config (there -> here): "
                         f"{'; '.join(changed)}. Delete it, or use another --workdir")
    return (path / "results.json").exists()


def measured(target: Target) -> list[dict]:
    """Reads results.json of every finished seed, in the order of the seeds.

    Adds the number of images and the seconds of the median epoch; the mean would count
    the time for which a run was suspended.
    """
    folders = [path.parent for path in target.folder.glob("seed*/results.json")]
    runs = [read_results(folder).flat() | {
                 "images": images_used(folder, target.config),
                 "median_epoch_seconds": median_epoch(folder)}
             for folder in folders if is_finished(folder, target.config)]
    return sorted(runs, key=lambda results: results["seed"])


def images_used(folder: Path, config: ConfigDict) -> int:
    """Counts the images of a run; by data.protocol, a split may serve twice."""
    counts = read_data_info(folder).counts
    both = counts["test"] if config.data.protocol == "published" else 0
    return sum(counts.values()) - both


def on_what(target: Target, runs: list[dict]) -> str:
    """Describes the data of the runs: 'as published' if it is all of that set."""
    fewer = {results["images"] for results in runs} - {target.images}
    protocol = target.config.data.protocol
    return "; ".join(
        [f"protocol={protocol}"] * (protocol != "held_out")
        + [target.data] * (target.data != AS_PUBLISHED)
        + [f"on {images:,} of the {target.images:,} images" for images in sorted(fewer)]
    ) or AS_PUBLISHED


def median_epoch(workdir: Path) -> float:
    """Returns the seconds of the median epoch."""
    with (workdir / "history.csv").open(newline="") as file:
        return statistics.median(float(row["seconds"]) for row in csv.DictReader(file))


def hardware(results: dict) -> str:
    """Describes the hardware of a run and the algorithms of its convolutions.

    results["convolutions"]: {algorithm: number of layers}.
    """
    devices, versions = results["devices"], results["versions"]
    accelerator = "" if devices[0].startswith("cpu") else (
        f"{len(devices)} x {devices[0].partition(': ')[2]}, ")
    counts = results["convolutions"]
    algorithms = ", ".join(sorted(counts, key=lambda name: -counts[name]))
    return (f"{accelerator}{results['machine']}, jax {versions['jax']}"
            + (f", convolutions by {algorithms}" if algorithms else ""))


def row(target: Target, before: dict | None) -> dict:
    """Makes the row of an experiment from its finished runs.

    before: its row in an earlier RESULTS.json. It is kept if it has more runs of the
        same experiment on the same images.
    """
    experiment, runs = target.experiment, measured(target)
    fields, data = settings(result_fields(target.config)), on_what(target, runs)
    if before and (same_but_data(before["settings"], fields) if not runs else
                   (before["settings"], before["data"]) == (fields, data)
                   and before["n"] > len(runs)):
        return before | facts(target)
    accuracies = [results[f"test_{experiment.metric}"] for results in runs]
    out = facts(target) | {
        "data": data, "command": shlex.join(target.command + (
            ("--seeds", str(len(runs))) if len(runs) not in (0, experiment.seeds)
            else ())),
        "mean": statistics.mean(accuracies) if runs else None,
        "std": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "n": len(runs), "accuracies": accuracies,
        "seeds": [results["seed"] for results in runs],
        "best_epochs": [results["best_epoch"] for results in runs],
        "epochs": None, "seconds_per_epoch": None, "peak_memory_mb": None,
        "hardware": "", "settings": fields}
    if runs:
        assert {results["params"] for results in runs} == {experiment.params}, target
        out |= {
            "epochs": statistics.mean(results["epochs"] for results in runs),
            "seconds_per_epoch": round(statistics.median(
                results["median_epoch_seconds"] for results in runs), 3),
            "peak_memory_mb": max(results["peak_memory_mb"] for results in runs),
            "hardware": "; ".join(dict.fromkeys(map(hardware, runs)))}
    return out


def same_but_data(old: dict, new: dict) -> bool:
    """Tells whether two `settings` differ at most in data.name, which the row shows."""
    return old | {"data.name": ""} == new | {"data.name": ""}


def facts(target: Target) -> dict:
    """Returns the part of a row that published.py decides."""
    experiment = target.experiment
    return {"name": target.name, "config": f"configs/{experiment.config}",
            "metric": experiment.metric,
            "params": experiment.params,
            "published": experiment.published, "band": experiment.band,
            "reason": experiment.reason, "least": experiment.least,
            "note": experiment.note, "cut_to_epochs": experiment.epochs,
            "why_below": experiment.why_below}


def below(rows: list[dict]) -> list[str]:
    """Returns a line for each measured mean that is below what is needed."""
    return [f"{r['name']}: mean {r['mean']:.4f} of {r['n']} is below {needed(r):.4f} "
            + (f"(published {r['published']}, band {r['band']})"
               if r["published"] is not None else "(our own bound)")
            + f": {r['why_below']}" * bool(r["why_below"])
            for r in rows if r["n"] and needed(r) is not None
            and r["mean"] < needed(r) - 1e-9]


def needed(row: dict) -> float | None:
    """Returns what the mean must reach; None if nothing is required."""
    return row["least"] if row["published"] is None else row["published"] - row["band"]


def four_digits(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def cells(row: dict) -> tuple[str, ...]:
    """Formats a row of the Markdown table."""
    data = "" if row["data"] == AS_PUBLISHED else f" ({row['data']})"
    cut = " (cut)" if row["cut_to_epochs"] else ""
    ours, epochs, seconds, memory = "not run", "", "", ""
    if row["n"]:
        ours = f"{mean_and_spread(row)} ({row['n']})"
        if row["metric"] != "accuracy":
            ours += f", {row['metric'].replace('_', ' ')}"
        epochs = f"{row['epochs']:g}{cut}"
        seconds = row["seconds_per_epoch"]
        seconds = f"{seconds:,.0f}" if seconds >= 100 else f"{seconds:.3g}"
        if row.get("seeds_at_once"):  # of an older version, which vmapped the seeds
            seconds += f", {row['seeds_at_once']} seeds at once"
        memory = f"{row['peak_memory_mb']:,.0f} MB"
    return (row["name"] + data, f"{row['params']:,}", four_digits(row["published"]),
            four_digits(needed(row)), ours, interval(row), in_spread(row), epochs,
            seconds, memory, row["hardware"], f"`{row['command']}`")


def interval(row: dict) -> str:
    """Formats the 95 % interval of the mean."""
    span = mean_interval(row["accuracies"])
    return f"{span.low:.4f} to {span.high:.4f}" if span else ""


def in_spread(row: dict) -> str:
    """Says whether the published figure lies where one more run of ours would."""
    span = prediction_interval(row["accuracies"])
    if row["published"] is None or span is None:
        return ""
    if row["published"] > span.high:
        return "no, above"
    return "no, below" if row["published"] < span.low else "yes"


def compared(rows: list[dict]) -> list[str]:
    """Returns a line for each pair of recipes of one network, by paired seeds."""
    by_name, lines = {row["name"]: row for row in rows}, []
    for row in rows:
        stem, _, suffix = row["name"].rpartition("_")
        if suffix in ("ours", "published") and stem in by_name:
            gains = paired_differences(*(dict(zip(r["seeds"], r["accuracies"]))
                                         for r in (row, by_name[stem])))
            span = mean_interval(gains)
            if span:
                lines.append(f"{row['name']} - {stem}: {statistics.mean(gains):+.4f} "
                             f"({span.low:+.4f} to {span.high:+.4f}), "
                             f"n = {len(gains)}")
    return lines


def mean_and_spread(row: dict) -> str:
    return f"{row['mean']:.4f}" + (
        f" ± {row['std']:.4f}" if row["std"] is not None else "")


def result(row: dict) -> str:
    """Formats '0.9708 ± 0.0141 (5)', in bold if the published accuracy is reached."""
    if not row["n"]:
        return ""
    text = mean_and_spread(row)
    reached = row["published"] is not None and row["mean"] >= row["published"] - 1e-9
    return f"{f'**{text}**' if reached else text} ({row['n']})"


def short(rows: list[dict]) -> str:
    """Formats the table of the README's first screen, from what has been measured."""
    by_name = {row["name"]: row for row in rows}
    none = {"n": 0}
    lines = ["| test accuracy, mean ± standard deviation (n) | published | the same "
             "recipe | a better recipe |", "|---|---|---|---|"]
    for name, words in SHORT.items():
        same, better = by_name[name], by_name.get(f"{name}_ours", none)
        if same["n"] or better["n"]:
            lines.append(f"| {words} | {four_digits(same['published'])} | "
                         f"{result(same)} | {result(better)} |")
    return "\n".join(lines) + "\n"


def picture(rows: list[dict], path: Path) -> None:
    """Draws the error of each run as a dot, beside the published error."""
    rows = [row for row in rows if row["n"]]
    figure, axes = plt.subplots(figsize=(8, 0.21 * len(rows) + 1.2),
                                layout="constrained")
    published = [(1 - row["published"], y) for y, row in enumerate(rows)
                 if row["published"] is not None]
    for y, row in enumerate(rows):
        span = prediction_interval(row["accuracies"])
        if span:
            axes.plot([max(1 - value, LEAST_ERROR) for value in span], [y, y],
                      color="0.8", linewidth=4, zorder=1)
    dots = [(max(1 - value, LEAST_ERROR), y) for y, row in enumerate(rows)
            for value in row["accuracies"]]
    axes.plot(*zip(*dots), "o", color="C0", markersize=4, alpha=0.7, label="our runs")
    if published:
        axes.plot(*zip(*published), "|", color="C3", markersize=11,
                  markeredgewidth=2, label="published")
    axes.plot([], [], color="0.8", linewidth=4, label="where one more run would lie")
    axes.set(xscale="log", xlabel="test error", xlim=(0.9 * LEAST_ERROR, 1.02),
             ylim=(len(rows) - 0.5, -0.5), yticks=range(len(rows)),
             yticklabels=[row["name"] for row in rows])
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
    axes.tick_params(axis="y", labelsize=7, length=0)
    axes.grid(axis="x", color="0.92")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=3)
    with file_errors(path):
        figure.savefig(path, dpi=120)
    plt.close(figure)


def markdown(rows: list[dict]) -> str:
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    lines += ["| " + " | ".join(cells(r)) + " |" for r in rows]
    reasons = [f"- {r['name']}: {r['band']:g}, {r['reason']}."
               + f" {r['note']}." * bool(r["note"]) for r in rows]
    short = [f"- {line}" for line in below(rows)] or ["None."]
    pairs = [f"- {line}" for line in compared(rows)] or ["None."]
    return (f"{INTRODUCTION}\n" + "\n".join(lines)
            + "\n\n## Below what was needed\n\n" + "\n".join(short)
            + "\n\n## Two recipes for one network\n\n" + PAIRED
            + "\n\n" + "\n".join(pairs)
            + "\n\n## Bands, and why\n\n" + "\n".join(reasons) + "\n")


def earlier(out: Path) -> dict[str, dict]:
    """Reads the rows of RESULTS.json by name; {} if there is none."""
    path = out / "RESULTS.json"
    if not path.exists():
        return {}
    try:
        rows = {r["name"]: r for r in json.loads(path.read_text())}
        for r in rows.values():
            r["settings"], r["data"], r["n"]  # what `row` asks for
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is not a list of rows ({error}): delete it"
                         ) from error
    return rows


def write(targets: list[Target], out: Path) -> list[dict]:
    """Writes both files and returns the rows."""
    before = earlier(out)
    rows = [row(target, before.get(target.name)) for target in targets]
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "RESULTS.json", json.dumps(rows, indent=1) + "\n")
    write_atomically(out / "RESULTS.md", markdown(rows))
    if any(row["n"] for row in rows):
        picture(rows, out / "RESULTS.png")
    return rows
