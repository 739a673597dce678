"""How long does it take from the start of a program to the end of its first step?

    python experiments/first_step.py [--networks NETWORK ...] [--arms ARM ...]
        [--rounds 3] [--out experiments/out/first_step]

Starts `python main.py` on LeNet-5 and, with images of 224 x 224 pixels, on ResNet-50
and DenseNet-121, and stops each at the end of its first training step. The first start
finds no compiled program; the second finds those of the first. "no cache" is a start
with CNN_JAX_CACHE=0. The other arms are plain Flax (the same network), torch.compile
and Keras on TensorFlow (extra `cnn_jax[peers]`); they load no data and write no files.
Each time is printed with the CPU seconds of all threads, which depend less on other
programs.

Writes first_step.json and first_step.txt. All arms run in turn; n is the number of
rounds.
"""

import argparse
import importlib.util
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "experiments")]

from cnn_jax.errors import InputError  # noqa: E402
from experiments.measuring import (first_step, make_out, new_cache,  # noqa: E402
                                   ran_on, run_script)


class Case(NamedTuple):
    batch: int
    side: int
    channels: int
    arguments: tuple[str, ...]  # of main.py


def large(network: str) -> Case:
    """Makes a case of a network on the digits, enlarged to 224 x 224 pixels."""
    return Case(8, 224, 1, (
        "--config=configs/default.py", f"--config.model.name={network}",
        "--config.data.image_size=(224,224)", "--config.batch_size=8"))


CASES = {"lenet5": Case(32, 28, 1, ("--config=configs/lenet.py",)),
         "resnet50": large("resnet50"), "densenet121": large("densenet121")}
FIRST, SECOND, UNCACHED = "main.py, first", "main.py, second", "main.py, no cache"
# arm: (function in arms/first.py, the package that it needs)
PEERS = {"plain Flax": ("flax", "flax"), "Keras": ("keras", "keras"),
         "torch.compile": ("torch_compile", "torchvision")}


def start(arm: str, network: str, cache: Path) -> dict[str, float]:
    """Starts one process and returns the seconds that it took."""
    case = CASES[network]
    with tempfile.TemporaryDirectory() as workdir:
        if arm in PEERS:
            given = [PEERS[arm][0], network, *map(str, case[:3])]
        else:
            given = ["main_py", *case.arguments, f"--workdir={workdir}/run"]
        return first_step(given, "0" if arm == UNCACHED else str(cache))


def measure(network: str, arms: list[str]) -> dict[str, dict[str, float]]:
    """Starts each arm once; both starts of main.py share a folder, empty at first."""
    with tempfile.TemporaryDirectory() as folder:
        new_cache(Path(folder))
        return {arm: start(arm, network, Path(folder)) for arm in arms}


def table(results: dict[str, list[dict[str, dict[str, float]]]]) -> str:
    lines = [f"{'':20}" + "".join(f"{name:>20}" for name in results)]
    for arm in next(iter(results.values()))[0]:
        cells = []
        for rounds in results.values():
            wall, cpu = (statistics.median(row[arm][key] for row in rounds)
                         for key in ("seconds", "cpu_seconds"))
            cells.append(f"{wall:.1f} s ({cpu:.1f} CPU)".rjust(20))
        lines.append(f"{arm:20}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(CASES),
                        help=f"of {', '.join(CASES)}")
    parser.add_argument("--rounds", type=int, default=3, help="starts of each arm")
    parser.add_argument("--arms", nargs="*", help="default: all that are installed",
                        choices=[FIRST, SECOND, UNCACHED, *PEERS])
    parser.add_argument("--out", type=Path,
                        default=ROOT / "experiments" / "out" / "first_step")
    args = parser.parse_args()
    if unknown := set(args.networks) - set(CASES):
        raise InputError(f"{', '.join(sorted(unknown))}: choose of {', '.join(CASES)}")
    if args.rounds < 1:
        raise InputError(f"--rounds={args.rounds} must be at least 1")
    arms = args.arms or [FIRST, SECOND, UNCACHED, *(
        arm for arm, (_, needed) in PEERS.items() if importlib.util.find_spec(needed))]
    make_out(args.out)
    results: dict[str, list[dict[str, dict[str, float]]]] = {
        name: [] for name in args.networks}
    for _ in range(args.rounds):
        for name, rounds in results.items():
            rounds.append(measure(name, arms))
            print(json.dumps({name: rounds[-1]}), flush=True)
    text = table(results)
    print(text)
    (args.out / "first_step.txt").write_text(text + "\n")
    (args.out / "first_step.json").write_text(json.dumps(
        ran_on() | {"rounds": args.rounds, "results": results}, indent=1))


if __name__ == "__main__":
    run_script(main)
