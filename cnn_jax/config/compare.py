"""Compares configs by the fields that change a result."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from cnn_jax import networks
from cnn_jax.config.fields import FIELDS, NETWORK_FIELDS
from cnn_jax.data import FOLDERS


def flat(config: Mapping[str, Any] | ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Flattens a config to {'data.name': 'digits', ...}.

    The network's own fields stay one mapping.
    """
    out: dict[str, Any] = {}
    for key, value in config.items():
        if (isinstance(value, Mapping | ConfigDict)
                and f"{prefix}{key}" != NETWORK_FIELDS):
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def recorded(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON values, with the network's `recorded_name`."""
    values = json.loads(config.to_json())
    values["model"]["name"] = networks.recorded_name(values["model"]["name"])
    return values


def to_json(config: ConfigDict) -> str:
    """Writes a config as readable JSON, with equal text for equal values."""
    return json.dumps(recorded(config), indent=2, sort_keys=True) + "\n"


def result_fields(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields that change a run's result, flat, as plain JSON values."""
    return {name: value for name, value in flat(recorded(config)).items()
            if name not in FIELDS or FIELDS[name].changes_result}


def changes(ours: ConfigDict, theirs: ConfigDict) -> dict[str, tuple[Any, Any]]:
    """Returns {field: (theirs, ours)} for each differing field that changes a result.
    """
    new, old = result_fields(ours), result_fields(theirs)
    return {field: (old.get(field), new.get(field))
            for field in sorted(new.keys() | old.keys())
            if new.get(field) != old.get(field)}


def differences(ours: ConfigDict, theirs: ConfigDict) -> list[str]:
    """Lists 'field: theirs -> ours' for each differing field that changes a result."""
    return [f"{field}: {old!r} -> {new!r}"
            for field, (old, new) in changes(ours, theirs).items()]


def as_flag(field: str, value: Any) -> list[str]:
    """Writes the flags that set a field to a JSON value."""
    if isinstance(value, Mapping):
        return [flag for key, item in value.items()
                for flag in as_flag(f"{field}.{key}", item)]
    if isinstance(value, list):
        value = tuple(value)
    spelling = {None: "none", True: "true", False: "false"}
    text = spelling[value] if value is None or isinstance(value, bool) else str(value)
    return [f"--config.{field}={text}"]


def fingerprint(config: ConfigDict) -> str:
    """Returns eight hex digits that differ where `result_fields` do.

    For sets of `data.FOLDERS`, 'tfds:NAME' and MODULE:FUNCTION, data.dir counts too,
    since it identifies the data.
    """
    values = result_fields(config)
    if config.data.name in FOLDERS or ":" in config.data.name:
        folder = config.data.dir
        values["data.dir"] = folder and os.path.abspath(folder)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
