"""A worker that trains in Keras 3, on the backend that KERAS_BACKEND names."""

import json
import sys

import keras
import numpy as np
from keras import layers

from arms.networks import NETWORKS
from arms.worker import serve

NORM = {"gamma": "scale", "beta": "bias", "moving_mean": "mean",
        "moving_variance": "var"}


class Make:
    """Makes layers of Keras' functional API under our names; images are [N, H, W, C].
    """

    def conv(self, x, name, features, size, stride=1, padding=None, bias=True):
        if padding is None and stride > 1:
            x, padding = self.zero_pad(x, size // 2) if size > 1 else x, 0
        return layers.Conv2D(features, size, stride, "same" if padding is None
                             else "valid", use_bias=bias, name=name)(x)

    def separable(self, x, name, features, size):
        return layers.SeparableConv2D(features, size, padding="same", name=name)(x)

    def batch_norm(self, x, name, epsilon=1e-5, momentum=.9):
        return layers.BatchNormalization(momentum=momentum, epsilon=epsilon,
                                         name=name)(x)

    def dense(self, x, name, features):
        return layers.Dense(features, name=name)(x)

    def dropout(self, x, name, rate):
        return layers.Dropout(rate, name=name)(x)

    def zero_pad(self, x, pixels):
        return layers.ZeroPadding2D(pixels)(x)

    def max_pool(self, x, size, stride=None, padding=0):
        # After a ReLU, padding with zeros does not change the maximum.
        x = self.zero_pad(x, padding) if padding else x
        return layers.MaxPooling2D(size, stride)(x)

    def avg_pool(self, x, size):
        return layers.AveragePooling2D(size)(x)

    def global_avg_pool(self, x):
        return layers.GlobalAveragePooling2D()(x)

    def flatten(self, x):
        return layers.Flatten()(x)

    def add(self, x, y):
        return layers.Add()([x, y])

    def relu(self, x):
        return layers.Activation("relu")(x)

    def selu(self, x):
        return layers.Activation("selu")(x)

    def tanh(self, x):
        return layers.Activation("tanh")(x)


class SameBatch(keras.utils.PyDataset):
    """An epoch that consists of `count` copies of one batch."""

    def __init__(self, images, labels, count):
        super().__init__()
        self.batch, self.count = (images, labels), count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.batch


def our_name(layer, variable) -> str:
    name, part = layer.name.replace(".", "/"), variable.name
    if isinstance(layer, layers.BatchNormalization):
        return f"{name}/{NORM[part]}"
    if isinstance(layer, layers.SeparableConv2D):
        part = {"depthwise_kernel": "depthwise/kernel", "bias": "pointwise/bias",
                "pointwise_kernel": "pointwise/kernel"}[part]
    return f"{name}/{part}"


def load(model, variables: dict[str, np.ndarray]) -> None:
    """Copies our parameters, {"stage1/conv1/kernel": array}; all must be used."""
    left = dict(variables)
    for layer in model.layers:
        for variable in layer.weights:
            if "seed" in variable.name:
                continue
            value = left.pop(our_name(layer, variable))
            if variable.name == "depthwise_kernel":  # [k, k, C, 1] in Keras
                value = value.transpose(0, 1, 3, 2)
            variable.assign(value)
    if left:
        raise ValueError(f"the Keras network has no {', '.join(left)}")


def main(network: str, classes: int, file: str, dtype: str) -> None:
    """Trains on the arrays of `file`: images, labels and our variables.

    dtype: of the computation; parameters stay float32.
    """
    if dtype != "float32":
        keras.config.set_dtype_policy(f"mixed_{dtype}")
    arrays = dict(np.load(file))
    images, labels = arrays.pop("images"), arrays.pop("labels")
    inputs = keras.Input(images.shape[1:])
    model = keras.Model(inputs, NETWORKS[network](Make(), inputs, classes))
    load(model, arrays)
    model.compile(keras.optimizers.SGD(.01, momentum=.9),
                  keras.losses.SparseCategoricalCrossentropy(from_logits=True))

    def train(count):
        history = model.fit(SameBatch(images, labels, count), verbose=0)
        return float(history.history["loss"][-1])

    def infer(count):
        for _ in range(count):
            logits = model.predict_on_batch(images)
        return np.asarray(logits, np.float32)

    logits = infer(1)[:4].tolist()
    serve({"logits": logits, "losses": [train(1) for _ in range(3)],
           "version": f"keras {keras.__version__} on {keras.backend.backend()}",
           "params": sum(int(np.prod(w.shape)) for w in model.trainable_weights)},
          {"train": train, "infer": infer})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
