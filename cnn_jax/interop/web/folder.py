"""Writes a folder that runs a trained network in a browser, offline.

    index.html, *.css, *.js             the page; it needs no build step
    about.js                            what the page knows about the run
    embedded/NAME.0.js, NAME.1.js, ...  ONNX Runtime and the network, in parts

The page works from any web server, and from a folder by a double click. A page opened
from a folder may not fetch files, but it may run scripts. So every file that it reads
is a script.
"""

import base64
import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cnn_jax.console import Reporter
from cnn_jax.data.images import MAX_PIXELS
from cnn_jax.files import write_atomically
from cnn_jax.interop.web.npm import RUNTIME, fetch_package, read_package
from cnn_jax.serve import about
from cnn_jax.workdir.trained import Trained

PAGE = Path(__file__).parent / "page"
RUNTIME_FILES = {"runtime.mjs": "dist/ort.wasm.bundle.min.mjs",
                 "runtime.wasm": "dist/ort-wasm-simd-threaded.wasm"}
MODEL = "model.onnx"
BEST = 5          # classes that are shown
PART = 6 * 2**20  # bytes before base64; some hosts limit a file to 25 MB
HEAD, TAIL = 'received = "', '";\n'  # of a part; see readPart in local.js


def fetch_runtime(report: Reporter) -> None:
    """Downloads ONNX Runtime for browsers (33 MB), unless it is in the cache."""
    fetch_package(RUNTIME, report)


def write_web(folder: Path, trained: Trained) -> Path:
    """Writes the page of a trained network, and returns the folder.

    ONNX Runtime for browsers is downloaded from npm once (33 MB).
    Raises InputError for a network that ONNX cannot express, without the package onnx,
    and without a connection for the first download.
    """
    # Imported here: onnx is an extra.
    from cnn_jax.interop.onnx_file import trained_to_onnx
    model = trained_to_onnx(trained)
    runtime = read_package(fetch_package(RUNTIME), tuple(RUNTIME_FILES.values()))
    files = dict(zip(RUNTIME_FILES, runtime)) | {MODEL: model.SerializeToString()}
    (folder / "embedded").mkdir(parents=True, exist_ok=True)
    for path in [*(about.PAGE / name for name in about.SHARED), *PAGE.iterdir()]:
        shutil.copyfile(path, folder / path.name)
    parts = {name: embed(folder / "embedded" / name, content)
             for name, content in files.items()}
    outputs = model.graph.output[0].type.tensor_type.shape.dim[-1].dim_value
    facts = describe(trained, outputs, len(files[MODEL])) | {"parts": parts}
    write_atomically(folder / "about.js",
                     f"const ABOUT = {json.dumps(facts, indent=1)};\n")
    return folder


def load_web(folder: Path, trained: Trained) -> Callable[[np.ndarray], np.ndarray]:
    """Makes the program of the network in a folder: pixels -> probabilities.

    It runs in ONNX Runtime for Python, if that is installed.
    """
    from cnn_jax.interop.onnx_run import read_onnx
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / MODEL
        path.write_bytes(extract(folder / "embedded" / MODEL))
        return read_onnx(path)


def embed(path: Path, content: bytes) -> int:
    """Writes content as scripts PATH.0.js, PATH.1.js, ...; returns their number.

    It is compressed by gzip and encoded in base64.
    """
    for old in parts_of(path):  # of a larger network
        old.unlink()
    zipped = gzip.compress(content, 6, mtime=0)
    starts = range(0, len(zipped), PART)
    for i, start in enumerate(starts):
        text = base64.b64encode(zipped[start:start + PART]).decode()
        write_atomically(path.with_name(f"{path.name}.{i}.js"), HEAD + text + TAIL)
    return len(starts)


def extract(path: Path) -> bytes:
    """Reads what `embed` has written."""
    return gzip.decompress(b"".join(
        base64.b64decode(part.read_text()[len(HEAD):-len(TAIL)])
        for part in parts_of(path)))


def parts_of(path: Path) -> list[Path]:
    """Finds PATH.0.js, PATH.1.js, ... in the order of their numbers."""
    return sorted(path.parent.glob(f"{path.name}.*.js"),
                  key=lambda part: int(part.suffixes[-2][1:]))


def describe(trained: Trained, outputs: int, size: int) -> dict[str, Any]:
    """Returns what the page needs to know about a run; see local.js.

    outputs: the number of outputs of the network. size: bytes of the model.
    """
    prepared = trained.info.preprocessing
    return about.describe_run(trained, outputs) | {
        "summary": summary(trained, size), "few": BEST, "best": BEST, "invert": False,
        "max_pixels": MAX_PIXELS, "preprocessing": {
            "size": prepared.size, "shorter_side": prepared.shorter_side,
            "interpolation": prepared.interpolation}}


def summary(trained: Trained, size: int) -> str:
    """Says how large a network is and, if it was trained here, how accurate."""
    count = sum(leaf.size for leaf in jax.tree.leaves(trained.variables["params"]))
    facts = [f"{count:,} parameters", f"{size / 1e6:.1f} MB"]
    epoch = next((row for row in trained.history if row["step"] == trained.step), {})
    if "val_accuracy" in epoch:
        facts.append(f"validation accuracy {100 * epoch['val_accuracy']:.1f} %")
    return ", ".join(facts)
