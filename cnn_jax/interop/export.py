"""Exports a trained network to other programs, and runs what it exported.

`FORMATS` has a row for each format. Every export is validated: the file is read back,
or run by the program that it is for, and its probabilities are compared with the
network's.
"""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np

from cnn_jax import data, ops
from cnn_jax.console import Reporter
from cnn_jax.data.examples import Examples
from cnn_jax.data.scaling import scale
from cnn_jax.errors import InputError, RunError
from cnn_jax.files import file_errors, write_json
from cnn_jax.interop.library_files import read_library, write_library
from cnn_jax.interop.stablehlo import read_stablehlo, write_stablehlo
from cnn_jax.interop.web import fetch_runtime, load_web, write_web
from cnn_jax.workdir.trained import Trained

BATCH = 64  # images per call in validation
NOISE = 256  # images of noise, for a network without data

Program = Callable[[np.ndarray], np.ndarray]  # uint8 [N, H, W, C] -> probabilities


class ExportFormat(NamedTuple):
    """Defines one export format.

    name: of the file or folder that is written.
    write: writes it; it may raise InputError for a network that it cannot express.
    load: makes the program that runs it; only files of weights need the `Trained`.
    tolerance: the largest difference of a probability that is accepted.
    fetch: downloads what `write` needs besides Python packages, with a progress bar.
    """

    name: str
    write: Callable[[Path, Trained], Path]
    load: Callable[[Path, Trained], Program]
    tolerance: float
    fetch: Callable[[Reporter], None] = lambda report: None


class Validation(msgspec.Struct):
    """Holds how an exported file compares with the network: a row of export.json."""

    file: str
    bytes: int
    images: int
    of: str                     # the source of the images, such as 'the test split'
    largest_difference: float   # of a probability
    tolerance: float
    accuracy: float | None      # of the network; None without labels
    exported_accuracy: float | None
    images_per_second: float    # of the network, in batches of 64
    exported_images_per_second: float


def write_onnx(path: Path, trained: Trained, fold: bool = True) -> Path:
    """Writes an ONNX file: uint8 pixels [N, H, W, C] -> probabilities.

    fold: see `onnx_file.to_onnx`.
    """
    # Imported here: onnx is an extra.
    from cnn_jax.interop import onnx_file
    from cnn_jax.interop.onnx_graph import onnx
    onnx.save(onnx_file.trained_to_onnx(trained, fold), path)
    return path


def load_onnx(path: Path, trained: Trained) -> Program:
    """Makes the program of an ONNX file, in ONNX Runtime if it is installed."""
    from cnn_jax.interop.onnx_run import read_onnx
    return read_onnx(path)


def weights_of(library: str, name: str) -> ExportFormat:
    """Makes the format that writes weights under the names of a library."""
    def load(path: Path, trained: Trained) -> Program:
        variables = read_library(library, path, trained)
        return program_of(trained._replace(variables=variables))

    return ExportFormat(name, functools.partial(write_library, library), load, 0.0)


FORMATS: dict[str, ExportFormat] = {
    "stablehlo": ExportFormat("model.stablehlo", write_stablehlo,
                        lambda path, _: read_stablehlo(path), 1e-5),
    "onnx": ExportFormat("model.onnx", write_onnx, load_onnx, 1e-4),
    "onnx_unfolded": ExportFormat("model_unfolded.onnx",
                            functools.partial(write_onnx, fold=False), load_onnx, 1e-4),
    "web": ExportFormat("web", write_web, load_web, 1e-4, fetch_runtime),
    "safetensors": weights_of("cnn_jax", "weights.safetensors"),
    "torchvision": weights_of("torchvision", "torchvision.safetensors"),
    "timm": weights_of("timm", "timm.safetensors"),
    "keras": weights_of("keras", "keras.h5"),
}

ONNX = ("onnx", "onnx_unfolded", "web")  # formats that are, or contain, an ONNX file


def chosen_formats(text: str) -> list[str]:
    """Splits 'onnx,stablehlo'. Raises InputError for a format that does not exist."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in FORMATS:
            raise InputError(f"--format={text}: there is no format {name!r}; known are "
                             f"{', '.join(FORMATS)}")
    if not names:
        raise InputError(f"--mode=export needs --format=FORMAT[,FORMAT] with any of "
                         f"{', '.join(FORMATS)}")
    return names


def export(trained: Trained, formats: Sequence[str], folder: Path, examples: Examples,
           of: str, report: Reporter) -> dict[str, Validation]:
    """Writes the formats into a folder, validates them, and writes export.json there.

    examples: images for the validation; their labels may be empty.
    of: the source of the images, such as 'the test split'.
    Raises RunError if a probability differs by more than the tolerance of its format.
    The files and export.json are complete even then.
    """
    numbers = data.task_of(trained.config.data).figures == "values"
    if numbers and (refused := {*ONNX}.intersection(formats)):
        raise InputError(f"--format={sorted(refused)[0]} is for networks that predict "
                         "classes, and this one predicts numbers: use stablehlo or "
                         "safetensors")
    with file_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    expected, speed = run(program_of(trained), examples.images)
    rows = {}
    for name in formats:
        target = FORMATS[name]
        target.fetch(report)
        with report.under_way(f"exporting {name}"), file_errors(folder / target.name):
            path = target.write(folder / target.name, trained)
        with report.under_way(f"validating {name} on {of}"):
            exported, exported_speed = run(target.load(path, trained), examples.images)
        rows[name] = Validation(
            str(path), size_of(path), len(exported), of,
            float(np.abs(exported - expected).max()), target.tolerance,
            accuracy(expected, examples.labels, trained),
            accuracy(exported, examples.labels, trained), round(speed, 1),
            round(exported_speed, 1))
        write_json(folder / "export.json", rows)  # also if a later format fails
        report.line(describe(name, rows[name]))
    for name, row in rows.items():
        if not row.largest_difference <= row.tolerance:
            raise RunError(
                f"{row.file} differs from the network: a probability differs by "
                f"{row.largest_difference:.2g}, more than {row.tolerance:g}; "
                f"{folder / 'export.json'} has the figures")
    return rows


def program_of(trained: Trained) -> Program:
    """Makes the program of the network itself, as evaluation runs it."""
    task, scaling = data.task_of(trained.config.data), trained.info.scaling

    def probabilities(variables: Any, pixels: jax.Array) -> jax.Array:
        logits = trained.network.apply(variables, scale(pixels, scaling), train=False)
        return task.probabilities(jax.numpy.asarray(logits, jax.numpy.float32))

    program, variables = ops.jit(probabilities), jax.device_put(trained.variables)
    return lambda pixels: np.asarray(program(variables, pixels))


def run(program: Program, images: np.ndarray) -> tuple[np.ndarray, float]:
    """Runs a program on all images: (probabilities, images per second).

    The programs of whole batches and of the last batch are compiled before timing.
    """
    starts = range(0, len(images), BATCH)
    for size in {len(images[start:start + BATCH]) for start in starts}:
        program(images[:size])
    begin = time.perf_counter()
    outputs = np.concatenate([program(images[i:i + BATCH]) for i in starts])
    return outputs, len(images) / (time.perf_counter() - begin)


def accuracy(probabilities: np.ndarray, labels: np.ndarray,
             trained: Trained) -> float | None:
    """Computes the fraction of correctly predicted labels; None without labels.

    A label of several classes is correct if all of them are.
    """
    task = data.task_of(trained.config.data)
    if not len(labels) or task.correct is None:
        return None
    if task.exclusive:
        return float((probabilities.argmax(-1) == labels).mean())
    predicted = probabilities[..., :labels.shape[-1]] > 0.5
    return float((predicted == labels).all(-1).mean())


def size_of(path: Path) -> int:
    """Adds up the bytes of a file, or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def describe(name: str, row: Validation) -> str:
    """Writes in one line how an export compares with the network."""
    figures = (f"accuracy {row.exported_accuracy:.4f} (network {row.accuracy:.4f}), "
               if row.accuracy is not None else "")
    return (f"{name}: {row.file}, {row.bytes / 1e6:.2f} MB; on {row.of}: {figures}"
            f"largest difference {row.largest_difference:.1e}, "
            f"{row.exported_images_per_second:,.0f} images/s (network "
            f"{row.images_per_second:,.0f})")


def noise(image_shape: tuple[int, int, int]) -> Examples:
    """Draws images of noise without labels, for a network without data."""
    images = np.random.default_rng(0).integers(0, 256, (NOISE, *image_shape), np.uint8)
    return Examples(images, np.zeros(0, np.int32))
