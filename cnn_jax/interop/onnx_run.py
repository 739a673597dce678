"""Runs an ONNX file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun


def read_onnx(path: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Makes the program of an ONNX file: uint8 pixels [N, H, W, C] -> its output.

    ONNX Runtime runs the file if it is installed; otherwise ONNX's own evaluator in
    NumPy does, which is hundreds of times slower.
    """
    session: Any
    try:
        import onnxruntime
    except ImportError:
        session = reference_evaluator(onnx.load(path))
        name = session.input_names[0]
    else:
        session = onnxruntime.InferenceSession(path,
                                               providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
    return lambda pixels: np.asarray(*session.run(None, {name: pixels}))


def reference_evaluator(model: onnx.ModelProto) -> ReferenceEvaluator:
    """Makes ONNX's own evaluator, with a correct LRN.

    In onnx 1.23 a transposed convolution with several groups is wrong too, but no
    registered network has one.
    """
    return ReferenceEvaluator(model, new_ops=[LRN])


class LRN(OpRun):
    """Computes local response norm. That of onnx 1.23 leaves out all channels c >= N.

    N is the batch size.
    """

    op_domain = ""

    def _run(self, x: np.ndarray, alpha: float, beta: float, bias: float,
             size: int) -> tuple[np.ndarray]:
        before, after = (size - 1) // 2, size // 2
        padded = np.pad(x * x, [(0, 0), (before, after)] + [(0, 0)] * (x.ndim - 2))
        total = sum(padded[:, i:i + x.shape[1]] for i in range(size))
        return (x * (bias + alpha / size * total) ** -beta).astype(x.dtype),
