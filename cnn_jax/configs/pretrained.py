"""Sets the network and the preprocessing of pretrained weights.

python main.py --mode=summary --config=configs/pretrained.py:torchvision:resnet50
python main.py --mode=inspect --model=torchvision:resnet50 --images photos/ \
    --config.inspect.only=saliency

The second command adds this config by itself.
"""

from ml_collections import ConfigDict

from cnn_jax.interop.load import config_of


def get_config(source: str = "torchvision:resnet50") -> ConfigDict:
    return config_of(source)
