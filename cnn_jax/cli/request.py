"""Holds what a command line asks for."""

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.errors import InputError
from cnn_jax.workdir.folder import check_same_config, default_path


@dataclasses.dataclass(frozen=True)
class Request:
    """Holds one parsed command line."""

    mode: str
    config: ConfigDict | None
    workdir: Path | None
    paths: tuple[str, ...] = ()  # pictures or folders of pictures; compare: workdirs
    top: int = 3                 # predict: classes per picture
    json: bool = False           # predict: print JSON instead of text
    invert: bool = False         # exchange dark and bright
    output: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8000


def required_config(request: Request) -> ConfigDict:
    """Returns the config. Raises InputError if there is none."""
    if request.config is None:
        raise InputError(f"--mode={request.mode} needs --config=FILE, such as "
                         "--config=configs/lenet.py")
    return request.config


def required_run(request: Request) -> Path:
    """Returns the workdir of a run: --workdir, or where --config would train.

    Raises InputError if neither is given, or if the run has another config.
    """
    if request.workdir is None and request.config is None:
        raise InputError(f"--mode={request.mode} needs --workdir=FOLDER of a run, or "
                         "the --config that it was made with")
    path = request.workdir or default_path(request.config)
    if request.config is not None:
        check_same_config(path, request.config)
    return path.absolute()
