"""Times inference, compared with ONNX Runtime and OpenVINO, in interleaved rounds.

    python experiments/inference.py --networks=mobilenet_v2,resnet50 --batches=1,16

The arms are `inference.compile` (ours), the same network without fusion, with oneDNN
(unfused) and without it (pure), and ONNX Runtime and OpenVINO on the exported ONNX
file. All compute in float32 on all cores. Each arm has its own process; they run in
turn. Writes inference.json and inference.txt: for each arm, its time / our time in the
same round (median and quartiles). Needs the extras `export` and `peers`.
"""

import argparse
import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]
from arms.bars import quartiles  # noqa: E402
from arms.in_turn import Program, time_in_turn  # noqa: E402
from arms.worker import KEPT, Worker, processor, start_arrays  # noqa: E402
from cnn_jax import networks  # noqa: E402
from cnn_jax.errors import InputError  # noqa: E402
from cnn_jax.installation import install_command  # noqa: E402
from cnn_jax.workdir.machine import core_count  # noqa: E402
from experiments.measuring import make_out, run_script  # noqa: E402

ARMS = {"ours": ("ours", {}), "unfused": ("unfused", {}),
        "pure": ("unfused", {"CNN_JAX_NATIVE": "0"}),
        "onnxruntime": ("onnxruntime", {}), "openvino": ("openvino", {})}
CLASSES = 1000


def measure(network: str, batch: int, arms: list[str], rounds: int,
            turn: float) -> dict:
    """Times the arms in turn; returns {"times": {arm: [s]}, "error": {arm: ...}}."""
    shape = networks.NETWORKS[network].input_shape
    with start_arrays(network=network, classes=CLASSES, image=shape,
                      batch=batch) as file:
        workers = {}
        try:
            for arm in arms:
                engine, settings = ARMS[arm]
                workers[arm] = Worker("in_engine", KEPT | settings, engine=engine,
                                      network=network, classes=CLASSES, file=file)
            logits = {arm: np.array(w.setup["logits"]) for arm, w in workers.items()}
            times = time_in_turn({arm: Program(worker, "infer")
                                  for arm, worker in workers.items()}, turn, rounds)
            versions = {arm: worker.setup["version"] for arm, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
    base = logits["ours"]
    return {"network": network, "batch": batch, "times": times, "versions": versions,
            "error": {arm: float(np.abs(value - base).max() / base.std())
                      for arm, value in logits.items()}}


def line_of(row: dict) -> str:
    ours = np.array(row["times"]["ours"])
    text = (f"{row['network']:<22}{row['batch']:>4}"
            f"{1e3 * float(np.median(ours)):>9.2f}")
    for arm, times in row["times"].items():
        if arm != "ours":
            low, middle, high = quartiles(np.array(times) / ours)
            text += f"{middle:>8.2f} ({low:.2f}-{high:.2f})"
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/inference"))
    parser.add_argument("--networks", default="mobilenet_v2,resnet50,densenet121")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--arms", default="unfused,pure,onnxruntime,openvino")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--turn", type=float, default=.2, help="seconds of an arm")
    flags = parser.parse_args(argv)
    if flags.rounds < 1:
        raise InputError(f"--rounds={flags.rounds} must be at least 1")
    arms, names = ["ours", *flags.arms.split(",")], flags.networks.split(",")
    for given, known in (arms, ARMS), (names, networks.NETWORKS):
        if unknown := [name for name in given if name not in known]:
            raise InputError(f"{', '.join(unknown)} must be of {', '.join(known)}")
    for engine in {"onnxruntime", "openvino"} & {*arms}:
        if find_spec(engine) is None:
            raise InputError(f"{engine} is not installed: "
                             f"{install_command('export,peers')}, or leave it out of "
                             "--arms")
    make_out(flags.out)
    lines, rows = [], []

    def show(text: str) -> None:
        print(text, flush=True)
        lines.append(text)
        (flags.out / "inference.txt").write_text("\n".join(lines) + "\n")

    show(f"{'network':<22}{'b':>4}{'ours ms':>9}" + "".join(
        f"{arm:>20}" for arm in arms[1:]))
    for network in names:
        for batch in map(int, flags.batches.split(",")):
            rows.append(measure(network, batch, arms, flags.rounds, flags.turn))
            show(line_of(rows[-1]))
            (flags.out / "inference.json").write_text(json.dumps(rows, indent=1))
    show(f"{processor()}, {core_count()} cores; " + ", ".join(
        dict.fromkeys(rows[-1]["versions"].values())))


if __name__ == "__main__":
    run_script(main)
