"""Compares both implementations of two operations, whose choice differs on a TPU.

    pip install -e '.[tpu-aot]'
    python experiments/tpu_choices.py

It compiles the weight gradient of LeNet-5's first convolution (`ops/conv/auto.py`) and
a bilinear warp (`data/warp.py`) for one chip of a v5e, each in its own process. The
table has the processor time and the peak memory of the compilation on this machine, and
the bytes that the program accesses and its temporary memory on the chip, as XLA counts
them. Nothing is run. `*` marks the implementation that the package chooses.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from jax.sharding import Mesh, NamedSharding, PartitionSpec  # noqa: E402

from cnn_jax.data import warp  # noqa: E402
from cnn_jax.ops.conv import lax as conv_lax  # noqa: E402
from cnn_jax.ops.conv import taps  # noqa: E402
from cnn_jax.ops.conv.spec import ConvSpec  # noqa: E402
from experiments.measuring import (make_out, row_in_new_process,  # noqa: E402
                                   run_script)

OUT = Path(__file__).parents[1] / "measured" / "accelerators"
LENET = ConvSpec((64, 28, 28, 1), (5, 5, 1, 6), strides=(1, 1),
                 padding=((2, 2), (2, 2)), lhs_dilation=(1, 1), rhs_dilation=(1, 1),
                 groups=1)
IMAGES, POSITIONS = (32, 128, 128, 3), (32, 128, 128)
HEAD = ("operation", "implementation", "compile s", "compile GB", "GB accessed",
        "GB temporary")


def weight_gradient(one_pass: Callable) -> Callable:
    def gradient(x: jax.Array, g: jax.Array) -> jax.Array:
        return one_pass(x, g, LENET)
    return gradient


GRADIENT = ((LENET.x_shape, jnp.bfloat16), (LENET.y_shape, jnp.bfloat16))
WARP = ((IMAGES, jnp.float32), (POSITIONS, jnp.float32), (POSITIONS, jnp.float32))
# (operation, form, function, shapes and dtypes of its arguments)
CHOICES = (
    ("weight gradient of LeNet-5's conv1, 64 images", "XLA",
     weight_gradient(conv_lax.weight_gradient), GRADIENT),
    ("weight gradient of LeNet-5's conv1, 64 images", "taps *",
     weight_gradient(taps.weight_gradient_unwidened), GRADIENT),
    ("warp of 32 images, 128 x 128 x 3", "gather", warp.by_gather, WARP),
    ("warp of 32 images, 128 x 128 x 3", "products *", warp.by_products, WARP),
)


def compile_choice(index: int) -> dict[str, Any]:
    """Compiles a row of `CHOICES` for one chip; it needs libtpu."""
    from experiments.programs import tpu_devices
    operation, form, function, arguments = CHOICES[index]
    one = NamedSharding(Mesh(np.array(tpu_devices("v5e:1x1")), "x"), PartitionSpec())
    lowered = jax.jit(function).lower(*(
        jax.ShapeDtypeStruct(*argument, sharding=one) for argument in arguments))
    memory, begun = peak_memory(), time.process_time()
    compiled = lowered.compile()
    return {"operation": operation, "form": form,
            "compile_s": time.process_time() - begun,
            "compile_bytes": peak_memory() - memory,
            "bytes": compiled.cost_analysis()["bytes accessed"],
            "temporary": compiled.memory_analysis().temp_size_in_bytes}


def peak_memory() -> int:
    """Returns the most bytes that this process has had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(rows: list[dict[str, Any]]) -> str:
    """Formats the rows."""
    body = [HEAD, *((row["operation"], row["form"], f"{row['compile_s']:.1f}", *(
        f"{row[part] / 1e9:.2f}" for part in ("compile_bytes", "bytes", "temporary")))
        for row in rows)]
    widths = [max(map(len, column)) for column in zip(*body)]
    return "\n".join("  ".join(cell.ljust(width) if i < 2 else cell.rjust(width)
                               for i, (cell, width) in enumerate(zip(row, widths)))
                     for row in body) + "\n"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--row", type=int, help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.row is not None:
        print(json.dumps(compile_choice(flags.row)))
        return
    make_out(flags.out)
    text = table([row_in_new_process(__file__, str(index))
                  for index in range(len(CHOICES))])
    (flags.out / "tpu_choices.txt").write_text(
        f"python experiments/tpu_choices.py   (jax {jax.__version__}; compiled for one "
        f"chip of a v5e, not run)\n\n{text}")
    print(text)


if __name__ == "__main__":
    run_script(main)
