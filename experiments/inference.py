"""Inference beside the engines that people deploy with, in one interleaved run.

    python experiments/inference.py --networks=mobilenet_v2,resnet50 --batches=1,16

Arms: `inference.compile` (ours), the same network unfused with oneDNN and without
(pure), ONNX Runtime and OpenVINO on the exported ONNX file, all in float32 on all
cores. Each arm has its own process; they run in turn. Writes inference.json and
inference.txt: for each arm, its time over ours (median and quartiles of the rounds).
"""

import argparse
import json
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from arms.bars import quartiles
from arms.worker import KEPT, Worker, command, processor
from measuring import make_out, run_script

from cnn_jax import networks

ARMS = {"ours": ("ours", {}), "unfused": ("unfused", {}),
        "pure": ("unfused", {"CNN_JAX_ONEDNN": "0"}),
        "onnxruntime": ("onnxruntime", {}), "openvino": ("openvino", {})}
CLASSES = 1000


def measure(network: str, batch: int, arms: list[str], rounds: int,
            turn: float) -> dict:
    """Times the arms in turn; returns {"times": {arm: [s]}, "error": {arm: ...}}."""
    shape = networks.NETWORKS[network].input_shape
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "arrays.npz")
        line, environment = command("start", network=network, classes=CLASSES,
                                    image=shape, batch=batch, file=file)
        subprocess.run(line, env=environment, check=True)
        workers = {}
        try:
            for arm in arms:
                engine, settings = ARMS[arm]
                workers[arm] = Worker("in_engine", KEPT | settings, engine=engine,
                                      network=network, classes=CLASSES, file=file)
            logits = {arm: np.array(w.setup["logits"]) for arm, w in workers.items()}
            once = {arm: min(w.run("infer")["seconds"] for _ in range(3))
                    for arm, w in workers.items()}
            times = {arm: [] for arm in arms}
            for _ in range(rounds):
                for arm, worker in workers.items():
                    count = max(1, int(turn / once[arm]))
                    times[arm].append(worker.run("infer", count)["seconds"])
            versions = {arm: worker.setup["version"] for arm, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
    base = logits["ours"]
    return {"network": network, "batch": batch, "times": times, "versions": versions,
            "error": {arm: float(np.abs(value - base).max() / base.std())
                      for arm, value in logits.items()}}


def line_of(found: dict) -> str:
    own = np.array(found["times"]["ours"])
    text = (f"{found['network']:<22}{found['batch']:>4}"
            f"{1e3 * float(np.median(own)):>9.2f}")
    for arm, times in found["times"].items():
        if arm != "ours":
            low, _, high = quartiles(np.array(times) / own)
            middle = float(np.median(times) / np.median(own))
            text += f"{middle:>8.2f} ({low:.2f}-{high:.2f})"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/inference"))
    parser.add_argument("--networks", default="mobilenet_v2,resnet50,densenet121")
    parser.add_argument("--batches", default="1,16")
    parser.add_argument("--arms", default="unfused,pure,onnxruntime,openvino")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--turn", type=float, default=.2, help="seconds of an arm")
    flags = parser.parse_args()
    make_out(flags.out)
    arms = ["ours", *flags.arms.split(",")]
    found = []
    print(f"{'network':<22}{'b':>4}{'ours ms':>9}" + "".join(
        f"{arm:>20}" for arm in arms[1:]), flush=True)
    for network in flags.networks.split(","):
        for batch in map(int, flags.batches.split(",")):
            found.append(measure(network, batch, arms, flags.rounds, flags.turn))
            print(line_of(found[-1]), flush=True)
            (flags.out / "inference.json").write_text(json.dumps(found, indent=1))
    print(processor(), ", ".join(dict.fromkeys(found[-1]["versions"].values())))


if __name__ == "__main__":
    run_script(main)
