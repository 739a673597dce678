"""Times whole training steps and inference, compared with plain Flax and others.

    python experiments/benchmark.py                       with plain Flax
    python experiments/benchmark.py --peers=torch,keras   and these; 30 minutes at most
    python experiments/benchmark.py --peers=own           ours with its own C++ alone
    python experiments/benchmark.py --peers=onednn,torch  ours with oneDNN, and torch
    python experiments/benchmark.py --dtype=bfloat16 --only=W4
    python experiments/benchmark.py --threads=1,2 --peers=onednn,torch
    python experiments/benchmark.py --quick               three workloads, 3 minutes
    python experiments/benchmark.py --published --peers=onednn,torch,compile
    python experiments/benchmark.py --others --peers=onednn,torch

A training step is forward, backward and SGD with momentum. All arms train the same
network from the same parameters on the same images: plain Flax (`nn.Conv`,
`nn.BatchNorm`, no compiler options), PyTorch (eager, channels_last), Keras on
TensorFlow and on JAX. All use huge pages. Ours also keeps its memory from step to step,
as `main.py` does (cnn_jax/huge_pages.py); so do the arms "plain Flax, kept" and "torch,
kept". "torch, small pages" is PyTorch as users start it; our arms of that name run with
CNN_JAX_HUGE_PAGES=0. "torch.compile" is PyTorch with its compiler; it keeps its memory
too. `--threads=1,2` adds arms with one core (and two, if there are more).

`--published` compares training steps of twelve networks of torchvision and timm with
the equal networks here, at their published size. `--others` does the same with other
networks, batches and image sizes, for which nothing was tuned. They and
`--dtype=bfloat16` leave out plain Flax, and arms that do not keep their memory.
experiments/inference.py measures inference.

First the logits and losses of all arms must agree. Every arm has its own process; the
parent lets them run in turn, A B C A B C, so that drift of the machine affects all
arms. A virtual machine may move its cores apart (arms/cores.py), so the distance of the
cores is measured in every round too. Writes benchmark.json, benchmark.txt,
benchmark.png and, with oneDNN, benchmark_onednn.png. The peers need the extra
`cnn_jax[peers]`. measured/speed/README.md has the results.
"""

import argparse
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from arms.bars import draw_bars, quartiles
from arms.in_turn import Program, time_in_turn
from arms.worker import (HUGE_PAGES, KEPT, Worker, check_flags, processor,
                         start_arrays)
from rich.console import Console
from rich.progress import Progress

from cnn_jax.native.build import builder
from cnn_jax.workdir.machine import core_count


class Workload(NamedTuple):
    network: str
    batch: int
    image: tuple[int, int, int]
    classes: int = 10
    dropout: bool = False  # drawn differently in each library


WORKLOADS = {
    "W1 LeNet-5": Workload("lenet5", 128, (28, 28, 1)),
    "W2 SELU b32": Workload("selu_cnn", 32, (28, 28, 1)),
    "W2 SELU b128": Workload("selu_cnn", 128, (28, 28, 1)),
    "W3 separable b32": Workload("separable_cnn", 32, (28, 28, 1)),
    "W3 separable b128": Workload("separable_cnn", 128, (28, 28, 1)),
    "W4 ResNet-18": Workload("tf2_resnet18", 128, (32, 32, 3)),
    "W5 monkey": Workload("monkey_cnn", 64, (128, 128, 3)),
    "W6 VGG16": Workload("tf2_vgg16", 128, (32, 32, 3), dropout=True),
    "W7 ResNet-50": Workload("resnet50", 8, (224, 224, 3), 1000),
}
QUICK = ["W1 LeNet-5", "W2 SELU b32", "W3 separable b32"]


# The networks of --published, by source. True: the network has dropout.
PUBLISHED = {
    "AlexNet b32": Workload("torchvision:alexnet", 32, (224, 224, 3), 1000, True),
    "VGG-16 b4": Workload("torchvision:vgg16", 4, (224, 224, 3), 1000, True),
    "GoogLeNet b16": Workload("torchvision:googlenet", 16, (224, 224, 3), 1000, True),
    "Inception v3 b4": Workload("torchvision:inception_v3", 4, (299, 299, 3), 1000,
                                True),
    "ResNet-18 b16": Workload("torchvision:resnet18", 16, (224, 224, 3), 1000),
    "ResNet-50 b8": Workload("torchvision:resnet50", 8, (224, 224, 3), 1000),
    "ResNet-50 v2 b8": Workload("timm:resnetv2_50.a1h_in1k", 8, (224, 224, 3), 1000),
    "DenseNet-121 b8": Workload("torchvision:densenet121", 8, (224, 224, 3), 1000),
    "MobileNet v1 b16": Workload("timm:mobilenetv1_100.ra4_e3600_r224_in1k", 16,
                                 (224, 224, 3), 1000),
    "MobileNet v2 b16": Workload("torchvision:mobilenet_v2", 16, (224, 224, 3), 1000,
                                 True),
    "Xception b4": Workload("timm:legacy_xception.tf_in1k", 4, (299, 299, 3), 1000,
                            True),
    "SqueezeNet b16": Workload("torchvision:squeezenet1_1", 16, (224, 224, 3), 1000,
                               True),
}
# The networks of --others.
OTHERS = {
    "VGG-11 BN b2": Workload("torchvision:vgg11_bn", 2, (224, 224, 3), 1000, True),
    "ResNet-34 b32, 160 px": Workload("torchvision:resnet34", 32, (160, 160, 3), 1000),
    "ResNeXt-50 b8": Workload("torchvision:resnext50_32x4d", 8, (224, 224, 3), 1000),
    "ResNet-18 b2": Workload("torchvision:resnet18", 2, (224, 224, 3), 1000),
    "DenseNet-121 b2, 192 px": Workload("torchvision:densenet121", 2, (192, 192, 3),
                                        1000),
    "MobileNet v2 0.5 b32": Workload("timm:mobilenetv2_050.lamb_in1k", 32,
                                     (224, 224, 3), 1000, True),
    "MobileNet v1 1.25 b5": Workload("timm:mobilenetv1_125.ra4_e3600_r224_in1k", 5,
                                     (256, 256, 3), 1000, True),
    "SqueezeNet 1.0 b32": Workload("torchvision:squeezenet1_0", 32, (224, 224, 3), 1000,
                                   True),
    "AlexNet b128": Workload("torchvision:alexnet", 128, (224, 224, 3), 1000, True),
}


class Arm(NamedTuple):
    module: str
    settings: dict[str, str]  # of its environment
    arguments: dict = {}
    cores: int = 0  # all


OURS, WITH_ONEDNN = "cnn_jax", "cnn_jax + oneDNN"
SMALL_PAGES = {"GLIBC_TUNABLES": "", "CNN_JAX_HUGE_PAGES": "0"}
ARMS = {
    OURS: Arm("in_jax", KEPT | {"CNN_JAX_NATIVE": "0"}, {"plain": False}),
    "cnn_jax, small pages": Arm("in_jax", SMALL_PAGES | {"CNN_JAX_NATIVE": "0"},
                                {"plain": False}),
    "plain Flax": Arm("in_jax", HUGE_PAGES, {"plain": True}),
    "plain Flax, kept": Arm("in_jax", KEPT, {"plain": True}),
}
PEERS = {
    "own": {
        "cnn_jax + own C++": Arm("in_jax", KEPT | {"CNN_JAX_NATIVE": "own"},
                                 {"plain": False})},
    "onednn": {
        WITH_ONEDNN: Arm("in_jax", KEPT | {"CNN_JAX_NATIVE": "1"}, {"plain": False}),
        f"{WITH_ONEDNN}, small pages": Arm(
            "in_jax", SMALL_PAGES | {"CNN_JAX_NATIVE": "1"}, {"plain": False})},
    "torch": {
        "torch": Arm("in_torch", HUGE_PAGES),
        "torch, kept": Arm("in_torch", KEPT),
        "torch, small pages": Arm("in_torch", SMALL_PAGES)},
    "compile": {
        "torch.compile": Arm("in_torch", KEPT, {"compiled": True})},
    "keras": {
        "Keras-TensorFlow": Arm("in_keras", HUGE_PAGES | {
            "KERAS_BACKEND": "tensorflow"}),
        "Keras-JAX": Arm("in_keras", HUGE_PAGES | {"KERAS_BACKEND": "jax"})},
}
# Arms that --published leaves out, because its networks take long to compile, and
# bfloat16, in which XLA's convolutions take long.
LEFT_OUT = {"cnn_jax, small pages", f"{WITH_ONEDNN}, small pages", "plain Flax",
            "plain Flax, kept", "torch", "torch, small pages"}
MODES = {"train": "training step", "infer": "inference"}
PASSES = {"train": 3, "infer": 1}  # forward, input gradient, weight gradient
LEAST_ROUNDS = 5


def on_threads(arms: dict[str, Arm], threads: list[int]) -> dict[str, Arm]:
    """Adds the arms with fewer cores than this process may use."""
    return arms | {
        f"{name}, {count} core{'s' * (count > 1)}": arm._replace(cores=count)
        for count in threads if count < core_count() for name, arm in arms.items()}


def measure(workload: Workload, arms: dict[str, Arm], dtype: str, seconds: float,
            turn: float, cores: Worker | None, advance) -> dict:
    """Times all arms on one workload, in turn, for about `seconds` after compiling.

    Returns {"setup": {arm: ...}, "train": {arm: [s a step]}, "infer": ...}; of a
    published network the training step alone.
    """
    network = {"network": workload.network, "classes": workload.classes}
    with start_arrays(**network, image=workload.image, batch=workload.batch) as file:
        workers = {}
        try:
            for name, arm in arms.items():
                advance(f"starts {name}")
                workers[name] = Worker(arm.module, arm.settings, arm.cores, **network,
                                       file=file, dtype=dtype, **arm.arguments)
            check_agreement({name: w.setup for name, w in workers.items()}, workload,
                            dtype)
            measured = {"batch": workload.batch,
                        "setup": {name: {key: value for key, value in w.setup.items()
                                         if key != "logits"}
                                  for name, w in workers.items()}}
            peer_is_source = ":" in workload.network
            shares = {"train": 1.} if peer_is_source else {"train": .75, "infer": .25}
            for mode, share in shares.items():
                advance(MODES[mode])
                distances = measured[f"{mode}_core_distance_us"] = []
                measured[mode] = time_in_turn(
                    {name: Program(worker, mode) for name, worker in workers.items()},
                    turn, LEAST_ROUNDS, share * seconds,
                    before_round=lambda: distances.extend(core_distance(cores)))
            for name, worker in workers.items():
                measured["setup"][name]["peak_mb"] = worker.run(mode)["peak_mb"]
            return measured
        finally:
            for worker in workers.values():
                worker.close()


# Upper bounds of the largest difference of the logits / their standard deviation.
AGREEMENT = {"float32": 1e-3, "bfloat16": .2}


def check_agreement(setups: dict[str, dict], workload: Workload, dtype: str) -> None:
    """Raises SystemExit unless every arm has our parameters, logits and losses."""
    ours = setups[OURS]
    if WITH_ONEDNN in setups and not setups[WITH_ONEDNN]["onednn"]:
        raise SystemExit(f"{WITH_ONEDNN}: {setups[WITH_ONEDNN]['no_onednn']}")
    for name, theirs in setups.items():
        same = theirs["params"] == ours["params"]
        logits, expected = np.array(theirs["logits"]), np.array(ours["logits"])
        same = same and np.abs(logits - expected).max() <= (
            AGREEMENT[dtype] * expected.std())
        if not workload.dropout or theirs["version"] == ours["version"]:
            # Rounding grows from step to step, most with batch norm over few images.
            same = same and np.allclose(theirs["losses"][:2], ours["losses"][:2],
                                        rtol=2e-2)
        if not same:
            raise SystemExit(f"{workload.network}: {name} does not agree with ours: "
                             f"{theirs['params']} and {ours['params']} parameters, "
                             f"losses {theirs['losses']} and {ours['losses']}")


def core_distance(cores: Worker | None) -> list[float]:
    """Measures how far the cores are apart, in us; nothing for a single core."""
    return [1e6 * cores.run("round_trip", 5000)["seconds"]] if cores else []


def ratios(measured: dict, mode: str,
           ours: str = OURS) -> dict[str, tuple[float, float, float]]:
    """Returns {arm: (low, median, high)} of the time of each arm / that of `ours`.

    low and high are quartiles of the ratio over the rounds.
    """
    reference, out = np.array(measured[mode][ours]), {}
    for name, times in measured[mode].items():
        if name != ours:
            low, _, high = quartiles(np.array(times) / reference)
            middle = float(np.median(times) / np.median(reference))
            out[name] = min(low, middle), middle, max(high, middle)
    return out


class Row(NamedTuple):
    """The results of one arm in one mode of one workload."""

    arm: str
    images_per_second: float
    gflops: float
    # {arm of ours: quartiles of this arm's time / the time of that arm}
    ratios: dict[str, tuple[float, float, float] | None]
    setup: dict  # of its process: peak_mb; JAX: compile_s, temporary_mb


def rows(measured: dict, mode: str) -> list[Row]:
    """Computes the rows of one workload and mode from its samples."""
    ours = [arm for arm in (OURS, WITH_ONEDNN) if arm in measured[mode]]
    against = {arm: ratios(measured, mode, arm) for arm in ours}
    macs = measured["setup"][OURS]["macs"]
    out = []
    for arm, times in measured[mode].items():
        images = float(measured["batch"] / np.median(times))
        out.append(Row(arm, images, images * PASSES[mode] * 2 * macs / 1e9,
                       {base: against[base].get(arm) for base in ours},
                       measured["setup"][arm]))
    return out


RATIO = "   {} {:5.2f} ({:.2f} - {:.2f}) times"
BASES = {OURS: "ours", WITH_ONEDNN: "with oneDNN"}


def line(row: Row, mode: str, width: int) -> str:
    """Formats a row; that of a training step has memory and compile time too."""
    text = (f"  {row.arm:<{width}}{row.images_per_second:>9.1f} images/s "
            f"{row.gflops:>5.0f} GFLOP/s")
    for base, quartiles_of in row.ratios.items():
        if quartiles_of is None:  # the arm itself
            text += " " * len(RATIO.format(BASES[base], 0, 0, 0))
        else:
            low, middle, high = quartiles_of
            text += RATIO.format(BASES[base], middle, low, high)
    if mode == "train":
        text += f"   peak {row.setup['peak_mb']:5.0f} MB"
        if "compile_s" in row.setup:
            text += (f"   compiles {row.setup['compile_s']:4.1f} s"
                     f"   temporary {row.setup['temporary_mb'] or 0:5.0f} MB")
    return text.rstrip()


def table(results: dict) -> str:
    """Formats all workloads, a paragraph for each mode."""
    lines = []
    for name, measured in results.items():
        for mode, title in MODES.items():
            if mode not in measured:
                continue
            head = f"\n{name}, batch {measured['batch']}, {title}"
            if distances := measured[f"{mode}_core_distance_us"]:
                low, middle, high = quartiles(distances)
                head += f" (cores {middle:.2f} us apart, {low:.2f} - {high:.2f})"
            width = max(19, *(len(arm) + 1 for arm in measured[mode]))
            lines += [head, *(line(row, mode, width) for row in rows(measured, mode))]
    return "\n".join(lines)


def heading(results: dict, dtype: str) -> str:
    setups = next(iter(results.values()))["setup"]
    versions = dict.fromkeys(setup["version"] for setup in setups.values())
    if WITH_ONEDNN in setups:
        versions[setups[WITH_ONEDNN]["onednn"]] = None
    return (
        f"{setups[OURS]['device']}, {processor()}, {os.cpu_count()} cores; "
        f"{', '.join(versions)}; {dtype}.\nThe machine's matrix product: "
        f"{setups[OURS]['matmul_gflops']:.0f} GFLOP/s. Huge pages unless said, which "
        "cnn_jax keeps. Median time of\nan arm over ours (quartiles of the rounds); "
        "peak memory with imports and compiler, within\n10 %; temporary is XLA's own "
        "figure.")


def draw(results: dict, folder: Path) -> None:
    """Draws one picture for each arm of ours, with all others beside it."""
    for ours, name in (OURS, "benchmark.png"), (WITH_ONEDNN, "benchmark_onednn.png"):
        if all(ours in measured["train"] for measured in results.values()):
            draw_bars({title: {workload: ratios(measured, mode, ours)
                               for workload, measured in results.items()}
                       for mode, title in MODES.items()
                       if all(mode in measured for measured in results.values())},
                      f"speed of {ours} / speed of the arm (median, quartiles)",
                      folder / name)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    parser.add_argument("--quick", action="store_true", help="three workloads")
    parser.add_argument("--published", action="store_true",
                        help="trains networks of torchvision and timm instead")
    parser.add_argument("--others", action="store_true",
                        help="trains further networks of torchvision and timm")
    parser.add_argument("--only", default="", metavar="NAME,NAME",
                        help="workloads whose names contain one of these")
    parser.add_argument("--peers", default="", metavar="own,onednn,torch,compile,keras")
    parser.add_argument("--no_flax", action="store_true",
                        help="without plain Flax, whose steps take up to 13 s")
    parser.add_argument("--dtype", default="float32", choices=AGREEMENT,
                        help="of the computation; parameters stay float32")
    parser.add_argument("--threads", default="", metavar="1,2",
                        help="adds every arm with so many cores (Linux)")
    parser.add_argument("--seconds", type=float, default=40,
                        help="of computing for each workload, after compiling")
    flags = parser.parse_args(argv)
    check_flags(parser, flags, PEERS)
    if "onednn" in flags.peers:
        try:
            builder.build(builder.chosen())
        except builder.BuildError as error:
            parser.error(f"--peers=onednn: {error}")
    arms = dict(ARMS)
    for peer in flags.peers:
        arms |= PEERS[peer]
    of_sources = flags.published or flags.others
    if of_sources or flags.dtype == "bfloat16":
        arms = {name: arm for name, arm in arms.items() if name not in LEFT_OUT}
    if flags.no_flax:
        arms = {name: arm for name, arm in arms.items() if "Flax" not in name}
    if of_sources and "keras" in flags.peers:
        parser.error("--published and --others have no arm of Keras, but onednn, "
                     "torch, compile")
    counts = [count for count in flags.threads.split(",") if count]
    if not all(count.isdecimal() and 1 <= int(count) <= core_count()
               for count in counts):
        parser.error(f"--threads={flags.threads} must be numbers of cores, from 1 to "
                     f"{core_count()}")
    arms = on_threads(arms, [int(count) for count in counts])
    workloads = (PUBLISHED if flags.published else OTHERS if flags.others
                 else WORKLOADS)
    names = [name for name in (QUICK if flags.quick else workloads)
             if any(part in name for part in flags.only.split(","))]
    if not names:
        parser.error(f"--only={flags.only} is in no name of {', '.join(workloads)}")
    results, cores = {}, None
    if len(getattr(os, "sched_getaffinity", lambda _: [0])(0)) > 1:
        cores = Worker("cores", {})
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=len(names))
        for name in names:
            results[name] = measure(
                workloads[name], arms, flags.dtype,
                flags.seconds / (2 if flags.quick else 1),
                .6 if "keras" in flags.peers else .2,  # its fit starts slowly
                cores, lambda text: progress.update(
                    task, description=f"{name}: {text}"))
            progress.advance(task)
            text = f"{heading(results, flags.dtype)}\n{table(results)}\n"
            (flags.out / "benchmark.json").write_text(json.dumps(results, indent=1))
            (flags.out / "benchmark.txt").write_text(text)
    if cores:
        cores.close()
    draw(results, flags.out)
    print(text)


if __name__ == "__main__":
    main()
