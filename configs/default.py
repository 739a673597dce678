"""Every field at its default. The other configs change what differs.

`cnn_jax/config/fields.py` says of each field what it means and what it may be.
"""

from ml_collections import ConfigDict

from cnn_jax.config import default_config


def get_config() -> ConfigDict:
    return default_config()
