"""Images/s of training and peak memory, compared with plain Flax and torch.

All arms train the same network from the same parameters on the same images, by SGD
with momentum (`experiments/arms`). Each arm is a process. It is timed alone as soon as
it is compiled, so that a deadline loses only the arms it has not reached. When all are
there they compute in turn, A B C A B C. Their logits must agree.
"""

import concurrent.futures
import contextlib
import dataclasses
import importlib.metadata
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.errors import RunError
from experiments.arms.in_turn import Program, time_in_turn
from experiments.arms.worker import Worker, in_one_line, start_arrays

ROUNDS, TURN = 7, 0.3  # times of each arm, s of each
AGREEMENT = 0.2        # max |a - b| of bfloat16 logits / their standard deviation
OURS, FLAX = "cnn_jax", "plain Flax"
EAGER, COMPILED = "torch", "torch.compile"
TAPS = "depthwise by taps"
NO_MEMORY = ("RESOURCE_EXHAUSTED", "OutOfMemoryError")  # of JAX, of torch


class Network(NamedTuple):
    """What is trained, and by which arms beside ours, plain Flax and torch."""

    network: str
    batch: int
    image: tuple[int, int, int]
    classes: int = 10
    # Steps of a call, beside 1. 8 is what main.py does. 64 save more of the time that
    # a call costs; of a step with 256 images of 224 x 224 pixels that is next to none.
    steps: tuple[int, ...] = (8, 64)
    taps: bool = False                # whether depthwise convolutions are compared
    # {arm: how many times as fast as it ours should be}
    targets: dict[str, float] = {}


LARGE, SMALL = {COMPILED: 1.0}, {EAGER: 3.0}
NETWORKS = {  # in this order: those that compile in seconds, then ResNet-50
    "LeNet-5": Network("lenet5", 512, (28, 28, 1), targets=SMALL),
    "SELU CNN": Network("selu_cnn", 512, (28, 28, 1), targets=SMALL),
    "separable CNN": Network("separable_cnn", 512, (28, 28, 1), taps=True,
                             targets=SMALL),
    "CIFAR ResNet-18": Network("tf2_resnet18", 512, (32, 32, 3)),
    "ResNet-50": Network("resnet50", 256, (224, 224, 3), 1000, (8,), targets=LARGE),
    "MobileNetV2": Network("mobilenet_v2", 256, (224, 224, 3), 1000, (8,), True),
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


@dataclasses.dataclass
class Comparison:
    """The arms of one network, and what has been measured of them."""

    title: str
    row: Network
    table: dict[str, tuple[str, dict[str, Any]]]  # of `arms`
    workers: dict[str, Worker] = dataclasses.field(default_factory=dict)
    setups: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    rates: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    in_turn: bool = False

    def several(self) -> list[str]:
        """Names our calls of several steps."""
        return [f"{OURS}, {n} steps a call" for n in self.row.steps]

    def result(self) -> dict[str, Any]:
        """Makes the row of what has been measured so far."""
        return {"name": f"{self.title}, batch {self.row.batch}",
                "arms": [OURS, *self.several(),
                         *(name for name in self.table if name != OURS)],
                "images_per_second": self.rates, "failed": self.failed,
                "setup": {name: {key: value for key, value in setup.items()
                                 if key != "logits"}
                          for name, setup in self.setups.items()},
                "targets": self.row.targets, "in_turn": self.in_turn,
                "not_reached": True} | faults(self.failed, self.setups)


def check(title: str, row: Network, platform: str) -> Iterator[dict[str, Any]]:
    """Times all arms on one network; yields the row whenever an arm is measured.

    The row is `not_reached` until all are timed in turn.
    """
    compared = Comparison(title, row, arms(row, platform))
    network = {"network": row.network, "classes": row.classes}
    with start_arrays(**network, image=row.image, batch=row.batch) as file:
        try:
            yield from time_alone(compared, network | {
                "file": file, "dtype": "bfloat16", "turn": TURN})
            yield from time_several(compared)
            time_all(compared)
            yield compared.result() | {"not_reached": False}
        finally:
            for worker in compared.workers.values():
                worker.close()


def time_alone(compared: Comparison, given: dict[str, Any]
               ) -> Iterator[dict[str, Any]]:
    """Starts all arms; yields the row when one has been timed alone, or has ended."""
    for name, worker in started(compared.table, given):
        if isinstance(worker, BaseException):
            compared.failed[name] = in_one_line(worker)
        else:
            compared.workers[name], compared.setups[name] = worker, worker.setup
            compared.rates[name] = [
                compared.row.batch / worker.setup["alone"]["seconds"]]
        yield compared.result()


def time_several(compared: Comparison) -> Iterator[dict[str, Any]]:
    """Times each of our calls of several steps, once; an error ends our worker."""
    for name in compared.several():
        program = programs(compared.workers, compared.row.steps).get(name)
        if program and not timed(compared, name, {name: program}, 1):
            compared.workers.pop(OURS).close()
        yield compared.result()


def time_all(compared: Comparison) -> None:
    """Times the programs of all arms that are left, in turn."""
    left = programs(compared.workers, compared.row.steps)
    compared.in_turn = bool(left) and timed(compared, "in turn", left, ROUNDS)


def timed(compared: Comparison, name: str, chosen: dict[str, Program],
          rounds: int) -> bool:
    """Times programs, or notes the end of a worker under `name`; tells which."""
    try:
        seconds = time_in_turn(chosen, TURN, rounds)
    except SystemExit as error:  # a worker has ended
        compared.failed[name] = in_one_line(error)
        return False
    compared.rates.update({arm: [compared.row.batch / s for s in times]
                           for arm, times in seconds.items()})
    return True


def started(arms: dict[str, tuple[str, dict[str, Any]]], given: dict[str, Any]
            ) -> Iterator[tuple[str, Worker | BaseException]]:
    """Starts all workers at a time; yields each when it is ready, or what ended it."""
    with concurrent.futures.ThreadPoolExecutor(len(arms)) as pool:
        jobs = {pool.submit(Worker, module, {}, **given, **arguments): name
                for name, (module, arguments) in arms.items()}
        for job in concurrent.futures.as_completed(jobs):
            yield jobs[job], job.exception() or job.result()


def no_memory(text: str) -> bool:
    """Says whether an error is that of a device whose memory is full."""
    return any(word in text for word in NO_MEMORY)


def faults(failed: dict[str, str], setups: dict[str, dict[str, Any]]
           ) -> dict[str, Any]:
    """Returns what is wrong with a row, and whether an arm does not fit into memory."""
    wrong = [f"{name}: {text}" for name, text in failed.items() if not no_memory(text)]
    return {"wrong": "; ".join([*wrong, *disagreements(setups)]),
            "does_not_fit": any(map(no_memory, failed.values()))}


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
        found = {"name": title, "not_reached": True, "wrong": ""}
        try:
            for found in until(deadline, check, title, row, platform):
                pass  # the last row has the most
        except TimeoutError:
            pass  # the row says `not_reached`
        except RunError as error:  # the other networks go on, and the exit code is 1
            found |= {"wrong": str(error)}
        yield found


def until(deadline: float, function: Callable[..., Iterable[Any]],
          *arguments: Any) -> Iterator[Any]:
    """Yields what a function yields in a process, which ends at the deadline.

    The processes that it has started end too. Raises TimeoutError then, and RunError if
    the function raises an error.
    """
    if time.monotonic() >= deadline:
        raise TimeoutError
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=answer, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        while True:
            if not receiver.poll(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            kind, value = receiver.recv()
            if kind == "end":
                return
            if kind == "error":
                raise RunError(value)
            yield value
    except EOFError:
        raise RunError("its process ended") from None
    finally:
        if process.is_alive():
            with contextlib.suppress(ProcessLookupError):  # it has no group yet
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
        process.join()


def answer(sender: Any, function: Callable[..., Iterable[Any]],
           arguments: tuple) -> None:
    """Sends (kind, value) to `until`: each row, then the end or an error."""
    os.setsid()  # the processes that it starts are of its group
    try:
        for value in function(*arguments):
            sender.send(("row", value))
        sender.send(("end", None))
    except (Exception, SystemExit) as error:  # raised there; a worker's end is the last
        sender.send(("error", in_one_line(error)))


def lines(row: dict[str, Any]) -> Iterator[str]:
    """Formats a row of the table: each arm's images/s, ours / it, and its memory."""
    medians = {name: float(np.median(rates))
               for name, rates in row["images_per_second"].items()}
    best = max((rate for name, rate in medians.items() if name.startswith(OURS)),
               default=float("nan"))
    for name in row["arms"]:
        if name not in medians:
            process = OURS if name.startswith(OURS) else name
            error = row["failed"].get(name) or row["failed"].get(
                process, "not reached")
            yield f"  {name:<26}{'does not fit' if no_memory(error) else error}"
            continue
        rates = row["images_per_second"][name]
        low, high = np.percentile(rates, (25, 75))
        text = f"  {name:<26}{medians[name]:>11,.0f} images/s "
        text += f"({low:,.0f} - {high:,.0f})" if len(rates) > 1 else "(once, alone)"
        if not name.startswith(OURS):
            text += f"   ours at best {best / medians[name]:.2f} times as fast"
        if name in row["targets"]:
            text += f" (target {row['targets'][name]:.1f})"
        if setup := row["setup"].get(name):
            peak = setup["alone"]["device_peak_mb"] or setup["alone"]["peak_mb"]
            text += f"   peak {peak:,.0f} MB"
            if setup.get("temporary_mb"):
                text += f" (a step's temporaries {setup['temporary_mb']:,.1f})"
        yield text
