r"""Trains a ResNet-18 to predict numbers for pictures, such as ages or weights.

    python main.py --config=configs/regression.py --config.data.dir=PHOTOS

PHOTOS holds one CSV file. Its first column names the pictures, the others are the
numbers; a column `split` may say train, validation or test. Without it, a fifth is cut
off at random for test, and a fifth of the rest for validation.

The network learns standardized numbers; the metrics (mean absolute error, R2) and the
predictions are in the units of the file. `--config.loss.name=mae` and `huber` are
less sensitive to outliers than the default, the squared error.
"""

from ml_collections import ConfigDict

from cnn_jax.configs import folder


def get_config() -> ConfigDict:
    config = folder.from_scratch()
    with config.unlocked():
        config.data.name = "csv"
        config.data.split = "random"
        config.data.validation = 0.2
    return config
