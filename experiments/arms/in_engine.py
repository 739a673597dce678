"""A worker that infers: in cnn_jax, with or without `inference`, or in an engine.

The engines run the ONNX file that `--mode=export` writes, with batch norm folded.
"""

import json
import sys
from collections.abc import Callable

import jax
import numpy as np

from arms.in_jax import load
from arms.worker import serve
from cnn_jax import inference, networks
from cnn_jax.interop.onnx_file import to_onnx
from cnn_jax.native import library
from cnn_jax.networks.graph import layer_graph
from cnn_jax.workdir.machine import core_count

SCALING = 127.5, 1 / 127.5  # (pixel - offset) * factor
CORES = core_count()


def onnx_bytes(net, variables, shape) -> bytes:
    graph = layer_graph(net, jax.tree.map(np.asarray, variables), shape)
    return to_onnx(graph, SCALING, output="logits").SerializeToString()


def onnxruntime(net, variables, images) -> tuple[Callable, str]:
    import onnxruntime as ort
    options = ort.SessionOptions()
    options.intra_op_num_threads = CORES
    session = ort.InferenceSession(
        onnx_bytes(net, variables, images.shape[1:]), options,
        providers=["CPUExecutionProvider"])
    feed = {session.get_inputs()[0].name: images}
    return lambda: session.run(None, feed)[0], f"onnxruntime {ort.__version__}"


def openvino(net, variables, images) -> tuple[Callable, str]:
    import openvino as ov
    model = ov.Core().read_model(onnx_bytes(net, variables, images.shape[1:]))
    model.reshape(images.shape)
    compiled = ov.Core().compile_model(model, "CPU", {
        "INFERENCE_NUM_THREADS": CORES, "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32"})
    request = compiled.create_infer_request()
    return lambda: request.infer([images])[0], f"openvino {ov.__version__}"


def ours(net, variables, images) -> tuple[Callable, str]:
    predict = inference.compile(net, variables, images.shape[1:])
    scaled = jax.jit(lambda images: predict(scale(images)))
    return lambda: np.asarray(scaled(images)), library.describe()


def scale(images):
    offset, factor = SCALING
    return (images.astype(np.float32) - offset) * factor


def unfused(net, variables, images) -> tuple[Callable, str]:
    predict = jax.jit(lambda variables, x: net.apply(
        variables, scale(x), train=False))
    return lambda: np.asarray(predict(variables, images)), f"jax {jax.__version__}"


ENGINES = {"ours": ours, "unfused": unfused, "onnxruntime": onnxruntime,
           "openvino": openvino}


def main(engine: str, network: str, classes: int, file: str) -> None:
    arrays = dict(np.load(file))
    images = np.clip(64 * arrays.pop("images") + 128, 0, 255).astype(np.uint8)
    arrays.pop("labels")
    net = networks.create(network, classes)
    variables = load(net, scale(images[:1]), arrays)
    predict, version = ENGINES[engine](net, variables, images)

    def infer(count):
        for _ in range(count):
            predict()
    serve({"logits": np.asarray(predict()).tolist(), "version": version},
          {"infer": infer})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
