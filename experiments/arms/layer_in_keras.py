"""A worker that runs one convolution or max pool, and its gradient, in Keras."""

import json
import os
import sys

os.environ["KERAS_BACKEND"] = "tensorflow"

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from arms.worker import FirstUse, serve  # noqa: E402


def main(file: str, stride: int, padding: str, groups: int) -> None:
    """Reads x, g and, for a convolution, w from `file`; writes the results to it."""
    first = FirstUse()
    arrays = dict(np.load(file))
    x, g = tf.constant(arrays["x"]), tf.constant(arrays["g"])
    operands = [x]
    if "w" in arrays:
        w = arrays["w"]
        operands.append(tf.constant(w if groups == 1 else w.transpose(0, 1, 3, 2)))

    @tf.function
    def operation(x, *weights):
        if not weights:
            return keras.ops.max_pool(x, stride, stride, padding.lower())
        kind = keras.ops.conv if groups == 1 else keras.ops.depthwise_conv
        return kind(x, *weights, stride, padding.lower())

    @tf.function
    def gradients(g, *operands):
        with tf.GradientTape() as tape:
            tape.watch(operands)
            y = operation(*operands)
        return y, tape.gradient(y, operands, g)

    def forward(count):
        for _ in range(count):
            y = operation(*operands)
        return y.numpy()

    def both(count):
        for _ in range(count):
            y, grads = gradients(g, *operands)
        return y, [d.numpy() for d in grads]

    y, (dx, *dw) = both(1)
    forward(1)
    facts = first.facts()
    np.savez(file, y=y, dx=dx, **{
        "dw": d if groups == 1 else d.transpose(0, 1, 3, 2) for d in dw})
    version = f"keras {keras.__version__}, tensorflow {tf.__version__}"
    serve({"version": version} | facts, {"forward": forward, "both": both})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
