"""Compares the method that `auto` chooses with every other one, on a grid of shapes.

    python experiments/auto_grid.py                      200 shapes
    python experiments/auto_grid.py --shapes=40 "--only=native im2col,onednn"

The shapes are convolutions of all registered networks at the published image sizes, at
batches from 1 to 128, drawn with a fixed seed. For each of the three passes, all
methods that support it run in turn, A B C A B C. Their operands rotate, so that they
come from memory and not from the cache, as in a training step. Memory is kept in huge
pages, as main.py keeps it. Writes auto_grid.json, auto_grid.txt and auto_grid.png.
"""

import argparse
import functools
import itertools
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from cnn_jax.huge_pages import use_huge_pages  # noqa: E402

if __name__ == "__main__":
    use_huge_pages()  # as main.py does; before JAX starts

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from rich.progress import track  # noqa: E402

from arms.worker import processor  # noqa: E402
from cnn_jax import networks  # noqa: E402
from cnn_jax.layers import Layers  # noqa: E402
from cnn_jax.native import convolution, cost, library, lowering  # noqa: E402
from cnn_jax.ops.conv import auto, lax as conv_lax, registry  # noqa: E402
from cnn_jax.ops.conv.spec import ConvSpec  # noqa: E402

PASSES = ("forward", "input gradient", "weight gradient")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
ROTATING = 48e6   # bytes of operands that calls go through in turn
MOST_GFLOPS = 6.


def convolutions(seed: int = 0) -> Iterator[ConvSpec]:
    """Yields convolutions of the registered networks in random order, at any batch."""
    seen: dict[ConvSpec, None] = {}

    def record(spec: ConvSpec, dtype: Any) -> Any:
        seen[spec._replace(precision=None)] = None
        return conv_lax.select(spec, dtype)

    registry.ALGORITHMS["recorded"] = record
    for name, row in networks.NETWORKS.items():
        net = networks.create(name, 10, Layers(conv="recorded"))
        image = jax.ShapeDtypeStruct((1, *row.input_shape), jnp.float32)
        jax.eval_shape(functools.partial(net.init, train=False), jax.random.key(0),
                       image)
    draw = random.Random(seed)
    specs = list(seen)
    draw.shuffle(specs)
    for spec in itertools.cycle(specs):
        batch = draw.choice(BATCHES)
        flops = 2 * batch * math.prod(spec.y_shape[1:]) * math.prod(spec.w_shape[:-1])
        if flops <= MOST_GFLOPS * 1e9:
            yield spec._replace(x_shape=(batch, *spec.x_shape[1:]))


def methods(kind: int, spec: ConvSpec) -> dict[str, Callable[..., jax.Array]]:
    """Returns the methods of a pass: XLA's, that of `auto` in JAX, the library's."""
    made = {"lax": lambda a, b: conv_lax.passes[kind](a, b, spec)}
    pure = auto.choose(auto.RULES[kind], spec)
    if pure is not conv_lax.plain[kind]:
        made["pure JAX"] = lambda a, b: pure(a, b, spec)
    if convolution.supports(spec, jnp.float32):
        native = [cost.ONEDNN] * library.wants_onednn()
        if spec.groups == 1:
            native.append(cost.IM2COL)
        if cost.supports(spec, jnp.dtype("float32")):
            native += [cost.WINOGRAD_2, cost.WINOGRAD_4]
        for method in native:
            made[cost.NAMES[method]] = lambda a, b, method=method: lowering.call(
                a, b, kind, spec, method)
    return made


def chosen(kind: int, spec: ConvSpec) -> str:
    """Returns the method that `auto` chooses."""
    if convolution.supports(spec, jnp.float32):
        method = cost.method_of(kind, spec, jnp.dtype("float32"))
        if method != cost.OPS:
            return cost.NAMES[method]
    return "pure JAX" if "pure JAX" in methods(kind, spec) else "lax"


def measure(kind: int, spec: ConvSpec, only: set[str], seconds: float
            ) -> dict[str, list[float]]:
    """Times the methods in turn; returns seconds per call of each round."""
    shapes = {"x": spec.x_shape, "w": spec.w_shape, "y": spec.y_shape}
    a_shape, b_shape, _ = (shapes[role] for role in lowering.ROLES[kind])
    floats = math.prod(a_shape) + math.prod(b_shape)
    draw = np.random.default_rng(0)
    compared = {name: method for name, method in methods(kind, spec).items()
                if not only or name in only}
    count = min(24, math.ceil(ROTATING / (4 * floats)))
    while math.gcd(count, len(compared)) > 1:  # so that each method gets all operands
        count += 1
    operands = [tuple(jnp.asarray(draw.standard_normal(shape, np.float32))
                      for shape in (a_shape, b_shape)) for _ in range(count)]
    programs = {}
    for name, method in compared.items():
        programs[name] = jax.jit(method).lower(*operands[0]).compile()
        jax.block_until_ready(programs[name](*operands[0]))
    times: dict[str, list[float]] = {name: [] for name in programs}
    turn = itertools.cycle(operands)
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds * len(programs) or any(
            len(samples) < 3 for samples in times.values()):
        for name, program in programs.items():
            given = next(turn)
            start = time.perf_counter()
            jax.block_until_ready(program(*given))
            times[name].append(time.perf_counter() - start)
    return times


def slowdowns(rows: list[dict]) -> np.ndarray:
    """Computes, for each row, the median time of the chosen method / of the fastest."""
    medians = [{name: statistics.median(times)
                for name, times in row["seconds"].items()} for row in rows]
    return np.array([row_medians[row["chosen"]] / min(row_medians.values())
                     for row, row_medians in zip(rows, medians)])


def table(rows: list[dict]) -> str:
    """Writes a line for each pass, and one for each row that is over 5 % slower."""
    slower, lines = slowdowns(rows), [f"{processor()}; {library.describe()}"]
    for kind, name in enumerate(PASSES):
        of_pass = slower[[row["pass"] == kind for row in rows]]
        lines.append(
            f"{name:16} {len(of_pass)} shapes: chosen / fastest "
            f"{np.median(of_pass):.2f}, 90 % below {np.quantile(of_pass, .9):.2f}, "
            f"largest {of_pass.max():.2f}; {np.mean(of_pass > 1.05):.0%} are over "
            "5 % slower")
    for i in np.argsort(-slower):
        if slower[i] > 1.05:
            row = rows[i]
            spec = ConvSpec(**row["spec"])
            fastest = min(row["seconds"], key=lambda name: statistics.median(
                row["seconds"][name]))
            lines.append(
                f"{slower[i]:5.2f}  {PASSES[row['pass']]:16} {row['chosen']} and not "
                f"{fastest}: x {list(spec.x_shape)}, w {list(spec.w_shape)}, strides "
                f"{list(spec.strides)}, groups {spec.groups}")
    return "\n".join(lines)


def draw(rows: list[dict], path: Path) -> None:
    """Draws chosen / fastest of all shapes, sorted, a curve for each pass."""
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for kind, name in enumerate(PASSES):
        of_pass = np.sort(slowdowns([row for row in rows if row["pass"] == kind]))
        axes.plot(np.linspace(0, 100, len(of_pass)), of_pass, label=name)
    axes.axhline(1.05, color="gray", linewidth=.8)
    axes.set(xlabel="shapes, %", ylabel="time of auto / of the fastest")
    axes.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/auto_grid"))
    parser.add_argument("--shapes", type=int, default=200)
    parser.add_argument("--only", default="", metavar="METHOD,METHOD",
                        help="compares only these, and the chosen one")
    parser.add_argument("--seconds", type=float, default=.06, help="of each method")
    flags = parser.parse_args(argv)
    flags.out.mkdir(parents=True, exist_ok=True)
    only = set(filter(None, flags.only.split(",")))
    rows: list[dict] = []
    for spec in track(list(itertools.islice(convolutions(), flags.shapes))):
        for kind in range(3):
            name = chosen(kind, spec)
            rows.append({"pass": kind, "spec": spec._asdict(), "chosen": name,
                         "seconds": measure(kind, spec, only and only | {name},
                                            flags.seconds)})
        (flags.out / "auto_grid.json").write_text(json.dumps(rows))
    (flags.out / "auto_grid.txt").write_text(table(rows) + "\n")
    draw(rows, flags.out / "auto_grid.png")
    print(table(rows))


if __name__ == "__main__":
    main()
