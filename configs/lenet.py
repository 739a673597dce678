"""LeNet-5 on real digits.

python main.py --config=configs/lenet.py
"""

from configs import default


def get_config(dataset: str = "digits"):
    config = default.get_config()
    with config.unlocked():
        config.model.name = "lenet5"
        config.model.fields.activation = "tanh"
        config.model.fields.pool = "mean"
        config.data.name = dataset
        config.data.image_size = (28, 28)
    return config
