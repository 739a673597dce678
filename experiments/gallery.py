"""Draws what convolution does to a picture, and how a kernel is learned.

    python experiments/gallery.py
    python experiments/gallery.py --image=photo.jpg --out=runs/photo

filters.png: the nine named kernels applied to one image, with padding 1.
feature_maps.png: convolution (sobel x over three channels), ReLU and 2 x 2 max pooling.
learning.png: a kernel that is learned from its output by gradient descent.

Without --image the picture is a photo that comes with scikit-learn; nothing is
downloaded. The functions that do not draw return arrays, so notebooks use them too.
Source: the first examples of chapter 17 of microsoft/ai-edu.
"""

import argparse
import functools
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import ops  # noqa: E402
from cnn_jax.data.images import Preprocessing, read_image  # noqa: E402
from cnn_jax.errors import InputError, RunError  # noqa: E402
from cnn_jax.ops.filters import kernel  # noqa: E402
from experiments.measuring import make_out, run_script  # noqa: E402

LONGEST = 640  # pixels; pictures with a longer side are shrunk to it
SHORTEST = 4   # pixels; a 3 x 3 convolution gives 2 x 2 outputs, one pooling window
ENLARGED = 20  # side of the enlarged part, in outputs of the pool
TARGET = "horizontal edge"  # the kernel to learn
RATE, MOST_STEPS, ENOUGH = 0.5, 10_000, 1e-7  # the tutorial's


def load_picture(path: Path | None = None) -> np.ndarray:
    """Reads a file as uint8 [H, W, 3], at most LONGEST pixels; by default a photo.

    Raises InputError for a file that is not a picture or is smaller than SHORTEST.
    """
    if path is None:
        # Imported here: scikit-learn takes a second to import.
        from sklearn.datasets import load_sample_image
        return load_sample_image("china.jpg")
    picture = read_image(path, Preprocessing(channels=3))
    height, width = picture.shape[:2]
    if min(height, width) < SHORTEST:
        raise InputError(f"--image={path} is {width} x {height} pixels: it must have "
                         f"at least {SHORTEST} x {SHORTEST}")
    if max(height, width) <= LONGEST:
        return picture
    image = Image.fromarray(picture)
    image.thumbnail((LONGEST, LONGEST))
    return np.asarray(image)


def to_grey(picture: np.ndarray) -> np.ndarray:
    """Converts uint8 [H, W, 3] to float32 [H, W] in 0..1: 0.299 R + 0.587 G + 0.114 B.
    """
    return np.asarray(Image.fromarray(picture).convert("L"), np.float32) / 255


def circle(size: int = 64) -> np.ndarray:
    """Draws a grey disc with a white rim on black: float32 [size, size] in 0..1.

    Its edges are sharp on purpose. Where neighbouring pixels are nearly equal,
    different kernels give the same output, and gradient descent cannot tell them apart.
    """
    image = Image.new("L", (size, size), 0)
    ImageDraw.Draw(image).ellipse(
        (0.15 * size, 0.15 * size, 0.85 * size, 0.85 * size), fill=128, outline=255,
        width=max(1, size // 25))
    return np.asarray(image, np.float32) / 255


def filtered(grey: np.ndarray) -> dict[str, np.ndarray]:
    """Applies the nine kernels to an image [H, W], with padding 1: {name: [H, W]}."""
    kernels = jnp.concatenate([kernel(name) for name in ops.FILTERS], axis=-1)
    with exact():
        y = ops.correlate(jnp.asarray(grey)[None, :, :, None], kernels, padding=1)
    return dict(zip(ops.FILTERS, np.moveaxis(np.asarray(y[0]), -1, 0)))


def feature_maps(picture: np.ndarray) -> dict[str, np.ndarray]:
    """Computes the stages of a convolutional layer on uint8 [H, W, 3], scaled to 0..1.

    convolution: sobel x summed over the channels, no padding, [H - 2, W - 2];
    ReLU: its positive part; max pool: over 2 x 2 pixels, [(H - 2) / 2, (W - 2) / 2].
    """
    x = jnp.asarray(picture, jnp.float32)[None] / 255
    with exact():
        y = ops.correlate(x, kernel("sobel x", channels=3))
    stages = {"convolution": y, "ReLU": jax.nn.relu(y),
              "max pool": ops.max_pool(jax.nn.relu(y), 2)}
    return {name: np.asarray(stage[0, ..., 0]) for name, stage in stages.items()}


class Learned(NamedTuple):
    """A kernel that was learned from its output, and the losses on the way."""

    first: np.ndarray    # [3, 3], before the first step
    kernel: np.ndarray   # [3, 3]
    true: np.ndarray     # [3, 3]
    output: np.ndarray   # [H - 2, W - 2], of `kernel`
    target: np.ndarray   # [H - 2, W - 2], of `true`
    losses: np.ndarray   # before each step, and after the last

    @property
    def converged(self) -> bool:
        return bool(self.losses[-1] < ENOUGH)


def learn_kernel(grey: np.ndarray, true: np.ndarray | None = None, seed: int = 0,
                 rate: float = RATE, most_steps: int = MOST_STEPS) -> Learned:
    """Learns a kernel w by gradient descent, until its output is that of `true`.

        delta = x * w - y                   m output pixels
        loss = sum of delta^2 / (2 m)       stops below 1e-7
        w <- w - rate (x * delta) / m       from w ~ N(0, 0.1^2)

    where * is `ops.correlate` and x * delta is its backward pass for the kernel. It
    converges only if rate < 2 / c. Here c is the largest eigenvalue of the mean of
    p p^T over the 3 x 3 patches p, about 9 times the mean square of x. So a brighter
    image needs a smaller rate. Source: microsoft/ai-edu, Level3_BackwardTrial.
    """
    x = jnp.asarray(grey)[None, :, :, None]
    true = kernel(TARGET) if true is None else jnp.asarray(true)[:, :, None, None]
    first = 0.1 * jax.random.normal(jax.random.key(seed), true.shape)
    with exact():
        target = ops.correlate(x, true)
        learned, losses, steps = descend(x, target, first, rate, most_steps)
        output = ops.correlate(x, learned)
    first, learned, true = (np.asarray(w[..., 0, 0]) for w in (first, learned, true))
    return Learned(first, learned, true, np.asarray(output[0, ..., 0]),
                   np.asarray(target[0, ..., 0]), np.asarray(losses)[:int(steps) + 1])


@functools.partial(jax.jit, static_argnames="most_steps")
def descend(x, target, w, rate, most_steps: int):
    """Descends in one compiled loop; returns (w, losses [most_steps + 1], steps)."""

    def loss_and_gradient(w):
        y, backward = jax.vjp(lambda w: ops.correlate(x, w), w)
        delta = y - target
        gradient, = backward(delta / delta.size)
        return jnp.sum(delta ** 2) / (2 * delta.size), gradient

    def unfinished(carry):
        _, _, losses, step = carry
        return (step < most_steps) & (losses[step] >= ENOUGH)  # also ends at NaN

    def step_down(carry):
        w, gradient, losses, step = carry
        w = w - rate * gradient
        loss, gradient = loss_and_gradient(w)
        return w, gradient, losses.at[step + 1].set(loss), step + 1

    loss, gradient = loss_and_gradient(w)
    losses = jnp.zeros(most_steps + 1).at[0].set(loss)
    w, _, losses, steps = jax.lax.while_loop(
        unfinished, step_down, (w, gradient, losses, 0))
    return w, losses, steps


def exact():
    """Makes matrix products use full float32 precision.

    A TPU rounds operands to 8 bits of mantissa; the loss would stay above ENOUGH.
    """
    return jax.default_matmul_precision("highest")


def draw_filters(picture: np.ndarray):
    """Draws the outputs of the nine kernels, with the weights above each."""
    from matplotlib.figure import Figure  # imported here: it takes a second

    grey = to_grey(picture)
    figure = Figure(figsize=panels(grey.shape, 3, 3, 3.4), layout="constrained")
    for axes, (name, y) in zip(figure.subplots(3, 3).flat, filtered(grey).items()):
        low, high = shown_range(y, float(np.sum(ops.FILTERS[name])))
        axes.imshow(y, cmap="gray", vmin=low, vmax=high)
        axes.set_title(f"{name} ({low:.2g} to {high:.2g})", fontsize=10)
        axes.text(0.02, 0.97, numbers(ops.FILTERS[name]), transform=axes.transAxes,
                  va="top", family="monospace", fontsize=7,
                  bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85,
                        "pad": 2})
        axes.set_axis_off()
    return figure


def draw_feature_maps(picture: np.ndarray):
    """Draws a picture and the stages of a layer; below, their middles enlarged."""
    from matplotlib.figure import Figure

    stages = feature_maps(picture)
    reach = float(np.percentile(np.abs(stages["convolution"]), 99.5)) or 1.0
    figure = Figure(figsize=panels(picture.shape, 2, 1 + len(stages), 3.4),
                    layout="constrained")
    whole, part = figure.subplots(2, 1 + len(stages))
    rows, columns = stages["max pool"].shape
    middle = min(ENLARGED, rows, columns)
    top, left = (rows - middle) // 2, (columns - middle) // 2
    for column, (name, y) in enumerate(
            [(f"image, {picture.shape[2]} channels", picture), *stages.items()]):
        pixels = 1 if name == "max pool" else 2  # for each output of the pool
        rim = 1 if column == 0 else 0  # of the image, which the convolution cuts off
        i, j, side = pixels * top + rim, pixels * left + rim, pixels * middle
        for axes, shown in ((whole[column], y),
                            (part[column], y[i:i + side, j:j + side])):
            image = axes.imshow(shown, cmap="RdBu_r", vmin=-reach, vmax=reach)
            axes.set(xticks=[], yticks=[])
        whole[column].indicate_inset((j - 0.5, i - 0.5, side, side), alpha=1,
                                     edgecolor="black")
        whole[column].set_title(f"{name}\n{y.shape[1]} x {y.shape[0]} pixels",
                                fontsize=10)
        part[column].set_xlabel(f"{side} x {side} of them", fontsize=9)
    figure.colorbar(image, ax=[*whole, *part], shrink=0.6, panchor=False,
                    label="output")
    return figure


def draw_learning(learned: Learned, grey: np.ndarray):
    """Draws image and outputs, the kernel before and after learning, and the loss."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 5.6), layout="constrained")
    grid = figure.subplot_mosaic([["image", "target", "output", "loss"],
                                  ["first", "kernel", "true", "loss"]],
                                 width_ratios=(1, 1, 1, 1.7))
    grid["image"].imshow(grey, cmap="gray", vmin=0, vmax=1)
    reach = float(np.abs(learned.target).max()) or 1.0
    for name in ("target", "output"):
        grid[name].imshow(getattr(learned, name), cmap="RdBu_r",
                          vmin=-reach, vmax=reach)
    reach = float(np.abs(learned.true).max()) or 1.0
    for name in ("first", "kernel", "true"):
        w = getattr(learned, name)
        grid[name].imshow(w, cmap="RdBu_r", vmin=-reach, vmax=reach)
        for (row, column), value in np.ndenumerate(w):
            grid[name].text(column, row, f"{value:.3f}", ha="center", va="center",
                            color="white" if abs(value) > 0.6 * reach else "black")
    titles = {"image": "image x", "target": "output y of the true kernel",
              "output": "output of the learned kernel", "first": "first kernel",
              "kernel": f"learned kernel, {len(learned.losses) - 1:,} steps",
              "true": "true kernel"}
    for name, title in titles.items():
        grid[name].set_title(title, fontsize=10)
        grid[name].set(xticks=[], yticks=[])
    grid["loss"].plot(learned.losses)
    grid["loss"].axhline(ENOUGH, color="black", linewidth=0.8, linestyle="--")
    grid["loss"].set(yscale="log", xlabel="steps", title="loss")
    grid["loss"].grid(alpha=0.3)
    return figure


def panels(shape, rows: int, columns: int, inches: float) -> tuple[float, float]:
    """Returns a figure size for panels with the image's aspect ratio (1:2 to 2:1)."""
    ratio = min(2.0, max(0.5, shape[0] / shape[1]))
    return columns * inches, rows * (inches * ratio + 0.35)


def shown_range(y: np.ndarray, total: float) -> tuple[float, float]:
    """Returns the values to draw as black and white.

    They are the outputs for a black and a white image; total is the sum of the weights.
    If it is 0 (edge kernels), the range is symmetric: mid-grey means no edge.
    """
    if abs(total) > 0.5:
        return min(0.0, total), max(0.0, total)
    reach = float(np.percentile(np.abs(y), 99.5)) or 1.0
    return -reach, reach


def numbers(rows: np.ndarray) -> str:
    """Formats the weights of a kernel, a line for each row."""
    return "\n".join(" ".join(f"{f'{value:g}'.removeprefix('0'):>3}" if value else "  0"
                              for value in row) for row in rows)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", type=Path, help="a picture; default a photo")
    parser.add_argument("--out", type=Path, default=Path("runs/gallery"))
    parser.add_argument("--seed", type=int, default=0, help="of the first kernel")
    flags = parser.parse_args(argv)
    picture, grey = load_picture(flags.image), circle()
    make_out(flags.out)
    learned = learn_kernel(grey, seed=flags.seed)
    for name, figure in (("filters", draw_filters(picture)),
                         ("feature_maps", draw_feature_maps(picture)),
                         ("learning", draw_learning(learned, grey))):
        figure.savefig(flags.out / f"{name}.png", dpi=120)
        print(flags.out / f"{name}.png")
    if not learned.converged:
        raise RunError(f"the kernel is not learned: loss {learned.losses[-1]:.1e} "
                       f"after {len(learned.losses) - 1:,} steps")
    print(f"kernel learned in {len(learned.losses) - 1:,} steps, largest error "
          f"{np.abs(learned.kernel - learned.true).max():.4f}, of its output "
          f"{np.abs(learned.output - learned.target).max():.4f}")


if __name__ == "__main__":
    run_script(main)
