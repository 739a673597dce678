"""Does training compile for a TPU, does it fit, and what bounds its speed?

    pip install -e '.[tpu-aot]'
    python experiments/tpu_compile.py [--only NAME ...] [--topology v5e:2x2 ...] [--all]

libtpu can compile for TPU slices on a machine without a TPU. This compiles the training
and evaluation programs of a run (`experiments/programs.py`) on a CPU, and writes a
table of what each program needs on one chip. Nothing is run: images/s is an estimate
from the compiler's count of FLOPs and bytes and from the published peaks of the chip.

Exit code 1 if a program does not fit into a chip, exchanges data with the host, has a
convolution of float32 operands, sends more bytes than `allowed_bytes`, or takes more
memory, memory traffic or all-reduces than the same step in plain Flax.

The rows are `ROWS`, which leave out programs that teach nothing new:

    a larger slice changes only which chips an all-reduce joins, as the number of images
    on a chip is the same. So every topology has LeNet-5 and ResNet-50, four chips of a
    v5e also two other networks with batch norm, and 256 chips ResNet-50 alone: their
    batch of a small network is larger than its data set;
    several steps are a loop, whose body is that of one step. Only streamed steps need
    more memory, for their batches;
    pmap on one chip is jit, and evaluation adds one all-reduce of three sums.

--all compiles these too. Each row is compiled in its own process. Rows that the JSON
file already has are not compiled again, unless they failed. ResNet-50 takes about 200 s
on two free cores, up to an hour on busy ones, and 3 GB.
"""

import argparse
import json
import operator
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax.errors import InputError, RunError  # noqa: E402
from cnn_jax.networks.roofline import PEAKS  # noqa: E402
from cnn_jax.workdir.machine import commit  # noqa: E402
from experiments.measuring import (make_out, row_in_new_process,  # noqa: E402
                                   run_script)

ROOT = Path(__file__).parents[1]
OUT = ROOT / "measured" / "accelerators"
NETWORKS = ("lenet5", "cifar_resnet18", "selu_cnn", "separable_cnn", "resnet50",
            "mobilenet_v2", "densenet121")
TOPOLOGIES = ("v5e:1x1", "v5e:2x2", "v5e:4x4", "v5e:16x16", "v4:2x2x1", "v6e:2x2")
PROGRAMS = ("train 1", "train 8", "eval")
ARMS = ("jit", "pmap", "flax")
Row = tuple[str, str, str, str]  # (network, topology, arm, program)
ROWS: tuple[Row, ...] = (
    *((network, "v5e:1x1", "jit", program)
      for network in NETWORKS for program in ("train 1", "eval")),
    ("lenet5", "v5e:1x1", "jit", "train 8"), ("resnet50", "v5e:1x1", "jit", "train 8"),
    ("lenet5", "v5e:1x1", "pmap", "train 1"),
    ("resnet50", "v5e:1x1", "flax", "train 1"),
    ("resnet50", "v5e:2x2", "flax", "train 1"),
    ("lenet5", "v5e:2x2", "jit", "eval"),
    ("cifar_resnet18", "v5e:2x2", "jit", "train 1"),
    ("cifar_resnet18", "v5e:2x2", "jit", "train 8"),
    ("cifar_resnet18", "v5e:2x2", "pmap", "train 1"),
    *((network, topology, "jit", "train 1")
      for topology in ("v5e:2x2", "v5e:4x4", "v4:2x2x1", "v6e:2x2")
      for network in ("lenet5", "resnet50")),
    ("resnet50", "v5e:16x16", "jit", "train 1"),
    ("mobilenet_v2", "v5e:2x2", "jit", "train 1"),
)
HEAD = ("network", "topology", "arm", "program", "images", "HBM GiB", "of", "GFLOP",
        "/ layers", "GB moved", "of HBM", "limit ms", "images/s", "all-reduces",
        "MB sent", "expected", "host", "f32 conv", "compile s")


def row_name(network: str, topology: str, arm: str, program: str) -> str:
    return f"{network} {topology} {arm} {program}"


def compile_row(network: str, topology: str, arm: str, program: str) -> dict[str, Any]:
    """Compiles a program and returns its facts; it needs libtpu."""
    from experiments import programs
    return programs.compile_for_tpu(network, topology, arm, program)


def compile_apart(name: Row) -> dict[str, Any]:
    """Compiles in another process, since libtpu keeps gigabytes of memory.

    A compiler that fails gives a row with the last line of its error.
    """
    try:
        return row_in_new_process(__file__, *name)
    except RunError as error:
        return {"failed": str(error)}


def allowed_bytes(facts: dict[str, Any]) -> int:
    """Returns the most bytes that a program may send from each chip.

    These are the gradient in float32, the two statistics of each channel of each batch
    norm in the forward and in the backward pass, and the three sums of the metrics.
    Evaluation sends only its sums; on one chip nothing is sent.
    """
    if facts["chips"] == 1:
        return 0
    sums = 64 * facts["steps"]
    if facts["program"] == "eval":
        return sums
    return 4 * (facts["params"] + 2 * facts["stats"]) + sums


def faults(facts: dict[str, Any]) -> list[str]:
    """Lists the faults of a program, one line each."""
    if "failed" in facts:
        return [f"it does not compile: {facts['failed']}"]
    faults = []
    capacity = PEAKS[facts["chip"]].memory
    if facts["hbm"] > capacity:
        faults.append(f"it needs {facts['hbm'] / 2**30:.1f} GiB of "
                      f"{capacity / 2**30:.0f}")
    if facts["host_transfers"]:
        faults.append(f"{facts['host_transfers']} transfers to or from the host")
    if facts["float32_convolutions"]:
        faults.append(f"{facts['float32_convolutions']} float32 convolutions")
    if facts["collective_bytes"] > allowed_bytes(facts):
        faults.append(f"it sends {facts['collective_bytes']:,} bytes of at most "
                      f"{allowed_bytes(facts):,}")
    return faults


def of_call(facts: dict[str, Any], what: str) -> float:
    """Returns the 'flops' or 'bytes' of a call.

    Several steps are a loop, whose body XLA counts once.
    """
    return facts[what] * facts["steps"]


def limit(facts: dict[str, Any]) -> float:
    """Estimates the seconds of a call by the chip's peaks (a roofline).

    It is no bound: the compiler counts the operands of a fused operation in full, even
    those of which little is read.
    """
    return PEAKS[facts["chip"]].seconds(of_call(facts, "flops"),
                                        of_call(facts, "bytes"))


def hbm_traffic(facts: dict[str, Any]) -> str:
    """Formats the traffic of HBM; '-' where it is not known.

    `hlo.hbm_traffic` leaves out loops, so that of several steps is not known.
    """
    known = facts["steps"] == 1 and "hbm_traffic" in facts
    return f"{facts['hbm_traffic'] / 1e9:,.2f}" if known else "-"


def layer_flops(facts: dict[str, Any]) -> float:
    """Counts a call's FLOPs by the layer table: 2 a multiply-add, 3 passes to train."""
    passes = 1 if facts["program"] == "eval" else 3
    return 2.0 * passes * facts["macs"] * facts["images"]


def cells(name: str, facts: dict[str, Any]) -> list[str]:
    """Formats a row of the table."""
    network, topology, arm, program = name.split(" ", 3)
    if "failed" in facts:
        return [network, topology, arm, program, facts["failed"]]
    seconds = limit(facts)
    return [network, topology, arm, program, f"{facts['images']:,}",
            f"{facts['hbm'] / 2**30:.2f}",
            f"{PEAKS[facts['chip']].memory / 2**30:.0f}",
            f"{of_call(facts, 'flops') / 1e9:,.1f}",
            f"{of_call(facts, 'flops') / layer_flops(facts):.2f}",
            f"{of_call(facts, 'bytes') / 1e9:,.2f}", hbm_traffic(facts),
            f"{1e3 * seconds:,.3f}",
            f"{facts['images'] / seconds:,.0f}",
            str(sum(facts["collectives"].values())),
            f"{facts['collective_bytes'] / 1e6:.2f}",
            f"{allowed_bytes(facts) / 1e6:.2f}", str(facts["host_transfers"]),
            str(facts["float32_convolutions"]), f"{facts['compile_s']:.0f}"]


def against_flax(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Lists what a step needs more than the same step in plain Flax, one line each."""
    more = []
    for name, theirs in rows.items():
        ours = rows.get(name.replace(" flax ", " jit "))
        if " flax " not in name or ours is None or "failed" in {**ours, **theirs}:
            continue
        # Rows of earlier versions have no traffic of HBM.
        traffic = "hbm_traffic" if "hbm_traffic" in ours.keys() & theirs else "bytes"
        for what, of in (("memory", lambda facts: facts["hbm"]),
                         (traffic.replace("_", " "), operator.itemgetter(traffic)),
                         ("all-reduces",
                          lambda facts: sum(facts["collectives"].values())),
                         ("bytes sent", lambda facts: facts["collective_bytes"])):
            if of(ours) > of(theirs):
                more.append(f"{name.replace(' flax ', ' jit ')}: {what} "
                            f"{of(ours):,.0f}, plain Flax {of(theirs):,.0f}")
    return more


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Formats all rows, and below them the faults."""
    body = [cells(name, facts) for name, facts in rows.items()]
    widths = [max(len(row[i]) for row in [HEAD, *body] if i < len(row) == len(HEAD))
              for i in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) if i < 4 else cell.rjust(width)
                       for i, (cell, width) in enumerate(zip(row, widths))).rstrip()
             if len(row) == len(HEAD) else "  ".join(row) for row in [HEAD, *body]]
    wrong = [f"{name}: {fault}" for name, facts in rows.items()
             for fault in faults(facts)]
    compilers = sorted({f"libtpu {facts['libtpu']} under jax {facts['jax']}"
                        for facts in rows.values() if "libtpu" in facts})
    return "\n".join([
        "python experiments/tpu_compile.py   (compiled by " + ", ".join(compilers)
        + ", not run; figures of one chip; images/s is an estimate)", "", *lines, "",
        *(wrong + against_flax(rows) or ["Nothing is wrong."]), *missing(rows)]) + "\n"


def missing(rows: dict[str, dict[str, Any]]) -> list[str]:
    """Says which programs of `ROWS` have not been compiled."""
    left = [row_name(*row) for row in ROWS if row_name(*row) not in rows]
    return ["", f"Not compiled: {len(left)} of {len(ROWS)} programs.",
            *(f"  {name}" for name in left)] if left else []


def every_row() -> list[Row]:
    """Lists all programs: pmap and plain Flax have one each."""
    return [(network, topology, arm, program)
            for network in NETWORKS for topology in TOPOLOGIES
            for arm in ARMS for program in PROGRAMS
            if arm == "jit" or program == "train 1"
            and (arm == "pmap" or network == "resnet50")]


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[*NETWORKS],
                        help=f"of {', '.join(NETWORKS)}; by default all")
    parser.add_argument("--topology", nargs="+", default=[*TOPOLOGIES],
                        help=f"by default {' '.join(TOPOLOGIES)}")
    parser.add_argument("--program", nargs="+", default=[*PROGRAMS],
                        help="of 'train 1', 'train 8' (steps a call) and eval")
    parser.add_argument("--arm", nargs="+", default=[*ARMS],
                        help="of jit, pmap (placements) and flax (plain Flax)")
    parser.add_argument("--all", action="store_true", help="also the other programs")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--row", nargs=4, help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.row:
        print(json.dumps(compile_row(*flags.row)))
        return
    for flag, known in (("only", NETWORKS), ("topology", TOPOLOGIES),
                        ("program", PROGRAMS), ("arm", ARMS)):
        if unknown := {*getattr(flags, flag)} - {*known}:
            raise InputError(f"--{flag}={sorted(unknown)[0]} is not known; there are "
                             f"{', '.join(known)}")
    make_out(flags.out)
    path = flags.out / "tpu_compile.json"
    rows = json.loads(path.read_text()) if path.exists() else {}
    for name in every_row() if flags.all else ROWS:
        key = row_name(*name)
        done = key in rows and "failed" not in rows[key]
        if done or not all(
                part in wanted for part, wanted in zip(name, (
                    flags.only, flags.topology, flags.arm, flags.program))):
            continue
        rows[key] = compile_apart(name) | {"commit": commit()}
        print("  ".join(cells(key, rows[key])), flush=True)
        path.write_text(json.dumps(rows, indent=1) + "\n")
        path.with_suffix(".txt").write_text(table(rows))
    print(table(rows))
    wrong = [name for name, facts in rows.items() if faults(facts)]
    if wrong:
        raise RunError(f"{len(wrong)} of {len(rows)} programs have a fault: "
                       f"{wrong[0]}: {faults(rows[wrong[0]])[0]}")
    if more := against_flax(rows):
        raise RunError(more[0])


if __name__ == "__main__":
    run_script(main)
