"""How exact is each method of convolution, of those that `auto` chooses from?

    python experiments/conv_errors.py [--out=runs/conv_errors]

Computes the three passes of some convolutions in float32, on normally distributed
operands, by each method that supports them. An error is the largest difference from the
same pass in float64 / the largest entry of that. Writes conv_errors.txt.
"""

import argparse
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

from arms.worker import processor  # noqa: E402
from cnn_jax.native import cost, library, lowering  # noqa: E402
from cnn_jax.ops.conv import conv_spec, lax as conv_lax  # noqa: E402
from cnn_jax.ops.conv.spec import ConvSpec  # noqa: E402
from experiments.auto_grid import PASSES, methods  # noqa: E402
from experiments.measuring import make_out, run_script  # noqa: E402


def conv(batch: int, side: int, kernel: int, channels: int, filters: int,
         stride: int = 1, groups: int = 1) -> ConvSpec:
    return conv_spec((batch, side, side, channels),
                     (kernel, kernel, channels // groups, filters), stride, kernel // 2,
                     groups=groups)


CONVOLUTIONS = {
    "3 x 3, 64 to 64 channels, 32 x 32 pixels, 32 images": conv(32, 32, 3, 64, 64),
    "3 x 3, 512 to 512, 4 x 4, 32 images": conv(32, 4, 3, 512, 512),
    "3 x 3 by 2, 128 to 256, 28 x 28, 8 images": conv(8, 28, 3, 128, 256, 2),
    "1 x 1, 256 to 1,024, 14 x 14, 8 images": conv(8, 14, 1, 256, 1024),
    "5 x 5, 48 to 64, 35 x 35, 4 images": conv(4, 35, 5, 48, 64),
    "7 x 7 by 2, 3 to 64, 224 x 224, 8 images": conv(8, 224, 7, 3, 64, 2),
    "3 x 3 depthwise, 256, 28 x 28, 16 images": conv(16, 28, 3, 256, 256, 1, 256),
}
SHORT_NAMES = {cost.NAMES[cost.WINOGRAD_4]: "F(4 x 4)",
              cost.NAMES[cost.WINOGRAD_2]: "F(2 x 2)",
              cost.NAMES[cost.IM2COL]: "im2col", cost.NAMES[cost.ONEDNN]: "oneDNN"}
COLUMNS = "lax", "pure JAX", *SHORT_NAMES.values()


def errors(kind: int, spec: ConvSpec) -> dict[str, float]:
    """Returns the error of each method that supports the pass."""
    shapes = {"x": spec.x_shape, "w": spec.w_shape, "y": spec.y_shape}
    draw = np.random.default_rng(kind)
    operands = [draw.standard_normal(shapes[role], np.float32)
                for role in lowering.ROLES[kind][:2]]
    with jax.enable_x64(True):
        exact = np.asarray(jax.jit(lambda a, b: conv_lax.passes[kind](a, b, spec))(
            *(jnp.asarray(array, jnp.float64) for array in operands)))
    computed = {SHORT_NAMES.get(name, name): np.asarray(jax.jit(method)(*operands))
                for name, method in methods(kind, spec).items()}
    return {name: float(np.abs(array - exact).max() / np.abs(exact).max())
            for name, array in computed.items()}


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/conv_errors"))
    out = parser.parse_args(argv).out
    make_out(out)
    lines = [f"{processor()}; jax {jax.__version__}; {library.describe()}"]
    for name, spec in CONVOLUTIONS.items():
        lines.append(f"\n{name:52}" + "".join(f"{column:>10}" for column in COLUMNS))
        for kind, title in enumerate(PASSES):
            row = errors(kind, spec)
            lines.append(f"  {title:50}" + "".join(
                f"{row[column]:10.1e}" if column in row else f"{'-':>10}"
                for column in COLUMNS))
    print("\n".join(lines))
    (out / "conv_errors.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    run_script(main)
