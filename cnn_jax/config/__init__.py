"""The table of all config fields, and functions of whole configs."""

from cnn_jax.config.compare import (as_flag, changes, differences, fingerprint, flat,
                                    result_fields, to_json)
from cnn_jax.config.fields import FIELDS, Field, default_config
from cnn_jax.config.validate import (ALIASES, check, check_fields, from_json, is_field,
                                     unknown_field)

__all__ = [
    "FIELDS", "Field", "check", "default_config", "differences", "fingerprint",
    "from_json", "to_json"]
