"""Makes the first training step of a network in one library, and ends the process.

    python -m arms.first ARM NETWORK BATCH SIDE CHANNELS

ARM is a function below. The line that it prints has the seconds since BEGAN, the time
at which the parent started the process, the CPU seconds of the process, and its memory
in bytes.
"""

import json
import os
import resource
import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
BEGAN = "CNN_JAX_FIRST_STEP_BEGAN"  # environment variable: time.time()
CLASSES = 10


def finish() -> None:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"seconds": time.time() - float(os.environ[BEGAN]),
                      "cpu_seconds": usage.ru_utime + usage.ru_stime,
                      "memory": resident_bytes()}), flush=True)
    os._exit(0)


def resident_bytes() -> int:
    """Returns the memory of this process, by /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main_py(*arguments: str) -> None:
    """Runs main.py up to the end of its first step, data and files included."""
    from cnn_jax.huge_pages import use_huge_pages
    use_huge_pages()  # restarts this program, as it restarts main.py
    import jax

    from cnn_jax.training import loop
    compile_training = loop.compile_training

    def last(program):
        def run(*arrays):
            jax.block_until_ready(program(*arrays))
            finish()
        return run

    loop.compile_training = lambda *args: {
        key: last(program) for key, program in compile_training(*args).items()}
    sys.argv = ["main.py", *arguments]
    runpy.run_path(str(ROOT / "main.py"), run_name="__main__")


def flax(network: str, batch: int, side: int, channels: int) -> None:
    """Trains in plain Flax: `jit` of the initialization, then of a step of optax.sgd.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from arms.plain_flax import PlainFlax
    from cnn_jax import networks

    net = networks.create(network, CLASSES, PlainFlax())
    images, labels = jnp.ones((batch, side, side, channels)), jnp.zeros(batch, int)
    optimizer = optax.sgd(0.01, momentum=0.9)

    @jax.jit
    def start(key):
        variables = net.init(key, images[:1], train=False)
        return variables, optimizer.init(variables["params"])

    @jax.jit
    def step(variables, state, images, labels):
        def loss(params):
            logits, updates = net.apply(variables | {"params": params}, images,
                                        train=True, mutable=["batch_stats"])
            return optax.softmax_cross_entropy_with_integer_labels(
                logits, labels).mean(), updates
        grads, updates = jax.grad(loss, has_aux=True)(variables["params"])
        changes, state = optimizer.update(grads, state)
        params = optax.apply_updates(variables["params"], changes)
        return variables | updates | {"params": params}, state

    jax.block_until_ready(step(*start(jax.random.key(0)), images, labels))


def torch_compile(network: str, batch: int, side: int, channels: int) -> None:
    """Trains with torch.compile: torchvision's network, or a LeNet-5, with SGD."""
    import torch
    from torch import nn

    if network == "lenet5":
        model = nn.Sequential(
            nn.Conv2d(channels, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(),
            nn.Linear(84, CLASSES))
    else:
        import torchvision
        model = torchvision.models.get_model(network, num_classes=CLASSES)
    images = torch.ones(batch, channels, side, side)
    labels = torch.zeros(batch, dtype=torch.long)
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    compiled = torch.compile(model)
    nn.functional.cross_entropy(compiled(images), labels).backward()
    optimizer.step()


def keras(network: str, batch: int, side: int, channels: int) -> None:
    """Trains by `train_on_batch` of Keras on TensorFlow: keras.applications or LeNet-5.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras as library
    import numpy as np

    layers, shape = library.layers, (side, side, channels)
    if network == "lenet5":
        model = library.Sequential([
            library.Input(shape),
            layers.Conv2D(6, 5, padding="same", activation="relu"),
            layers.MaxPooling2D(), layers.Conv2D(16, 5, activation="relu"),
            layers.MaxPooling2D(), layers.Flatten(),
            layers.Dense(120, activation="relu"), layers.Dense(84, activation="relu"),
            layers.Dense(CLASSES)])
    else:
        make = {"resnet50": library.applications.ResNet50,
                "densenet121": library.applications.DenseNet121}[network]
        model = make(weights=None, input_shape=shape, classes=CLASSES,
                     classifier_activation=None)
    model.compile(library.optimizers.SGD(0.01, 0.9),
                  library.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.train_on_batch(np.ones((batch, *shape), np.float32), np.zeros(batch, int))


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    arm, *given = sys.argv[1:]
    if arm == "main_py":
        main_py(*given)
    else:
        name, *numbers = given
        globals()[arm](name, *map(int, numbers))
        finish()
