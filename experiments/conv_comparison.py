"""Compares all implementations of convolution and pooling: results, time, memory.

    python experiments/conv_comparison.py
    python experiments/conv_comparison.py --peers=torch,keras --tutorial
    python experiments/conv_comparison.py --only=ResNet --rounds=5

The cases are the tutorial's (chapter 17 of microsoft/ai-edu: loops against numba, numba
against im2col, pooling) and layers of LeNet, VGG, ResNet and MobileNet. The results y,
dx and dw of each implementation must first equal those of lax. Then all implementations
run in turn, A B C A B C, so that drift of the machine affects all. `--peers` adds
PyTorch and Keras on TensorFlow (the extra `cnn_jax[peers]`), each in its own process
that sleeps while another computes. `--tutorial` also repeats the tutorial's own
measurement with its numbers of runs, including the Python loops (a few minutes). Memory
is XLA's figure for arguments, results and temporary arrays of both passes. Writes
comparison.json, .csv, .txt and .png. The JAX part works on any device; it has been run
on a CPU.
"""

import argparse
import contextlib
import csv
import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cnn_jax.huge_pages import use_huge_pages  # noqa: E402

if __name__ == "__main__":
    use_huge_pages()  # before JAX starts

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from arms.bars import draw_bars, quartiles  # noqa: E402
from arms.peak import matrix_gflops  # noqa: E402
from arms.worker import HUGE_PAGES, Worker, check_flags, processor  # noqa: E402
import cnn_jax.native.register  # noqa: E402, F401
from cnn_jax import ops  # noqa: E402
from cnn_jax.native import library  # noqa: E402
from cnn_jax.ops.geometry import resolve_padding  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import Progress  # noqa: E402


class Layer(NamedTuple):
    """A convolution: x [N, H, W, C], w [kh, kw, C / groups, O]; without w a max pool.
    """

    x: tuple[int, ...]
    w: tuple[int, ...] | None
    stride: int = 1
    padding: str = "SAME"
    groups: int = 1


CASES = {
    "tutorial, no padding": Layer((64, 28, 28, 3), (3, 3, 3, 4), padding="VALID"),
    "tutorial, padding 1": Layer((64, 28, 28, 3), (3, 3, 3, 4)),
    "tutorial, max pool 2x2": Layer((64, 28, 28, 3), None, 2, "VALID"),
    "LeNet conv1 5x5": Layer((128, 32, 32, 1), (5, 5, 1, 6), padding="VALID"),
    "VGG 3x3 64": Layer((32, 32, 32, 64), (3, 3, 64, 64)),
    "VGG 3x3 128": Layer((32, 16, 16, 128), (3, 3, 128, 128)),
    "VGG 3x3 256": Layer((32, 8, 8, 256), (3, 3, 256, 256)),
    "VGG 3x3 512": Layer((32, 4, 4, 512), (3, 3, 512, 512)),
    "VGG 3x3 512 on 2x2": Layer((32, 2, 2, 512), (3, 3, 512, 512)),
    "ResNet 3x3 stride 2": Layer((32, 32, 32, 64), (3, 3, 64, 128), 2),
    "ResNet 1x1": Layer((8, 56, 56, 64), (1, 1, 64, 256)),
    "ResNet stem 7x7 stride 2": Layer((4, 224, 224, 3), (7, 7, 3, 64), 2),
    "MobileNet depthwise 3x3": Layer((32, 28, 28, 32), (3, 3, 1, 32), groups=32),
}
PEERS = {"torch": "layer_in_torch", "keras": "layer_in_keras"}
PARTS = ("forward", "both")  # both: forward and backward
REFERENCE = "lax"
TOLERANCE = 1e-4  # max |a - b| / max |b|, float32
SLOWEST = 3.  # s: an implementation is not run again once it has taken that long


def operation(layer: Layer, name: str):
    """Returns (x, w) -> y of the named implementation; (x,) -> y for a pool."""
    if layer.w is None:
        return functools.partial(ops.max_pool, window=layer.stride,
                                 padding=layer.padding, implementation=name)
    return functools.partial(ops.correlate, strides=layer.stride, padding=layer.padding,
                             groups=layer.groups, implementation=name)


def implementations(layer: Layer) -> list[str]:
    """Lists all names, lax first."""
    names = ops.POOLS if layer.w is None else ops.ALGORITHMS
    return [REFERENCE, *(name for name in names if name != REFERENCE)]


def operands(layer: Layer):
    """Draws (g, x, w), or (g, x) for a pool, from a normal distribution."""
    rng = np.random.default_rng(0)
    args = [jnp.asarray(rng.normal(size=shape), jnp.float32)
            for shape in (layer.x, layer.w) if shape]
    y = jax.eval_shape(operation(layer, REFERENCE), *args)
    return jnp.asarray(rng.normal(size=y.shape), y.dtype), *args


def multiply_adds(layer: Layer) -> int:
    """Counts the multiply-adds of the forward pass; a pool has none."""
    if layer.w is None:
        return 0
    g, *_ = operands(layer)
    return g.size * int(np.prod(layer.w[:3]))


class Program:
    """One implementation in JAX, compiled for one case."""

    def __init__(self, layer: Layer, name: str):
        f, (g, *args) = operation(layer, name), operands(layer)

        def both(g, *args):
            y, vjp = jax.vjp(f, *args)
            return y, *vjp(g)

        options = ops.compiler_options()
        begun = time.perf_counter()
        self.calls = {
            "forward": (jax.jit(f).lower(*args).compile(compiler_options=options),
                        args),
            "both": (jax.jit(both).lower(g, *args).compile(compiler_options=options),
                     (g, *args))}
        self.facts = {"compile_s": time.perf_counter() - begun}
        if memory := self.calls["both"][0].memory_analysis():
            self.facts["memory_mb"] = (
                memory.argument_size_in_bytes + memory.output_size_in_bytes
                + memory.temp_size_in_bytes) / 1e6
        # An accelerator would round the operands of products to bfloat16 or so.
        with jax.default_matmul_precision("highest"):
            exact = self.calls["both"][0] if jax.default_backend() == "cpu" else both
            self.results = [np.asarray(a) for a in exact(g, *args)]
        self.run("forward")

    def run(self, part: str):
        compiled, args = self.calls[part]
        return jax.block_until_ready(compiled(*args))

    def seconds(self, part: str) -> float:
        begun = time.perf_counter()
        self.run(part)
        return time.perf_counter() - begun

    def close(self) -> None:
        """Does nothing; a `Peer` ends its process."""


class Peer:
    """The same operation in another library, in its own process."""

    def __init__(self, layer: Layer, name: str):
        padding = layer.padding
        if name == "torch":
            window = layer.w[:2] if layer.w else (layer.stride,) * 2
            padding = resolve_padding(padding, layer.x[1:3], window,
                                      (layer.stride,) * 2)
        with tempfile.TemporaryDirectory() as folder:
            file = str(Path(folder) / "arrays.npz")
            np.savez(file, **dict(zip("gxw", map(np.asarray, operands(layer)))))
            self.worker = Worker(PEERS[name], HUGE_PAGES, file=file, padding=padding,
                                 stride=layer.stride, groups=layer.groups)
            with np.load(file) as archive:
                self.results = [archive[key] for key in ("y", "dx", "dw")
                                if key in archive]
        self.facts = self.worker.setup

    def seconds(self, part: str) -> float:
        return self.worker.run(part)["seconds"]

    def close(self) -> None:
        self.worker.close()


def difference(actual, expected) -> float:
    """Returns the largest max |a - b| / max |b| over y, dx and dw."""
    return max(float(np.abs(a - b).max() / np.abs(b).max())
               for a, b in zip(actual, expected, strict=True))


def check_equal(case: str, name: str, error: float) -> None:
    if not error <= TOLERANCE:
        raise SystemExit(f"{case}: {name} differs from {REFERENCE} by {error}")


def compare(case: str, peers: list[str], rounds: int, best: float) -> list[dict]:
    """Compares one case with lax, then times it in turn; returns its rows."""
    layer, runners, rows = CASES[case], {}, []
    with contextlib.ExitStack() as stack:
        for kind, names in ((Program, implementations(layer)), (Peer, peers)):
            for name in names:
                row = {"case": case, "implementation": name}
                rows.append(row)
                if name == "loops":
                    row["refused"] = "timed by --tutorial only"
                    continue
                if name == "onednn" and not library.load_onednn():
                    row["refused"] = library.describe()
                    continue
                try:
                    runner = kind(layer, name)
                except ValueError as error:  # the implementation does not support it
                    row["refused"] = str(error)
                    continue
                stack.callback(runner.close)
                runners[name] = runner
                row |= runner.facts
                row["error"] = difference(runner.results, runners[REFERENCE].results)
                check_equal(case, name, row["error"])
        times = {(name, part): [] for name in runners for part in PARTS}
        for _ in range(rounds):
            for (name, part), seconds in times.items():
                if sum(seconds) <= SLOWEST:
                    seconds.append(runners[name].seconds(part))
    flops = {"forward": 2 * multiply_adds(layer), "both": 6 * multiply_adds(layer)}
    for row in rows:
        for part in PARTS if "refused" not in row else ():
            seconds = times[row["implementation"], part]
            low, middle, high = quartiles(seconds)
            row |= {f"{part}_ms": 1e3 * middle, f"{part}_low_ms": 1e3 * low,
                    f"{part}_high_ms": 1e3 * high, f"{part}_runs": len(seconds)}
            if layer.w:
                row[f"{part}_gflops"] = flops[part] / middle / 1e9
                row[f"{part}_share"] = row[f"{part}_gflops"] / best
    return rows


# The tutorial's measurements: case, part, runs, implementations, and its seconds.
TUTORIAL = (
    ("tutorial, no padding", "forward", 10, {"loops": 38.06, "numba": 0.073}),
    ("tutorial, padding 1", "forward", 1000, {"numba": 11.66, "im2col": 14.93}),
    ("tutorial, padding 1", "both", 100, {"numba": 11.83, "im2col": 3.54}),
    ("tutorial, max pool 2x2", "both", 5000, {"numba": 17.54, "im2col": 22.52}),
)
OWN_POOLS = {"numba": "lax", "im2col": "windows"}  # pooling has no such names


def repeat_tutorial(advance) -> list[dict]:
    """Repeats the tutorial's measurement: all runs of a name, then of the next."""
    rows = []
    for case, part, runs, published in TUTORIAL:
        layer = CASES[case]
        expected = Program(layer, REFERENCE).results
        names = published if layer.w else {OWN_POOLS[name]: None for name in published}
        for name in dict.fromkeys([*names, "auto"]):
            advance(f"{runs} x {case}, {name}")
            program = Program(layer, name)
            check_equal(case, name, difference(program.results, expected))
            begun = time.perf_counter()
            for _ in range(runs):
                program.run(part)
            rows.append({"case": case, "part": part, "runs": runs,
                         "implementation": name,
                         "seconds": time.perf_counter() - begun,
                         "published_s": names.get(name)})
    return rows


def tutorial_table(rows: list[dict]) -> str:
    lines = ["\nthe tutorial's measurement, seconds for all runs (published: another "
             "machine)"]
    for row in rows:
        published = row["published_s"]
        lines.append(
            f"  {row['case']:<23} {TITLES[row['part']]:<19} {row['runs']:>5} runs  "
            f"{row['implementation']:<8} {row['seconds']:>9.3f} s"
            + (f"   published {published:g} s" if published else ""))
    lines.append("  (published pooling: numba 17.54 s, im2col 22.52 s)")
    return "\n".join(lines)


MEMORY = """MB: arguments, results and temporary arrays, as XLA counts them. For the
peers: what the process takes for the operands and the first use; the column compile has
the time of this first use."""
TITLES = {"forward": "forward", "both": "forward + backward"}


def table(rows: list[dict]) -> str:
    lines, case = [], None
    for row in rows:
        if row["case"] != case:
            case = row["case"]
            lines.append(f"\n{case}\n  {'':<9} forward ms (quartiles)         of peak  "
                         "forward + backward ms          of peak  compile s      MB"
                         "    error")
        line = f"  {row['implementation']:<9} "
        if "refused" in row:
            lines.append(line + row["refused"])
            continue
        for part in PARTS:
            low, high = row[f"{part}_low_ms"], row[f"{part}_high_ms"]
            share = row.get(f"{part}_share")
            line += f"{row[part + '_ms']:>9.3f} ({low:.3f} - {high:.3f})".ljust(31)
            line += f"{share:>7.1%}  " if share else " " * 9
        for field, form in (("compile_s", "{:>9.2f}"), ("memory_mb", "{:>8.1f}")):
            line += form.format(row[field]) if field in row else " " * len(
                form.format(0))
        lines.append(f"{line}    {row['error']:.0e}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/conv_comparison"))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peers", default="", metavar="torch,keras")
    parser.add_argument("--tutorial", action="store_true",
                        help="also the tutorial's own measurement")
    flags = parser.parse_args(argv)
    check_flags(parser, flags, PEERS)
    cases = [name for name in CASES if flags.only in name]
    if not cases:
        parser.error(f"--only={flags.only} is in no name of {', '.join(CASES)}")
    rows, repeated, best = [], [], matrix_gflops()
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(cases) + flags.tutorial)
        for case in cases:
            progress.update(task, description=case)
            rows += compare(case, flags.peers, flags.rounds, best)
            progress.advance(task)
        if flags.tutorial:
            repeated = repeat_tutorial(
                lambda text: progress.update(task, description=text))
            progress.advance(task)
    device = jax.devices()[0]
    versions = [f"jax {jax.__version__}", *dict.fromkeys(
        row["version"] for row in rows if "version" in row)]
    text = (f"{device.platform} {device.device_kind}, {processor()}, {os.cpu_count()} "
            f"cores; {', '.join(versions)}; float32.\nShares are of {best:.0f} GFLOP/s,"
            f" a 2048 x 2048 matrix product.\n{MEMORY}\n{table(rows)}\n")
    if repeated:
        text += tutorial_table(repeated) + "\n"
    (flags.out / "comparison.txt").write_text(text)
    (flags.out / "comparison.json").write_text(json.dumps(
        {"device": device.device_kind, "matmul_gflops": best, "rows": rows,
         "tutorial": repeated}, indent=1))
    with open(flags.out / "comparison.csv", "w", newline="") as file:
        fields = list(dict.fromkeys(key for row in rows for key in row))
        writer = csv.DictWriter(file, fields)
        writer.writeheader()
        writer.writerows(rows)
    bars = {}
    for row in rows:
        if "both_ms" in row:
            bars.setdefault(row["case"], {})[row["implementation"]] = (
                row["both_low_ms"], row["both_ms"], row["both_high_ms"])
    draw_bars({"forward + backward": bars}, "ms (median, quartiles; log scale)",
              flags.out / "comparison.png", log=True)
    print(text)


if __name__ == "__main__":
    main()
