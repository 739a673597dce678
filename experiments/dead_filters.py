"""Shows why `configs/shapes.py:colour_cnn` often ends far below the published run.

    python experiments/dead_filters.py                        four minutes on two cores
    python experiments/dead_filters.py --seeds=4 --inits keras

The first layer has two filters of one pixel, so all that the network knows about a
colour are two activations, relu(w . colour + b). If w . colour + b is negative for both
filters, the colour is hidden: its activations are (0, 0), and the filters get no
gradient from it. Of k hidden colours the network can name at most one, so its accuracy
is at most (7 - k) / 6, if the six colours are equally frequent.

Trains the seeds 0 ... N - 1 for each initialization, all in one program. Counts the
hidden colours before and after training, and the accuracy on the test split after the
last epoch. Writes dead_filters.txt, dead_filters.json and dead_filters.png.
"""

import argparse
import dataclasses
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import data, ops  # noqa: E402
from cnn_jax.data.batches import concatenate, train_order  # noqa: E402
from cnn_jax.data.examples import Examples  # noqa: E402
from cnn_jax.data.info import describe  # noqa: E402
from cnn_jax.data.shapes import COLOURS  # noqa: E402
from cnn_jax.files import file_errors, write_atomically  # noqa: E402
from cnn_jax.layers import INITIALIZERS  # noqa: E402
from cnn_jax.training.recipe import create_recipe  # noqa: E402
from cnn_jax.training.steps import create_state  # noqa: E402
from configs import shapes  # noqa: E402
from experiments.measuring import make_out, ran_on, run_script  # noqa: E402
from experiments.published import EXPERIMENTS  # noqa: E402
from experiments.seeds_vmapped import accuracy, train  # noqa: E402

INITS = ("ai_edu_msra", "keras", "he")  # the tutorial's; that of its run in Keras
PUBLISHED = EXPERIMENTS["shapes_colour_cnn"]
NEEDED = PUBLISHED.published - PUBLISHED.band


def activations(params: dict) -> jax.Array:
    """Returns the activations of the first layer for each colour, [6, 2]."""
    colours = jnp.array(list(COLOURS.values())) / 255
    kernel, bias = params["conv1"]["kernel"], params["conv1"]["bias"]
    return jax.nn.relu(colours @ kernel[0, 0] + bias[None])


def hidden(params: dict) -> jax.Array:
    """Counts the colours whose activations are all 0."""
    return (activations(params) == 0).all(-1).sum()


def measure(init: str, seeds: int, epochs: int | None = None) -> list[dict]:
    """Trains the seeds; returns a row for each."""
    config = shapes.get_config("colour_cnn")
    config.model.init = init
    dataset = data.load(config.data, seed=0)
    recipe = create_recipe(config, describe(dataset, config.data))
    examples, spans = concatenate(dataset)
    examples = jax.device_put(examples)
    orders = jnp.stack([jnp.concatenate([
        train_order(seed, epoch, spans["train"], config.batch_size)
        for epoch in range(epochs or config.epochs)]) for seed in range(seeds)])
    test = jnp.asarray(spans["test"])

    def run(seed: jax.Array, order: jax.Array,
            examples: Examples) -> dict[str, jax.Array]:
        begun = create_state(dataclasses.replace(recipe, seed=seed),
                             examples.images.shape[1:])
        ended = train(seed, order, examples, recipe)
        return {"seed": seed, "accuracy": accuracy(ended, test, examples, recipe),
                "hidden_before": hidden(begun.params),
                "hidden_after": hidden(ended.params)}

    columns = jax.jit(jax.vmap(run, (0, 0, None)),
                      compiler_options=ops.compiler_options())(
        jnp.arange(seeds), orders, examples)
    return [{"init": init} | {name: np.asarray(values)[i].item()
                              for name, values in columns.items()}
            for i in range(seeds)]


def table(rows: list[dict]) -> str:
    """Writes the accuracy by initialization, and by the number of hidden colours."""
    lines = [f"{'':34}{'n':>5}{'mean':>9}{'least':>9}{'most':>9}{'bound':>9}"
             f"   reach {NEEDED:.3f}"]

    def line(words: str, chosen: list[dict], bound: float) -> None:
        values = np.array([row["accuracy"] for row in chosen])
        lines.append(f"{words:34}{len(values):5}{values.mean():9.4f}{values.min():9.4f}"
                     f"{values.max():9.4f}{bound:9.4f}   {(values >= NEEDED).sum()}")

    for init in dict.fromkeys(row["init"] for row in rows):
        line(f"model.init {init}", [r for r in rows if r["init"] == init], 1.0)
    for when in ("before", "after"):
        for count in sorted({row[f"hidden_{when}"] for row in rows}):
            line(f"{count} of 6 colours hidden {when} training",
                 [r for r in rows if r[f"hidden_{when}"] == count],
                 bound_of(count) if when == "after" else 1.0)
    lines += ["", f"{'init':14}{'seed':>6}{'before':>8}{'after':>7}{'accuracy':>10}"]
    lines += [f"{row['init']:14}{row['seed']:6}{row['hidden_before']:8}"
              f"{row['hidden_after']:7}{row['accuracy']:10.4f}" for row in rows]
    return "\n".join(lines) + "\n"


def bound_of(hidden_colours: int) -> float:
    return min(1.0, (7 - hidden_colours) / 6)


def picture(rows: list[dict], path: Path) -> None:
    """Draws each seed's accuracy over the hidden colours, beside the bound."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    counts = range(7)
    axes.step(counts, list(map(bound_of, counts)), where="mid", color="0.6",
              label="at most (7 - k) / 6")
    inits = list(dict.fromkeys(row["init"] for row in rows))
    for i, (init, marker) in enumerate(zip(inits, "osv^Dx")):
        chosen = [row for row in rows if row["init"] == init]
        shift = 0.2 * (i - (len(inits) - 1) / 2)
        axes.plot([row["hidden_after"] + shift for row in chosen],
                  [row["accuracy"] for row in chosen], marker, alpha=0.7,
                  label=f"{init} ({len(chosen)} seeds)")
    axes.axhline(PUBLISHED.published, color="0.3", linestyle=":", linewidth=1)
    axes.annotate("published", (6.45, PUBLISHED.published), ha="right", va="bottom",
                  color="0.3")
    axes.set(xlabel="k: colours that both filters hide, after training",
             ylabel="test accuracy", xlim=(-0.5, 6.5), ylim=(0, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left")
    with file_errors(path):
        figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=24, metavar="N")
    parser.add_argument("--inits", nargs="+", choices=INITIALIZERS, default=INITS)
    parser.add_argument("--epochs", type=int, help="instead of the config's")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR")
    flags = parser.parse_args(argv)
    if flags.seeds < 1 or (flags.epochs or 1) < 1:
        parser.error("--seeds and --epochs must be 1 or more")
    make_out(flags.out)
    rows = [row for init in flags.inits
            for row in measure(init, flags.seeds, flags.epochs)]
    text = table(rows)
    print(text, end="")
    write_atomically(flags.out / "dead_filters.txt", text)
    write_atomically(flags.out / "dead_filters.json", json.dumps(
        ran_on() | {"rows": rows}, indent=1) + "\n")
    picture(rows, flags.out / "dead_filters.png")


if __name__ == "__main__":
    run_script(main)
