"""Sets every field to its default; the other configs change some of them.

`cnn_jax/config/fields.py` explains each field and says which values it allows.
"""

from ml_collections import ConfigDict

from cnn_jax.config import default_config


def get_config() -> ConfigDict:
    return default_config()
