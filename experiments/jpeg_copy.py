"""Measures what a JPEG copy of CIFAR-10 costs: the same runs on both pixels.

    python experiments/jpeg_copy.py --exact=cifar-10-python.tar.gz \\
        --copy=cifar-10-images-jpeg75.tar.gz runs/reproduce/*-jpeg/seed*

Each run was trained on the copy. It predicts the same test images twice, from the exact
pixels and from the copied ones. The copy is class folders whose k-th picture of a class
is the k-th test image of that class in the official order; the exact archive may hold
only the first test images. Prints both accuracies and their difference, with the
standard error of paired differences, for each run, and over the runs of an experiment.
Writes jpeg_copy.txt to `--out`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from cnn_jax import data  # noqa: E402
from cnn_jax.data.examples import Examples  # noqa: E402
from cnn_jax.data.official import read_cifar10_archive  # noqa: E402
from cnn_jax.errors import InputError  # noqa: E402
from cnn_jax.files import write_atomically  # noqa: E402
from cnn_jax.inspection.predict import predict_arrays  # noqa: E402
from configs import default  # noqa: E402
from experiments.measuring import make_out, run_script  # noqa: E402

LEAST_CORRELATION = 0.9  # of the pixels of a picture and its copy


def read_copy(path: Path) -> Examples:
    """Reads the test pictures of class folders."""
    config = default.get_config().data
    config.name, config.dir = "folder", str(path)
    return data.load(config, seed=0).test


def copies_of(exact: Examples, copy: Examples) -> np.ndarray:
    """Selects the copied picture of each exact image, [N, 32, 32, 3].

    Raises InputError if a picture is not a copy of its image.
    """
    rows = np.empty(len(exact.labels), np.int64)
    for label in np.unique(exact.labels):
        of_class, = np.nonzero(exact.labels == label)
        rows[of_class] = np.nonzero(copy.labels == label)[0][:len(of_class)]
    images = copy.images[rows]
    for i, (a, b) in enumerate(zip(exact.images, images)):
        correlation = np.corrcoef(a.ravel(), b.ravel())[0, 1]
        if correlation < LEAST_CORRELATION:
            raise InputError(
                f"--copy: picture {rows[i]} of the test split is not a copy of test "
                f"image {i} (correlation {correlation:.2f})")
    return images


def measure(workdir: Path, exact: Examples, copied: np.ndarray) -> np.ndarray:
    """Returns which images a run gets right, [2, N]: exact and copied."""
    return np.stack([predict_arrays(workdir, images)[1] == exact.labels
                     for images in (exact.images, copied)])


def line(name: str, right: np.ndarray) -> str:
    """Formats the accuracies and their difference over right [runs, 2, N].

    The standard error treats images as drawn at random, and averages over the runs.
    """
    gain = (right[:, 0].astype(float) - right[:, 1]).mean(0)
    error = gain.std(ddof=1) / np.sqrt(len(gain))
    on_exact, on_copy = right.mean((0, 2))
    return (f"{name:44}{len(right):3}{on_exact:10.4f}{on_copy:10.4f}"
            f"{gain.mean():+10.4f} ± {error:.4f}")


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workdirs", nargs="+", type=Path, metavar="WORKDIR")
    parser.add_argument("--exact", type=Path, required=True, metavar="ARCHIVE",
                        help="CIFAR-10 in its official form, or the first images of it")
    parser.add_argument("--copy", type=Path, required=True, metavar="PATH",
                        help="class folders of JPEG pictures, or their archive")
    parser.add_argument("--out", type=Path, default=Path("."), metavar="DIR")
    flags = parser.parse_args(argv)
    exact = read_cifar10_archive(flags.exact)["test"]
    copied = copies_of(exact, read_copy(flags.copy))
    runs: dict[str, list[np.ndarray]] = {}
    lines = [f"{len(exact.labels):,} test images",
             f"{'trained on the copy':44}{'n':>3}{'exact':>10}{'copy':>10}"
             f"{'difference':>19}"]
    for workdir in flags.workdirs:
        right = measure(workdir, exact, copied)
        runs.setdefault(workdir.parent.name, []).append(right)
        lines.append(line(f"{workdir.parent.name} {workdir.name}", right[None]))
    lines += [line(name, np.stack(rights)) for name, rights in runs.items()]
    text = "\n".join(lines) + "\n"
    print(text, end="")
    make_out(flags.out)
    write_atomically(flags.out / "jpeg_copy.txt", text)


if __name__ == "__main__":
    run_script(main)
