"""Uses tensorflow-datasets (tfds) without TensorFlow.

The catalogue's builders of MNIST, Fashion-MNIST and CIFAR-10 need TensorFlow. Ours
parse with formats.py, store raw uint8 arrays and keep the official order, so that the
examples equal those read directly from the official files. Any other set can be read
once it is prepared.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import tensorflow_datasets as tfds
from ml_collections import ConfigDict

from cnn_jax import download
from cnn_jax.console import Reporter
from cnn_jax.data import official
from cnn_jax.data.examples import Examples
from cnn_jax.data.prepared import open_prepared
from cnn_jax.data.records import StoredRecords
from cnn_jax.errors import InputError, first_line
from cnn_jax.files import expanded


class _Builder(  # type: ignore[call-arg]
        tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Builds one official set, whose name and image shape a subclass gives."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "`prepared` downloads and checks the files."
    SET = ""
    SHAPE: tuple[int, ...] = ()

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{self.SET} as raw arrays in the official order.",
            features=tfds.features.FeaturesDict({
                "image": tfds.features.Tensor(shape=self.SHAPE, dtype=np.uint8),
                "label": tfds.features.ClassLabel(names=official.CLASS_NAMES[self.SET]),
            }),
            supervised_keys=("image", "label"),
            disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator]:
        folder = Path(dl_manager.manual_dir)
        splits = official.read_set(
            self.SET, [folder / file.name for file in official.FILES[self.SET]])
        return {name: self._generate_examples(splits[name]) for name in splits}

    def _generate_examples(self, examples: Examples) -> Iterator[tuple[int, dict]]:
        for index, (image, label) in enumerate(zip(*examples)):
            yield index, {"image": image, "label": int(label)}


class CnnJaxMnist(_Builder, skip_registration=True):  # type: ignore[call-arg]
    """MNIST, 60,000 + 10,000 grey images."""

    SET = "mnist"
    SHAPE = (28, 28, 1)


class CnnJaxFashionMnist(_Builder, skip_registration=True):  # type: ignore[call-arg]
    """Fashion-MNIST, 60,000 + 10,000 grey images."""

    SET = "fashion_mnist"
    SHAPE = (28, 28, 1)


class CnnJaxCifar10(_Builder, skip_registration=True):  # type: ignore[call-arg]
    """CIFAR-10, 50,000 + 10,000 colour images."""

    SET = "cifar10"
    SHAPE = (32, 32, 3)


BUILDERS = {
    cls.SET: cls for cls in (CnnJaxMnist, CnnJaxFashionMnist, CnnJaxCifar10)}


def data_dir() -> Path:
    """Names the folder of prepared sets, `TFDS_DATA_DIR` or ~/tensorflow_datasets."""
    folder = os.environ.get("TFDS_DATA_DIR") or os.path.join("~", "tensorflow_datasets")
    return expanded(folder, "TFDS_DATA_DIR")


def prepared(name: str, files_folder: str) -> StoredRecords:
    """Opens an official set from `data_dir`; downloads and prepares it if needed.

    We download the files ourselves, because tfds retries for minutes and has no
    timeout.

    Args:
        name: name of the set.
        files_folder: where the user could put the official files, for messages.

    Raises:
        InputError: a failed download, a download with another checksum, a folder that
            cannot be written, or a damaged copy.
    """
    root = data_dir()
    try:
        builder = BUILDERS[name](data_dir=root, file_format="array_record")
    except Exception as error:  # a damaged dataset_info.json
        raise InputError(
            f"the prepared copy in {root / BUILDERS[name].name} cannot be read "
            f"({first_line(error)}); delete that folder and run again") from error
    try:
        if not _is_prepared(builder):
            root.mkdir(parents=True, exist_ok=True)
            # One process prepares; the other processes of a run wait for it.
            with filelock.FileLock(root / f"{builder.name}.lock"):
                if not _is_prepared(builder):
                    _prepare(builder, root, files_folder)
    except OSError as error:
        raise InputError(
            f"{name} cannot be prepared in {root} ({first_line(error)}); set "
            "TFDS_DATA_DIR to a folder that can be written, or put the official files "
            f"into {files_folder}") from error
    stored = open_prepared(builder)
    return stored._replace(
        origin=f"{stored.origin}, made from files with checked size and sha256")


def _prepare(builder: _Builder, root: Path, files_folder: str) -> None:
    """Downloads and checks the official files, then prepares the set from them."""
    folder = root / "downloads" / "manual" / builder.name
    for file in official.FILES[builder.SET]:
        try:
            download.fetch(file.url, folder / file.name,
                           download.Checksum("sha256", file.sha256), file.size,
                           Reporter(stderr=True))
        except download.Unreachable as error:
            raise InputError(
                f"{builder.SET} is not in {builder.data_path} and cannot be downloaded "
                f"({error}): put the official files into {files_folder}, or name their "
                "folder with --config.data.dir, or train on the embedded digits with "
                "--config.data.name=digits"
            ) from error
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(
        manual_dir=folder, try_download_gcs=False))


def catalogue(config: ConfigDict) -> StoredRecords:
    """Opens a prepared set of the catalogue from `config.dir` or `data_dir`.

    Raises:
        InputError: a set that is not in the catalogue, that is not prepared in a
            format that can be read without TensorFlow, or that has no image and label.
    """
    name = config.name.removeprefix("tfds:")
    root = expanded(config.dir, "data.dir") if config.dir else data_dir()
    try:
        builder = tfds.builder(name, data_dir=root)
    except Exception as error:  # an AssertionError, or a missing import of the builder
        raise InputError(
            f"data.name is {config.name!r}, which tensorflow-datasets "
            f"{tfds.__version__} cannot find in its catalogue or in {root} "
            f"({first_line(error)}); see tensorflow.org/datasets/catalog") from error
    known = ("array_record", "parquet")
    if not _is_prepared(builder) or builder.info.file_format.value not in known:
        raise InputError(
            f"{config.name} is not prepared as array_record in {root}; most sets need "
            "TensorFlow to be prepared, though not to be read: where it is installed, "
            'run python -c "import tensorflow_datasets as tfds; '
            f"tfds.builder('{name}', data_dir='{root}', file_format='array_record')"
            f'.download_and_prepare()" and copy {root / builder.name} to this machine')
    return open_prepared(builder)


def _is_prepared(builder: tfds.core.DatasetBuilder) -> bool:
    """Does what `builder.is_prepared()` does, without its warning."""
    return Path(builder.data_path, "dataset_info.json").is_file()
