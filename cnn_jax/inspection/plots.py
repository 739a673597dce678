"""Pictures of a run, drawn by matplotlib without a display."""

from pathlib import Path


def learning_curves(history: list[dict], path: Path) -> None:
    """Loss and accuracy of training and validation over the epochs, as a PNG file."""
    # Imported here: matplotlib takes a second, and only the end of a run draws.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    epochs = [row["epoch"] for row in history]
    for axes, name in zip(figure.subplots(1, 2), ("loss", "accuracy")):
        for prefix, label, style in (("", "training", "o-"),
                                     ("val_", "validation", "s--")):
            if prefix + name in history[0]:
                axes.plot(epochs, [row[prefix + name] for row in history], style,
                          label=label, markersize=3)
        axes.set(xlabel="epoch", ylabel=name)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=120)
