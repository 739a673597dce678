"""Defines the parsed command line, and the config and run that it names."""

import dataclasses
import re
from pathlib import Path

from ml_collections import ConfigDict

from cnn_jax.config import fingerprint
from cnn_jax.errors import InputError
from cnn_jax.interop.load import config_of, is_file, load_pretrained
from cnn_jax.workdir.folder import EVALUATION, check_same_config, default_path
from cnn_jax.workdir.imported import is_imported, write_imported


@dataclasses.dataclass(frozen=True)
class Request:
    """Holds one parsed command line."""

    mode: str
    config: ConfigDict | None
    workdir: Path | None
    model: str | None = None     # pretrained weights, see interop/load.py
    paths: tuple[str, ...] = ()  # pictures or folders of pictures; compare: workdirs
    top: int = 5                 # predict: classes per picture
    json: bool = False           # predict: print JSON instead of text
    invert: bool = False         # exchange dark and bright
    output: Path | None = None
    format: str = ""             # export: formats, 'onnx,stablehlo'
    host: str = "127.0.0.1"
    port: int = 8000
    rates: str | None = None     # lr_find: 'N' or 'N:LOW:HIGH'
    auto_rate: bool = False      # train: find the learning rate first
    empty: str = ""              # caches: which to empty, 'pictures,weights'
    profile_steps: str | None = None  # train: 'FIRST:STOP'
    roofline: str | None = None  # summary: a device of networks.roofline
    diagram: Path | None = None  # summary: a file of networks.diagram


def required_config(request: Request) -> ConfigDict:
    """Returns the config. Raises InputError if there is none."""
    if request.config is None:
        raise InputError(f"--mode={request.mode} needs --config=FILE, such as "
                         "--config=configs/lenet.py")
    return request.config


def imported_run(source: str, config: ConfigDict | None, workdir: Path | None) -> Path:
    """Returns the workdir of a pretrained network; imports it if it is not there."""
    name = Path(source).stem if is_file(source) else re.sub(r"[^\w.-]+", "-", source)
    config = config or config_of(source)
    path = workdir or Path("runs") / f"{name}-{fingerprint(config)}"
    if not is_imported(path):
        write_imported(path, load_pretrained(source, config))
    check_same_config(path, config)
    return path.absolute()


def required_run(request: Request) -> Path:
    """Returns the workdir of a run: --workdir, or where --config would train.

    With --model it is the folder into which the pretrained network is imported.
    Raises InputError if none is given, or if the run has another config.
    """
    if request.model is not None:
        return imported_run(request.model, request.config, request.workdir)
    if request.workdir is None and request.config is None:
        raise InputError(f"--mode={request.mode} needs --workdir=FOLDER of a run, the "
                         "--config that it was made with, or --model=SOURCE of "
                         "pretrained weights, such as torchvision:resnet50")
    path = request.workdir or default_path(request.config)
    if request.config is not None:
        check_same_config(path, request.config, EVALUATION)
    return path.absolute()
