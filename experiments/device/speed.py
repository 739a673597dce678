"""Images/s of training and peak memory, compared with plain Flax and torch.

All arms train the same network from the same parameters on the same images, by SGD
with momentum (`experiments/arms`). Each arm is a process; they compute in turn, A B C A
B C, and their logits must agree first.
"""

import concurrent.futures
import contextlib
import importlib.metadata
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.errors import RunError
from experiments.arms.in_turn import Program, time_in_turn
from experiments.arms.worker import Worker, start_arrays

ROUNDS, TURN = 7, 0.3  # times of each arm, s of each
LEAST_SECONDS = 90.0   # a network is begun if so many are left
AGREEMENT = 0.2        # max |a - b| of bfloat16 logits / their standard deviation
OURS, FLAX = "cnn_jax", "plain Flax"
EAGER, COMPILED = "torch", "torch.compile"
TAPS = "depthwise by taps"


class Network(NamedTuple):
    """What is trained, and by which arms beside ours, plain Flax and torch."""

    network: str
    batch: int
    image: tuple[int, int, int]
    classes: int = 10
    steps: tuple[int, ...] = (8, 64)  # of a call, beside 1
    taps: bool = False                # whether depthwise convolutions are compared
    # {arm: how many times as fast as it ours should be}
    targets: dict[str, float] = {}


LARGE, SMALL = {COMPILED: 1.0}, {EAGER: 3.0}
NETWORKS = {
    "ResNet-50": Network("resnet50", 256, (224, 224, 3), 1000, (), False, LARGE),
    "CIFAR ResNet-18": Network("tf2_resnet18", 512, (32, 32, 3)),
    "separable CNN": Network("separable_cnn", 512, (28, 28, 1), taps=True,
                             targets=SMALL),
    "SELU CNN": Network("selu_cnn", 512, (28, 28, 1), targets=SMALL),
    "MobileNetV2": Network("mobilenet_v2", 256, (224, 224, 3), 1000, (8,), True),
    "LeNet-5": Network("lenet5", 512, (28, 28, 1), targets=SMALL),
}
NETWORKS_SMALL = {"LeNet-5": Network("lenet5", 8, (28, 28, 1), steps=(2,))}


def without_torch(platform: str) -> str:
    """Says why torch is no arm on this platform; '' where it is."""
    if not find_spec("torch"):
        return "torch is not installed"
    number = importlib.metadata.version("torch")
    if platform != "cpu" and (platform != "gpu" or number.endswith("+cpu")):
        return f"torch {number} does not use this {platform}"
    return ""


def arms(row: Network, platform: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Returns {arm: (module of `experiments/arms`, its arguments)}."""
    made: dict[str, tuple[str, dict[str, Any]]] = {
        OURS: ("in_jax", {"plain": False, "steps": row.steps}),
        FLAX: ("in_jax", {"plain": True})}
    if row.taps:
        made[TAPS] = ("in_jax", {"plain": False, "conv": TAPS})
    if not without_torch(platform):
        device = {"device": "cuda" if platform == "gpu" else "cpu"}
        made |= {EAGER: ("in_torch", device),
                 COMPILED: ("in_torch", device | {"compiled": True})}
    return made


def check(title: str, row: Network, platform: str) -> dict[str, Any]:
    """Times all arms on one network; returns a row."""
    workers: dict[str, Worker] = {}
    network = {"network": row.network, "classes": row.classes}
    with start_arrays(**network, image=row.image, batch=row.batch) as file:
        try:
            workers, failed = started(arms(row, platform), network | {
                "file": file, "dtype": "bfloat16"})
            wrong = [*failed, *disagreements({
                name: worker.setup for name, worker in workers.items()})]
            seconds = time_in_turn(programs(workers, row.steps), TURN, ROUNDS)
            memory = {name: worker.run("train") for name, worker in workers.items()}
        finally:
            for worker in workers.values():
                worker.close()
    images = {name: [row.batch / s for s in times] for name, times in seconds.items()}
    return {"name": f"{title}, batch {row.batch}", "images_per_second": images,
            "targets": row.targets,
            "versions": sorted({w.setup["version"] for w in workers.values()}),
            "compile_s": {name: w.setup["compile_s"] for name, w in workers.items()
                          if "compile_s" in w.setup},
            "temporary_mb": {name: w.setup["temporary_mb"]
                             for name, w in workers.items()
                             if "temporary_mb" in w.setup},
            "peak_mb": {name: answer["device_peak_mb"] or answer["peak_mb"]
                        for name, answer in memory.items()},
            "wrong": "; ".join(wrong)}


def started(arms: dict[str, tuple[str, dict[str, Any]]],
            given: dict[str, Any]) -> tuple[dict[str, Worker], list[str]]:
    """Starts all workers at a time; returns them, and a line for each that ended."""
    with concurrent.futures.ThreadPoolExecutor(len(arms)) as pool:
        jobs = {name: pool.submit(Worker, module, {}, **given, **arguments)
                for name, (module, arguments) in arms.items()}
    failed = [f"{name}: {str(job.exception()).splitlines()[-1]}"
              for name, job in jobs.items() if job.exception()]
    return {name: job.result() for name, job in jobs.items()
            if not job.exception()}, failed


def disagreements(setups: dict[str, dict[str, Any]]) -> Iterator[str]:
    """Yields a line for each arm that has other parameters or logits than ours."""
    if OURS not in setups:
        return
    ours = setups[OURS]
    expected = np.array(ours["logits"])
    for name, theirs in setups.items():
        apart = np.abs(np.array(theirs["logits"]) - expected).max() / expected.std()
        if theirs["params"] != ours["params"] or not apart <= AGREEMENT:
            yield (f"{name}: {theirs['params']} parameters, logits {apart:.2f} apart; "
                   f"ours have {ours['params']}, at most {AGREEMENT} apart")
        if not np.isfinite(theirs["losses"]).all():
            yield f"{name}: losses {theirs['losses']}"


def programs(workers: dict[str, Worker], steps: tuple[int, ...]
             ) -> dict[str, Program]:
    """Lists the programs to time."""
    made = {}
    for name, worker in workers.items():
        made[name] = Program(worker, "train")
        if name == OURS:
            made |= {f"{OURS}, {n} steps a call": Program(worker, f"train{n}", n)
                     for n in steps}
    return made


def check_all(small: bool, platform: str, deadline: float) -> Iterator[dict[str, Any]]:
    """Yields a row for each network; what the deadline ends or leaves out says so."""
    for title, row in (NETWORKS_SMALL if small else NETWORKS).items():
        if deadline - time.monotonic() < LEAST_SECONDS:
            yield {"name": title, "not_reached": True, "wrong": ""}
            continue
        try:
            yield until(deadline, check, title, row, platform)
        except TimeoutError:
            yield {"name": title, "not_reached": True, "wrong": ""}
        except RunError as error:  # the other networks go on, and the exit code is 1
            yield {"name": title, "wrong": str(error)}


def until(deadline: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a process, which ends at the deadline with those it started.

    Raises TimeoutError then, and RunError if the function raises an error.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        if not receiver.poll(max(0.0, deadline - time.monotonic())):
            raise TimeoutError
        error, result = receiver.recv()
    except EOFError:
        raise RunError("its process ended") from None
    finally:
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it has no group yet
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.join()
    if error:
        raise RunError(error)
    return result


def answer(sender: Any, function: Callable[..., Any], arguments: tuple) -> None:
    """Sends (error, result) of a call to `until`."""
    os.setsid()  # the processes that it starts are of its group
    try:
        sender.send((None, function(*arguments)))
    except (Exception, SystemExit) as error:  # raised there; a worker's end is the last
        sender.send((f"{type(error).__name__}: {' '.join(str(error).split())}", None))


def lines(row: dict[str, Any]) -> Iterator[str]:
    """Formats a row of the table: each arm's images/s, and ours / it."""
    medians = {name: float(np.median(rates))
               for name, rates in row["images_per_second"].items()}
    best = max((rate for name, rate in medians.items() if name.startswith(OURS)),
               default=float("nan"))
    for name, rates in row["images_per_second"].items():
        low, high = np.percentile(rates, (25, 75))
        text = (f"  {name:<26}{medians[name]:>11,.0f} images/s ({low:,.0f} - "
                f"{high:,.0f})")
        if not name.startswith(OURS):
            text += f"   ours at best {best / medians[name]:.2f} times as fast"
        if name in row["targets"]:
            text += f" (target {row['targets'][name]:.1f})"
        if name in row["peak_mb"]:
            text += f"   peak {row['peak_mb'][name]:,.0f} MB"
        yield text
