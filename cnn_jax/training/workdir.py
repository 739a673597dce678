"""The folder of one run: one config, one writer, and what was learnt about the data."""

import contextlib
import json
from pathlib import Path
from typing import NamedTuple

import filelock
import jax
from ml_collections import ConfigDict

from cnn_jax.data import Dataset
from cnn_jax.data.scaling import SCALINGS, Scaling
from cnn_jax.errors import InputError
from cnn_jax.training.config import check, differences, fingerprint, to_json
from cnn_jax.training.metrics import write_atomically


class DataInfo(NamedTuple):
    """All that a trained network must know of its data set, kept as data.json."""

    name: str
    source: str
    image_shape: tuple[int, int, int]  # (H, W, C)
    class_names: tuple[str, ...]
    scaling: Scaling
    counts: dict[str, int]             # examples in train, validation, test


def describe(dataset: Dataset, scaling: str) -> DataInfo:
    """The scaling is measured on the training part alone."""
    counts = {part: len(getattr(dataset, part).labels)
              for part in ("train", "validation", "test")}
    return DataInfo(dataset.name, dataset.source, dataset.train.images.shape[1:],
                    dataset.class_names, SCALINGS[scaling](dataset.train.images),
                    counts)


def default_path(config: ConfigDict) -> Path:
    """runs/NETWORK-DATASET-HASH: the same command finds its run again."""
    dataset = config.data.name.replace(":", "-")
    return Path("runs") / f"{config.model.name}-{dataset}-{fingerprint(config)}"


@contextlib.contextmanager
def open_workdir(path: Path, config: ConfigDict):
    """Makes or finds the run's folder and keeps other writers out while it is open."""
    if jax.process_index() != 0:
        check_same_config(path, config)
        yield
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path / "lock", timeout=0)
        held = lock.acquire()
    except filelock.Timeout as error:
        raise InputError(f"--workdir={path} is in use by another process: wait for "
                         "it, or choose another folder") from error
    except OSError as error:
        raise InputError(f"--workdir={path} cannot be written to "
                         f"({error.strerror or error}): choose another folder"
                         ) from error
    with held:  # not `with lock`, which would count twice and stay locked
        check_same_config(path, config)
        write_atomically(path / "config.json", to_json(config))
        yield


def check_same_config(path: Path, config: ConfigDict) -> None:
    """Raises InputError where the folder was made by another config."""
    if not (path / "config.json").exists():
        return
    changes = differences(config, read_config(path))
    if changes:
        raise InputError(f"--workdir={path} was made by another config; differing "
                         f"fields (there -> here): {'; '.join(changes)}. Use the same "
                         "values, or another folder")


def read_config(path: Path) -> ConfigDict:
    """The config that a workdir was made by."""
    values = read_json(path / "config.json")
    config = ConfigDict(values, convert_dict=True).lock()
    check(config)
    return config


def write_data_info(path: Path, info: DataInfo) -> None:
    write_atomically(path / "data.json", json.dumps(info._asdict(), indent=2) + "\n")


def read_data_info(path: Path) -> DataInfo:
    values = read_json(path / "data.json")
    return DataInfo(**values | {"scaling": Scaling(*values["scaling"]),
                                "image_shape": tuple(values["image_shape"]),
                                "class_names": tuple(values["class_names"])})


def read_json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist: --workdir must be the folder of a "
                         "run (train first)") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): the folder is damaged"
                         ) from error
