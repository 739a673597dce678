"""The folder of one run: one config, one writer, and what was learnt about the data."""

import contextlib
import json
from pathlib import Path

import filelock
import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cnn_jax import json_files
from cnn_jax.data.scaling import Scaling
from cnn_jax.data.info import DataInfo
from cnn_jax.errors import InputError, RunError
from cnn_jax.json_files import fits, is_sealed, sealed
from cnn_jax.config import differences, fingerprint, from_json, to_json
from cnn_jax.files import named, write_atomically
from cnn_jax.workdir.checkpoints.read import step_folders


DATA = {"name": str, "source": str, "image_shape": (int, int, int),
        "class_names": [str], "scaling": (float, float), "counts": {str: int},
        "sha256": str}  # data.json, see json_files.fits
DAMAGED = "the folder is damaged"
ANEW = "delete it, then the command that trained the run writes it anew"


def default_path(config: ConfigDict) -> Path:
    """runs/NETWORK-DATASET-HASH: the same command finds its run again."""
    dataset = config.data.name.replace(":", "-")
    return Path("runs") / f"{config.model.name}-{dataset}-{fingerprint(config)}"


@contextlib.contextmanager
def open_workdir(path: Path, config: ConfigDict, info: DataInfo):
    """Makes or finds the run's folder and keeps other writers out while it is open.

    Raises InputError, in every process, where the folder cannot be written to, is in
    use, or belongs to another config or other data.
    """
    with contextlib.ExitStack() as stack:
        problem = None
        if jax.process_index() == 0:
            try:
                stack.enter_context(lock(path))
                check_not_of_seeds(path)
                check_complete(path)
                check_same_config(path, config)
                check_same_data(path, info)
                write_atomically(path / "config.json", to_json(config))
                write_atomically(path / "data.json", data_json(info))
                with named(path / "checkpoints"):
                    (path / "checkpoints").mkdir(exist_ok=True)
            except (InputError, RunError) as error:  # RunError: a full disk
                problem = error
        if not process_zero_ok(problem):
            raise problem or InputError("process 0 refused the workdir: see there")
        yield


def process_zero_ok(error: Exception | None) -> bool:
    """Tells every process whether process 0 has no error; a collective of all."""
    if jax.process_count() == 1:
        return error is None
    return not multihost_utils.process_allgather(np.int32(error is not None))[0]


def lock(path: Path):
    """Holds the folder, made if need be, against other writers."""
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


def check_not_of_seeds(path: Path) -> None:
    """Raises InputError where the folder holds the runs of several seeds."""
    if (path / "config.json").exists():
        return
    if runs := sorted(path.glob("seed*/config.json")):
        raise InputError(f"--workdir={path} holds the runs of several seeds: name one "
                         f"of them, such as {runs[0].parent}")


def check_complete(path: Path) -> None:
    """Raises InputError where nothing says what the checkpoints were made with."""
    if not step_folders(path / "checkpoints"):
        return
    for name in ("config.json", "data.json"):
        if not (path / name).exists():
            raise InputError(f"--workdir={path} has checkpoints but no {name}, so that "
                             "nothing says what they were made with: put it back, or "
                             "choose another folder")


def check_same_config(path: Path, config: ConfigDict) -> None:
    """Raises InputError where the folder was made by another config."""
    if not (path / "config.json").exists():
        return
    changes = differences(config, read_config(path))
    if changes:
        raise InputError(f"--workdir={path} was made by another config; differing "
                         f"fields (there -> here): {'; '.join(changes)}. Use the same "
                         "values, or another folder")


def check_same_data(path: Path, info: DataInfo) -> None:
    """Raises InputError where the run in the folder was made with other data."""
    if not (path / "data.json").exists():
        return
    there = read_data_info(path)
    for field in ("name", "image_shape", "class_names", "counts", "sha256"):
        old, new = getattr(there, field), getattr(info, field)
        if old != new:
            raise InputError(f"{path} was made with other data: {field} was {old}, now "
                             f"{new} ({info.source}). Use the same data, or another "
                             "folder")


def read_config(path: Path) -> ConfigDict:
    """The config that a workdir was made by."""
    check_not_of_seeds(path)
    values = read_json(path / "config.json")
    try:
        return from_json(values)
    except ValueError as error:  # an InputError, or of a key that ConfigDict refuses
        raise InputError(f"{path / 'config.json'}, perhaps of another version: {error}"
                         ) from error


def data_json(info: DataInfo) -> str:
    """The text of data.json: a changed scaling would give wrong figures in silence."""
    return json.dumps(sealed(info._asdict()), indent=2) + "\n"


def read_data_info(path: Path) -> DataInfo:
    values = read_sealed(path / "data.json", DATA)
    return DataInfo(**values | {"scaling": Scaling(*values["scaling"]),
                                "image_shape": tuple(values["image_shape"]),
                                "class_names": tuple(values["class_names"])})


def read_json(path: Path, advice: str = DAMAGED) -> dict:
    """A file that holds one JSON object."""
    try:
        values = json_files.read(path)
    except FileNotFoundError:
        runs = sorted(path.parent.glob("*/config.json"))
        inside = (", one such as " + str(runs[-1].parent)) if runs else " (train first)"
        raise InputError(f"{path} does not exist: --workdir must be the folder of a "
                         f"run{inside}") from None
    except ValueError as error:
        raise InputError(f"{path} cannot be read ({error}): {advice}") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} does not hold a JSON object: {advice}")
    return values


def check_seal(path: Path, values: dict, advice: str) -> None:
    """Raises InputError where the content of a file does not have its checksum."""
    if not is_sealed(values):
        raise InputError(f"{path} does not have the checksum that was stored with it: "
                         f"{advice}")


def read_sealed(path: Path, form: dict, advice: str = DAMAGED) -> dict:
    """The JSON object in a file that holds it with its checksum (json_files.sealed).

    form: of the object, see json_files.fits.
    """
    values = read_json(path, advice)
    check_seal(path, values, advice)
    del values["crc32"]
    if not fits(values, form):
        names = ", ".join(name for name in form if name is not str)
        raise InputError(f"{path}, perhaps of another version, does not hold what it "
                         f"should ({names}): {advice}")
    return values
