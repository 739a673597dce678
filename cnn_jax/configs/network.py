"""Sets all of a network's own fields, so that the command line can change them.

python main.py --config=configs/network.py:NAME --config.model.fields.FIELD=VALUE
python main.py --mode=summary --config=configs/network.py:mobilenet_v1 \
  --config.model.fields.width=0.5

NAME is one of `cnn_jax.networks.NETWORKS`. Images are converted to the size and the
channels that the network was published for; config.data.image_size and
config.data.channels change that.
"""

from ml_collections import ConfigDict

from cnn_jax import networks
from cnn_jax.configs import default


def get_config(name: str = "lenet5") -> ConfigDict:
    fields = networks.variant_fields(name)
    config = default.get_config()
    with config.unlocked():
        config.model.name = name
        config.model.fields.update(fields)
        *size, channels = networks.NETWORKS[name].input_shape
        config.data.image_size, config.data.channels = tuple(size), channels
    return config
