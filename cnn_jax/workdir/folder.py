"""Opens the workdir of a run: it has one config, one data set and one writer."""

import contextlib
import itertools
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cnn_jax import console, data, networks
from cnn_jax.config import (as_flag, changes, differences, fingerprint, flat, from_json,
                            to_json)
from cnn_jax.data.examples import Dataset
from cnn_jax.data.info import DataInfo, describe
from cnn_jax.errors import InputError, RunError
from cnn_jax.files import file_errors, read_json, write_atomically, write_json
from cnn_jax.user_code import ModuleError, is_reference
from cnn_jax.workdir.checkpoints import step_folders

DAMAGED = "the workdir is damaged"
# Fields that may differ from the run's when nothing is trained.
EVALUATION = ("eval_batch_size", "eval.metrics", "eval.tta")
REWRITE = "delete it, and run the command that trained the run to write it again"


def default_path(config: ConfigDict) -> Path:
    """Returns runs/NETWORK-DATASET-HASH, so that a repeated command finds its run."""
    name = f"{config.model.name}-{config.data.name}-{fingerprint(config)}"
    return Path("runs") / name.replace(":", "-")


@contextlib.contextmanager
def open_workdir(path: Path, config: ConfigDict, info: DataInfo) -> Iterator[bool]:
    """Opens the folder of a run, made if it is not there, and locks it for the block.

    Yields whether the config extends the run to more epochs; True only in process 0.
    Raises InputError, in every process, if the folder cannot be written to, is in use,
    or belongs to another config or other data.
    """
    with contextlib.ExitStack() as stack:
        problem, extended = None, False
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock(path))
                check_complete(path)
                extended = extends(path, config)
                if not extended:
                    check_same_config(path, config)
                check_same_data(path, info)
                write_atomically(path / "config.json", to_json(config))
                write_json(path / "data.json", info)
                with file_errors(path / "checkpoints"):
                    (path / "checkpoints").mkdir(exist_ok=True)
            except (InputError, RunError) as error:  # RunError: a full disk
                problem = error
        if not process_zero_ok(problem):
            raise problem or InputError(
                "process 0 refused the workdir: its output says why")
        yield extended


def process_zero_ok(error: Exception | None) -> bool:
    """Tells every process whether process 0 has no error. All processes must call it.
    """
    if jax.process_count() == 1:
        return error is None
    return not multihost_utils.process_allgather(np.int32(error is not None))[0]


def lock(path: Path) -> contextlib.AbstractContextManager[Any]:
    """Locks the folder against other writers; makes it if it does not exist."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(path / "lock", timeout=0).acquire()
    except filelock.Timeout as error:
        raise InputError(f"--workdir={path} is in use by another process: wait for "
                         "it, or choose another folder") from error
    except OSError as error:
        raise InputError(f"--workdir={path} cannot be written to "
                         f"({error.strerror or error}): choose another folder"
                         ) from error


def check_complete(path: Path) -> None:
    """Raises InputError if there are checkpoints, but not their config or data info."""
    if not step_folders(path / "checkpoints"):
        return
    for name in ("config.json", "data.json"):
        if not (path / name).exists():
            raise InputError(f"--workdir={path} has checkpoints but no {name}, which "
                             "describes them: put it back, or choose another folder")


def extends(path: Path, config: ConfigDict) -> bool:
    """Tells whether a config differs from that of the folder only by more epochs."""
    if not (path / "config.json").exists():
        return False
    stored = read_config(path)
    before = stored.epochs
    with stored.unlocked():
        stored.epochs = config.epochs
    return config.epochs > before and not differences(config, stored)


def check_same_config(path: Path, config: ConfigDict,
                      free: Collection[str] = ()) -> None:
    """Raises InputError if the folder was made by another config.

    free: fields that may differ, such as those of `EVALUATION` if nothing is trained.
    """
    if not (path / "config.json").exists():
        return
    stored = read_config(path)
    changed = {field: pair for field, pair in changes(config, stored).items()
               if field not in free}
    if changed:
        listed = "; ".join(f"{field}: {old!r} -> {new!r}"
                           for field, (old, new) in changed.items())
        raise InputError(
            f"--workdir={path} was made by another config; differing fields (there -> "
            f"here): {listed}. Use the same values, or another folder. To continue "
            f"from its weights with the new values: {continuation(path, changed)}")


def continuation(path: Path, changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Writes the command that starts a run with changed fields from these weights."""
    new = next(name for number in itertools.count(2)
               if not (name := path.with_name(f"{path.name}-{number}")).exists())
    flags = [flag for field, (_, value) in changed.items()
             for flag in as_flag(field, value) if field != "model.init_from"]
    return console.command(f"--config=configs/workdir.py:{path}", *flags,
                           f"--config.model.init_from={path}", f"--workdir={new}")


def without_stop(path: Path) -> str:
    """Writes the command that starts a run from these weights without early stopping.
    """
    return continuation(path, {"early_stopping.patience": (0, None)})


def check_same_data(path: Path, info: DataInfo) -> None:
    """Raises InputError if the run in the folder was made with other data."""
    if not (path / "data.json").exists():
        return
    stored = read_data_info(path)
    for field in ("name", "image_shape", "class_names", "counts", "sha256"):
        old, new = getattr(stored, field), getattr(info, field)
        if old != new:
            raise InputError(f"{path} was made with other data: {field} was {old}, now "
                             f"{new} ({info.source}). Use the same data, or another "
                             "--workdir")


def load_data(path: Path, config: ConfigDict,
              arrays: data.Arrays | None = None) -> Dataset:
    """Loads the data of a run again. Raises InputError if they have changed.

    arrays: those that the run was trained on, if its data were arrays.
    """
    config, stored = (config, None) if arrays is None else data.accept(arrays, config)
    dataset = data.load(data_config(path, config), config.seed, stored)
    check_same_data(path, describe(dataset, config.data))
    return dataset


def data_config(path: Path, config: ConfigDict) -> ConfigDict:
    """Returns the `data` section for a workdir; it streams if the run did before.

    Whether images fit into memory may differ from one start of a run to the next.
    """
    settings = config.data
    if settings.stream is None and (path / "data.json").exists():
        settings = settings.copy_and_resolve_references()
        with settings.unlocked():
            settings.stream = read_data_info(path).streamed
    return settings


def read_config(path: Path) -> ConfigDict:
    """Reads the config of the run in a workdir."""
    file = path / "config.json"
    if not file.exists():
        runs = sorted(path.glob("*/config.json"))
        hint = (", such as " + str(runs[-1].parent)) if runs else " (train first)"
        raise InputError(f"{file} does not exist: --workdir must be the folder of a "
                         f"run{hint}")
    values = read_json(file, dict[str, Any], DAMAGED)
    check_registered(file, values)
    try:
        return from_json(values)
    except ValueError as error:  # an InputError, or a key that ConfigDict refuses
        no_module = isinstance(error.__cause__, ModuleError)
        origin = "" if no_module else (
            ", perhaps of another version of cnn_jax, or of a program that registers "
            "names of its own")
        raise InputError(f"{file}{origin}: {error}" + no_module * (
            "; start in the folder that holds it")) from error


def check_registered(file: Path, values: Mapping[str, Any]) -> None:
    """Raises InputError for a network that only the program of the run registered."""
    name = flat(values).get("model.name")
    if isinstance(name, str) and not (
            name in networks.NETWORKS or is_reference(name)):
        raise InputError(
            f"{file}: there is no network {name!r} here; the program that trained the "
            f"run registered it, or another version of cnn_jax has it. In Python, call "
            f"networks.register({name!r}, CLASS) first; or put the class into a module "
            "in the current folder, and write MODULE:CLASS as the model's name into "
            f"{file.name}")


def read_data_info(path: Path) -> DataInfo:
    """Reads the description of a run's data."""
    return read_json(path / "data.json", DataInfo, DAMAGED)
