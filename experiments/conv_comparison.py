"""Every implementation of convolution and pooling: equal first, then timed.

    python experiments/conv_comparison.py --out=runs/conv_comparison
    python experiments/conv_comparison.py --only=ResNet --loops

The cases are the tutorial's (the seeds' chapter 17: loops against numba, numba against
im2col, pooling) and layers of LeNet, VGG, ResNet and MobileNet. Each implementation
must first equal lax in y, dx and dw; then all run in turn, A B C A B C, so that drift
of the machine falls on all. `--loops` adds the Python loops on the tutorial's case
(about half a minute). Writes comparison.json, .csv, .txt and .png. Any device.
"""

import argparse
import csv
import functools
import json
import os
import sys
import time
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.progress import Progress

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cnn_jax import ops  # noqa: E402


class Layer(NamedTuple):
    """A convolution: x [N, H, W, C], w [kh, kw, C / groups, O]."""

    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: int = 1
    padding: str = "SAME"
    groups: int = 1


LAYERS = {
    "tutorial, no padding": Layer((64, 28, 28, 3), (3, 3, 3, 4), padding="VALID"),
    "tutorial, padding 1": Layer((64, 28, 28, 3), (3, 3, 3, 4)),
    "LeNet conv1 5x5": Layer((128, 32, 32, 1), (5, 5, 1, 6), padding="VALID"),
    "VGG 3x3 64": Layer((32, 32, 32, 64), (3, 3, 64, 64)),
    "VGG 3x3 512 on 2x2": Layer((32, 2, 2, 512), (3, 3, 512, 512)),
    "ResNet 3x3 stride 2": Layer((32, 32, 32, 64), (3, 3, 64, 128), 2),
    "ResNet 1x1": Layer((8, 56, 56, 64), (1, 1, 64, 256)),
    "ResNet stem 7x7 stride 2": Layer((4, 224, 224, 3), (7, 7, 3, 64), 2),
    "MobileNet depthwise 3x3": Layer((32, 28, 28, 32), (3, 3, 1, 32), groups=32),
}
TUTORIAL = "tutorial, no padding"
PARTS = ("forward", "both")  # both: forward and backward
POOLING = "tutorial pooling 2x2"
SLOWEST = 3.  # s: an implementation whose single run takes longer is run once
PUBLISHED = (
    "published (another machine), ten forward runs: loops 38.06 s, numba 0.073 s; "
    "1,000 forward runs: numba 11.66 s, im2col 14.93 s; 100 forward and backward: "
    "numba 11.83 s, im2col 3.54 s; 5,000 poolings: numba 17.54 s, im2col 22.52 s")


def convolution(layer: Layer, name: str):
    return functools.partial(ops.correlate, strides=layer.stride, padding=layer.padding,
                             groups=layer.groups, implementation=name)


def multiply_adds(layer: Layer) -> int:
    y = jax.eval_shape(convolution(layer, "lax"), *arguments(layer))
    return y.size * int(np.prod(layer.w[:3]))


def arguments(layer: Layer):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=s), jnp.float32) for s in (layer.x, layer.w)]


def both_passes(f):
    """(g, x, ...) -> y and all gradients, for the cotangent g"""
    def run(g, *args):
        y, vjp = jax.vjp(f, *args)
        return y, *vjp(g)
    return run


def cotangent(f, args):
    y = jax.eval_shape(f, *args)
    return jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)


class Program(NamedTuple):
    forward: object
    both: object
    compile_s: float
    temporary_mb: float


def compile_program(f, args) -> Program:
    options = ops.compiler_options()
    begun = time.perf_counter()
    forward = jax.jit(f).lower(*args).compile(compiler_options=options)
    both = jax.jit(both_passes(f)).lower(cotangent(f, args), *args).compile(
        compiler_options=options)
    seconds = time.perf_counter() - begun
    memory = both.memory_analysis()
    temporary = memory.temp_size_in_bytes / 1e6 if memory else float("nan")
    return Program(forward, both, seconds, temporary)


def differences(found, expected) -> float:
    return max(float(jnp.abs(a - b).max() / jnp.abs(b).max())
               for a, b in zip(found, expected))


def compare(case: str, functions: dict, reference: str, args,
            rounds: int) -> list[dict]:
    """Rows of one case: equality with the reference, then interleaved times."""
    programs, rows, expected = {}, {}, None
    operands = {"forward": args, "both": (cotangent(functions[reference], args), *args)}
    for name in [reference, *(n for n in functions if n != reference)]:
        try:
            program = compile_program(functions[name], args)
        except ValueError as error:  # what an implementation does not support
            rows[name] = {"case": case, "implementation": name, "refused": str(error)}
            continue
        found = jax.block_until_ready(program.both(*operands["both"]))
        expected = found if expected is None else expected
        error = differences(found, expected)
        if not error <= 1e-4:
            raise SystemExit(f"{case}: {name} differs from {reference} by {error}")
        programs[name] = program
        rows[name] = {"case": case, "implementation": name, "error": error,
                      "compile_s": program.compile_s,
                      "temporary_mb": program.temporary_mb}
    times = {(name, part): [] for name in programs for part in PARTS}
    for _ in range(rounds):
        for (name, part), seconds in times.items():
            if seconds and sum(seconds) > SLOWEST:
                continue
            begun = time.perf_counter()
            jax.block_until_ready(getattr(programs[name], part)(*operands[part]))
            seconds.append(time.perf_counter() - begun)
    for (name, part), seconds in times.items():
        low, middle, high = np.percentile(seconds, [25, 50, 75]) * 1e3
        rows[name] |= {f"{part}_ms": middle, f"{part}_low_ms": low,
                       f"{part}_high_ms": high, f"{part}_runs": len(seconds)}
    return list(rows.values())


def matrix_gflops(size: int = 2048) -> float:
    """This machine's own float32 matrix product, the best of 10."""
    a = jnp.ones((size, size), jnp.float32)
    product = jax.jit(jnp.matmul).lower(a, a).compile()
    seconds = []
    for _ in range(10):
        begun = time.perf_counter()
        jax.block_until_ready(product(a, a))
        seconds.append(time.perf_counter() - begun)
    return 2 * size ** 3 / min(seconds) / 1e9


def tutorial_loops() -> str:
    """One forward run of the Python loops against numba, on the tutorial's case."""
    layer = LAYERS[TUTORIAL]
    args, seconds = arguments(layer), {}
    for name in ("numba", "loops"):
        f = jax.jit(convolution(layer, name))
        if name == "numba":
            jax.block_until_ready(f(*args))  # compiles
        begun = time.perf_counter()
        jax.block_until_ready(f(*args))
        seconds[name] = time.perf_counter() - begun
    return (f"loops {seconds['loops']:.2f} s, numba {seconds['numba']:.4f} s a forward "
            f"run: {seconds['loops'] / seconds['numba']:.0f} times as fast")


def implementations() -> list[str]:
    names = [name for name in ops.CONVS if name != "loops"]
    try:
        import numba  # noqa: F401
    except ImportError:
        names.remove("numba")
    return names


def table(rows: list[dict]) -> str:
    lines, case = [], None
    for row in rows:
        if row["case"] != case:
            case = row["case"]
            lines.append(f"\n{case}\n  {'':<9} forward ms (quartiles)      forward + "
                         "backward ms         % of matmul  compile s  temp MB   error")
        if "refused" in row:
            lines.append(f"  {row['implementation']:<9} {row['refused']}")
            continue
        times = "  ".join(
            f"{row[p + '_ms']:>9.2f} ({row[p + '_low_ms']:.2f} - "
            f"{row[p + '_high_ms']:.2f})".ljust(28) for p in PARTS)
        share = f"{row['share']:>6.1%}" if "share" in row else " " * 6
        lines.append(f"  {row['implementation']:<9} {times}  {share}      "
                     f"{row['compile_s']:>7.2f}  {row['temporary_mb']:>7.1f}   "
                     f"{row['error']:.0e}")
    return "\n".join(lines)


def picture(rows: list[dict], path: Path) -> None:
    import matplotlib
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [row for row in rows if "both_ms" in row]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    names = list(dict.fromkeys(row["implementation"] for row in rows))
    figure, axes = plt.subplots(figsize=(9, 1.1 * len(cases) + 1))
    for i, name in enumerate(names):
        own = {row["case"]: row["both_ms"] for row in rows
               if row["implementation"] == name}
        places = [cases.index(case) + (i - len(names) / 2) * .8 / len(names)
                  for case in own]
        axes.barh(places, own.values(), .8 / len(names), label=name)
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("forward + backward, ms (median; log scale)")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("runs/conv_comparison"))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--loops", action="store_true", help="also the Python loops")
    flags = parser.parse_args()

    rows, best = [], matrix_gflops()
    cases = [name for name in [*LAYERS, POOLING] if flags.only in name]
    with Progress(disable=not sys.stderr.isatty()) as progress:
        for case in progress.track(cases, description="cases"):
            if case == POOLING:
                x = jnp.asarray(np.random.default_rng(0).normal(size=(64, 28, 28, 3)),
                                jnp.float32)
                functions = {name: functools.partial(
                    ops.max_pool, window=2, implementation=name)
                    for name in ops.POOLS if name != "loops"}
                rows += compare(case, functions, "lax", (x,), flags.rounds)
                continue
            layer = LAYERS[case]
            found = compare(case, {name: convolution(layer, name)
                                   for name in implementations()},
                            "lax", arguments(layer), flags.rounds)
            for row in found:
                if "both_ms" in row:  # forward, dx and dw: three times the products
                    flops = 6 * multiply_adds(layer)
                    row["gflops"] = flops / row["both_ms"] / 1e6
                    row["share"] = row["gflops"] / best
            rows += found
    device = jax.devices()[0]
    text = (f"{device.platform} {device.device_kind}, {os.cpu_count()} cores, jax "
            f"{jax.__version__}, float32; matrix product {best:.0f} GFLOP/s\n"
            f"{table(rows)}\n\n{PUBLISHED}\n")
    if flags.loops:
        text += f"here: {tutorial_loops()}\n"
    flags.out.mkdir(parents=True, exist_ok=True)
    (flags.out / "comparison.txt").write_text(text)
    (flags.out / "comparison.json").write_text(json.dumps(
        {"device": device.device_kind, "matmul_gflops": best, "rows": rows}, indent=1))
    with open(flags.out / "comparison.csv", "w", newline="") as file:
        fields = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    picture(rows, flags.out / "comparison.png")
    print(text)


if __name__ == "__main__":
    main()
