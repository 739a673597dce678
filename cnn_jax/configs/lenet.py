"""Trains LeNet-5 (61,706 parameters on grey images) on small real data sets.

python main.py --config=configs/lenet.py                  # the digits of scikit-learn
python main.py --config=configs/lenet.py:mnist            # or fashion_mnist, cifar10
python experiments/reproduce.py --only lenet_mnist       # all seeds, and the row
(Measured figures are in measured/accuracy/RESULTS.md.)

The network has ReLU and max pooling, as is usual today. For the paper's network, add
`--config.model.fields.activation=tanh --config.model.fields.pool=mean`. All variants
train with Adam and the one-cycle schedule.
"""

from ml_collections import ConfigDict

from cnn_jax.configs import default


def get_config(variant: str = "digits") -> ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"configs/lenet.py:{variant} is not a variant; there are "
                         f"{', '.join(VARIANTS)}")
    config = default.get_config()
    with config.unlocked():
        config.model.name = "lenet5"
        config.model.fields.activation = "relu"
        config.model.fields.pool = "max"
        config.data.name = variant
        config.schedule.name = "onecycle"
        config.early_stopping.patience = None  # the best epochs are the cycle's last
        VARIANTS[variant](config)
    return config


def digits(config: ConfigDict) -> None:
    """Enlarges 1,294 training images of 8 x 8 pixels, and augments them."""
    config.data.image_size = (28, 28)
    config.epochs = 60
    config.batch_size = 32
    config.checkpoint.monitor = "val_loss"  # accuracies of 144 images often tie
    config.optimizer.learning_rate = 2e-3
    config.augment.rotation_range = 10.0
    config.augment.width_shift_range = 0.08
    config.augment.height_shift_range = 0.08
    config.augment.zoom_range = 0.1
    config.augment.shear_range = 5.0
    config.augment.fill_mode = "constant"


def mnist(config: ConfigDict) -> None:
    """Trains five epochs; shifts by a pixel add about 0.001 of accuracy."""
    config.data.image_size = (28, 28)
    config.epochs = 5
    config.batch_size = 64
    config.optimizer.learning_rate = 2e-3
    config.augment.width_shift_range = 0.05
    config.augment.height_shift_range = 0.05
    config.augment.fill_mode = "constant"


def fashion_mnist(config: ConfigDict) -> None:
    """Trains ten epochs."""
    config.data.image_size = (28, 28)
    config.epochs = 10
    config.optimizer.learning_rate = 3e-3


def cifar10(config: ConfigDict) -> None:
    """Trains 62,006 parameters on colour images."""
    config.data.image_size = (32, 32)
    config.data.channels = 3
    config.epochs = 20
    config.optimizer.learning_rate = 3e-3
    config.augment.width_shift_range = 0.1
    config.augment.height_shift_range = 0.1
    config.augment.horizontal_flip = True


VARIANTS = {"digits": digits, "mnist": mnist, "fashion_mnist": fashion_mnist,
            "cifar10": cifar10}
