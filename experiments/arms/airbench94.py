"""Trains K. Jordan's airbench94 in PyTorch on a CPU, unchanged but for the device.

    python experiments/arms/airbench94.py [--data=FOLDER] [--cifar10-jpeg=FOLDER]
        [--seeds=3] [--dtype=float32] [--epochs=9.9] [--out=runs/airbench94]

Needs the packages torch, torchvision and airbench (0.1.8), whose `train94` it calls.
That is written for one CUDA device and float16: here the device is the CPU, and float16
is replaced by float32 or bfloat16. The images are those of experiments/speedrun.py, so
that both train on the same pixels. The clock runs from the whitening to the averaged
prediction of the test images, without the evaluations between them.

Writes airbench94.json; a seed that it already has is not repeated.
"""

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from cnn_jax.files import write_atomically  # noqa: E402
from cnn_jax.workdir.machine import machine  # noqa: E402
from experiments.measuring import make_out, run_script  # noqa: E402

TEST_VIEWS = 2  # airbench's level: mirrored and shifted


def save_images(folder: Path, data: str | None, jpeg: str | None) -> None:
    """Writes the sets as airbench's loader reads them."""
    import torch

    from cnn_jax import data as sets
    from configs import default
    config = default.get_config().data
    config.name, config.dir = ("folder", jpeg) if jpeg else ("cifar10", data)
    config.validation = 0.0
    dataset = sets.load(config, seed=0)
    (folder / "cifar10").mkdir(exist_ok=True)
    for name, part in (("train", dataset.train), ("test", dataset.test)):
        # The copy is sorted by class; airbench whitens the first 5,000 images.
        order = np.random.default_rng(0).permutation(len(part.labels))
        torch.save({"images": torch.from_numpy(part.images[order]),
                    "labels": torch.from_numpy(part.labels[order].astype(np.int64)),
                    "classes": dataset.class_names},
                   folder / "cifar10" / f"{name}.pt")


class Clock:
    """Stands for an event of CUDA."""

    def __init__(self, enable_timing: bool) -> None:
        self.time = 0.0

    def record(self) -> None:
        self.time = time.perf_counter()

    def elapsed_time(self, end: "Clock") -> float:
        return 1e3 * (end.time - self.time)


@contextlib.contextmanager
def on_cpu(dtype: str) -> Iterator[None]:
    """Makes torch run on the CPU what airbench runs on a GPU in float16."""
    import torch
    from airbench import utils
    chosen, loader = getattr(torch, dtype), utils.CifarLoader.__init__
    with contextlib.ExitStack() as stack:
        for owner, name, value in (
                (torch, "half", chosen),
                (torch.Tensor, "half", lambda self: self.to(chosen)),
                (torch.nn.Module, "half", lambda self: self.to(chosen)),
                (torch.nn.Module, "cuda", lambda self: self),
                (loader, "__defaults__", (*loader.__defaults__[:-1], "cpu")),
                (torch.cuda, "Event", Clock),
                (torch.cuda, "synchronize", lambda: None)):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield


def train(seed: int, dtype: str, epochs: float) -> dict[str, float]:
    """Trains one seed in the current folder; returns test accuracy and seconds."""
    import torch
    from airbench import lib_airbench94, utils
    torch.manual_seed(seed)
    with on_cpu(dtype):
        loader = utils.CifarLoader(
            "cifar10", train=True, aug=lib_airbench94.hyp["aug"], altflip=True,
            batch_size=lib_airbench94.hyp["opt"]["batch_size"])
        test = utils.CifarLoader("cifar10", train=False, batch_size=2000)
        begun = time.perf_counter()
        model = lib_airbench94.train94(loader, epochs=epochs, verbose=False)
        accuracy = utils.evaluate(model, test, TEST_VIEWS)
        return {"seed": seed, "accuracy": accuracy,
                "seconds": time.perf_counter() - begun}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the official files")
    parser.add_argument("--cifar10-jpeg", metavar="FOLDER",
                        help="a JPEG copy of CIFAR-10, as class folders")
    parser.add_argument("--seeds", type=int, default=3, help="n: seeds 0 ... n - 1")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"),
                        help="what replaces float16")
    parser.add_argument("--epochs", type=float, default=9.9)
    parser.add_argument("--out", type=Path, default=Path("runs/airbench94"))
    given = parser.parse_args(argv)
    import torch
    out = given.out.absolute()
    make_out(out)
    save_images(out, given.data, given.cifar10_jpeg)
    os.chdir(out)  # airbench reads cifar10/train.pt
    name = f"{given.dtype}, {given.epochs:g} epochs"
    path = out / "airbench94.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results |= {"machine": machine(), "torch": torch.__version__}
    rows = results.setdefault(name, [])
    for seed in range(len(rows), given.seeds):
        rows.append(train(seed, given.dtype, given.epochs))
        print(name, rows[-1], flush=True)
        write_atomically(path, json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    run_script(main)
