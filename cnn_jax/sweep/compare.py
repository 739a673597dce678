"""Compares the trials of a sweep: a table, sweep.csv, and parallel coordinates."""

import csv
from collections.abc import Sequence

import numpy as np

from cnn_jax.files import file_errors
from cnn_jax.inspection.draw.drawing import new_figure
from cnn_jax.inspection.draw.picture import Picture, save
from cnn_jax.sweep.trials import Sweep, Trial, command_of, shell


def report(sweep: Sweep, trials: Sequence[Trial]) -> None:
    """Prints and saves the comparison, and prints the command of the best trial.

    The table is also written as sweep.csv, the picture as sweep.png.
    """
    ranked = sorted(trials, key=lambda trial: trial.rank(sweep.monitor))
    rows = table(sweep, ranked)
    widths = [max(map(len, column)) for column in zip(*rows)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths))
        print("  ".join(cells).rstrip())
    with file_errors(sweep.folder / "sweep.csv"), (
            sweep.folder / "sweep.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    scored = [trial for trial in ranked if trial.best is not None]
    if not scored:
        return
    save(parallel_coordinates(sweep, scored), sweep.folder / "sweep.png")
    print(f"{sweep.folder / 'sweep.csv'}, {sweep.folder / 'sweep.png'}")
    print(f"best: {shell(command_of(sweep, scored[0].values))}")


def table(sweep: Sweep, trials: Sequence[Trial]) -> list[list[str]]:
    """Makes a header and a row for each trial."""
    fields = list(trials[0].values) if trials else []
    rows = [[*fields, sweep.monitor, "epoch", "state", "workdir"]]
    for trial in trials:
        best = trial.best
        state = "failed" if trial.problem else "pruned" if trial.pruned else "finished"
        rows.append([*(trial.values[field] for field in fields),
                     f"{best[sweep.monitor]:.4f}" if best else "",
                     f"{best['epoch']:.0f}" if best else "", state, trial.workdir.name])
    return rows


def positions(values: Sequence[str]) -> tuple[np.ndarray, list[tuple[float, str]]]:
    """Maps values to positions from 0 to 1 on an axis.

    Numbers are placed by value, or by logarithm if they span a factor of 10 or more;
    names are spaced evenly.
    Returns the positions and the labels [(position, text), ...] of the axis.
    """
    distinct = sorted(set(values))
    try:
        numbers = np.array([float(value) for value in values])
    except ValueError:
        steps = {value: i / max(1, len(distinct) - 1)
                 for i, value in enumerate(distinct)}
        return (np.array([steps[value] for value in values]),
                [(position, value) for value, position in steps.items()])
    if numbers.min() > 0 and numbers.max() / numbers.min() >= 10:
        scaled = np.log(numbers)
    else:
        scaled = numbers
    low, high = scaled.min(), scaled.max()
    scaled = (scaled - low) / (high - low) if high > low else np.full(len(scaled), 0.5)
    labels = {float(scaled[i]): f"{numbers[i]:.3g}"
              for i in (numbers.argmin(), numbers.argmax())}
    return scaled, list(labels.items())


def parallel_coordinates(sweep: Sweep, trials: Sequence[Trial]) -> Picture:
    """Draws a line through the values of each trial, coloured by its rank.

    trials: with a best epoch, the best trial first.
    """
    from matplotlib import colormaps

    fields = list(trials[0].values)
    scores = [repr(trial.best[sweep.monitor]) for trial in trials if trial.best]
    columns = [positions([trial.values[field] for trial in trials])
               for field in fields] + [positions(scores)]
    figure = new_figure(max(5.0, 1.8 * len(columns)), 3.6)
    axes = figure.subplots()
    lines = np.array([column for column, _ in columns])  # [axes, trials]
    for rank in reversed(range(len(trials))):
        score = 1 - rank / max(1, len(trials) - 1)
        axes.plot(lines[:, rank], color=colormaps["viridis_r"](0.1 + 0.8 * score),
                  linewidth=2.5 if rank == 0 else 1.0, alpha=0.9)
    for x, (_, labels) in enumerate(columns):
        axes.axvline(x, color="0.6", linewidth=0.8)
        for position, label in labels:
            axes.annotate(label, (x, position), (4, 0), textcoords="offset points",
                          fontsize=8, va="center")
    names = [*(field.rpartition(".")[2] for field in fields), sweep.monitor]
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(names) - 0.6)
    best = ", ".join(f"{field} {value}" for field, value in trials[0].values.items())
    return Picture(
        "sweep", f"{len(trials)} trials of {sweep.config}",
        "Each line is a trial. The thick line is the best trial; darker lines are "
        "better trials.", f"The best trial has {best}.", figure,
        {"positions": lines})
