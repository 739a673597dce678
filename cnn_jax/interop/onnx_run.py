"""Runs an ONNX file and compares it with the network that it was written from."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


class Validation(NamedTuple):
    """How an exported file compares with the network."""

    engine: str               # what ran the file: 'onnxruntime 1.23.2'
    difference: float         # the largest of all |output - expected|
    agreement: float          # the share of images, or pixels, with equal predictions
    images_per_second: float  # in batches of `batch_size`


def validate(path: Path, pixels: np.ndarray, expected: np.ndarray,
             batch_size: int = 64) -> Validation:
    """Runs an ONNX file on pixels and compares its output with what is expected.

    pixels: uint8 [n, H, W, C]; n >= 1.
    expected: the network's own output of the same kind, [n, ...]: probabilities, or
        logits if the file gives logits.
    ONNX Runtime runs the file where it is installed, else ONNX's own evaluator in
    NumPy, which is hundreds of times slower.
    """
    model = onnx.load(path)
    engine, run = open_session(path, model)
    run(pixels[:1])  # warms up
    start = time.perf_counter()
    output = np.concatenate([run(pixels[i:i + batch_size])
                             for i in range(0, len(pixels), batch_size)])
    seconds = time.perf_counter() - start
    return Validation(
        engine, float(np.abs(output - expected).max()),
        float((predict(model, output) == predict(model, expected)).mean()),
        len(pixels) / seconds)


def open_session(path: Path, model: onnx.ModelProto
                 ) -> tuple[str, Callable[[np.ndarray], np.ndarray]]:
    """Returns (name and version of the engine, pixels -> output of the file)."""
    session: Any
    try:
        import onnxruntime
    except ImportError:
        engine, session = f"onnx {onnx.__version__}", reference_evaluator(model)
    else:
        engine = f"onnxruntime {onnxruntime.__version__}"
        session = onnxruntime.InferenceSession(path,
                                               providers=["CPUExecutionProvider"])
    name = model.graph.input[0].name
    return engine, lambda pixels: np.asarray(*session.run(None, {name: pixels}))


def reference_evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Makes ONNX's own evaluator, with an LRN that is right.

    In onnx 1.23 a transposed convolution of several groups is wrong too; no registered
    network has one.
    """
    return ReferenceEvaluator(model, new_ops=[LRN])


class LRN(OpRun):
    """Local response norm; that of onnx 1.23 leaves out all channels c >= N."""

    op_domain = ""

    def _run(self, x: np.ndarray, alpha: float, beta: float, bias: float,
             size: int) -> tuple[np.ndarray]:
        before, after = (size - 1) // 2, size // 2
        padded = np.pad(x * x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))
        total = sum(padded[:, i:i + x.shape[1]] for i in range(size))
        return (x * (bias + alpha / size * total) ** -beta).astype(x.dtype),


def predict(model: onnx.ModelProto, output: np.ndarray) -> np.ndarray:
    """Predicts by the kind of a model's output.

    That is the likeliest class, or for independent classes whether each is likelier
    than not.
    """
    properties = {entry.key: entry.value for entry in model.metadata_props}
    return output > 0.5 if properties["output"] == "sigmoid" else output.argmax(-1)
