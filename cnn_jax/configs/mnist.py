"""Trains the CNN of Keras' examples and the ai-edu tutorial's CNN and DNN on MNIST.

python main.py --config=configs/mnist.py:VARIANT --config.seed=S
python experiments/reproduce.py --only mnist_VARIANT           # all seeds, and the row
(Measured figures are in measured/accuracy/RESULTS.md.)

The 10,000 test images are evaluated once, with the parameters of the best validation
epoch. The published figures are those of the last epoch.
"""

from ml_collections import ConfigDict

from cnn_jax.configs import default


def get_config(variant: str = "keras") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/mnist.py:{variant} is not a variant; there are "
                         f"{', '.join(VARIANTS)}")
    config = default.get_config()
    with config.unlocked():
        config.data.name = "mnist"
        config.data.image_size = (28, 28)
        config.data.scaling = "unit"
        config.batch_size = 128
        config.early_stopping.patience = None
        VARIANTS[variant](config)
    return config


def keras(config: ConfigDict) -> None:
    """Trains Keras' CNN, 34,826 parameters, for 15 epochs by Adam.

    It validates on the last 6,000 training images. Published: test accuracy 0.9893,
    loss 0.0366, one run.
    """
    config.model.name = "mnist_cnn"
    config.model.init = "keras"
    config.data.validation = 0.1
    config.data.split = "last"
    config.epochs = 15
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 1e-3


def cnn(config: ConfigDict) -> None:
    """Trains the tutorial's CNN, 12,042 parameters, for 5 epochs.

    Momentum, rate 0.1; it validates on 5,000 images. Published: test accuracy
    0.9865, one run.
    """
    config.model.name = "ai_edu_mnist_cnn"
    tutorial(config)
    config.epochs = 5
    config.optimizer.name = "momentum"
    config.optimizer.momentum = 0.9
    config.optimizer.learning_rate = 0.1


def dnn(config: ConfigDict) -> None:
    """Trains 784-64-16-10 with sigmoid and tanh, 51,450 parameters, for 40 epochs.

    SGD, rate 0.2. Published: test accuracy 0.9749, one run.
    """
    config.model.name = "ai_edu_mnist_dnn"
    tutorial(config)
    config.steps_per_call = 16  # see configs/shapes.py
    config.epochs = 40
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.2


def tutorial(config: ConfigDict) -> None:
    """Sets what both networks of the tutorial share.

    Like the tutorial, which shuffles first, it validates on 60,000 // 12 images.
    """
    config.model.init = "ai_edu_xavier"
    config.data.scaling = "minmax"
    config.data.validation_count = 5000
    config.data.split = "first"


def keras_ours(config: ConfigDict) -> None:
    """Trains `keras` with the dropout of Keras' example and the recipe of `ours`."""
    keras(config)
    config.model.fields.dropout = 0.5
    ours(config)


def cnn_ours(config: ConfigDict) -> None:
    """Trains `cnn` for as many epochs, with Adam and the recipe of `ours`."""
    cnn(config)
    config.model.init = "glorot"
    config.optimizer.name = "adam"
    ours(config)


def ours(config: ConfigDict) -> None:
    """Sets our recipe: the one-cycle schedule and small shifts."""
    config.optimizer.learning_rate = 4e-3
    config.schedule.name = "onecycle"
    config.augment.width_shift_range = 0.05
    config.augment.height_shift_range = 0.05
    config.augment.fill_mode = "constant"


VARIANTS = {"keras": keras, "cnn": cnn, "dnn": dnn, "keras_ours": keras_ours,
            "cnn_ours": cnn_ours}
