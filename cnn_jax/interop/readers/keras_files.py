"""Reads the weights of Keras' three formats under uniform names, LAYER/WEIGHT.

- .h5 of Keras 1, 2 and 3 (legacy): attributes list the layers and their weights.
- .weights.h5 of Keras 3: numbered variables, `layers/conv2d_1/vars/0`.
- .keras of Keras 3: a zip of such a file and of config.json.

The weights have Keras' names: kernel, bias, depthwise_kernel, pointwise_kernel, gamma,
beta, moving_mean, moving_variance, alpha. A layer inside a model inside a model is
OUTER/LAYER/WEIGHT. Links, external data and sizes that the file does not hold are
refused, as Keras does since 3.15.
"""

import io
import itertools
import json
import math
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cnn_jax.errors import InputError
from cnn_jax.installation import install_command

MEMBER = "model.weights.h5"  # of a .keras file
# Real weights hardly compress. A file that declares more than FLOOR bytes and more than
# a ratio times the bytes that it stores would fill the memory, so it is refused. Keras'
# floor is 4 GiB for each array.
FLOOR, ARRAY_RATIO, MEMBER_RATIO = 2**28, 1000, 100
ATTRIBUTE_LIMIT = 2**24  # bytes; Keras splits above 64 KiB

# Keras 1 -> now. Its running_std held the variance.
_KERAS_1 = {"W": "kernel", "b": "bias", "running_mean": "moving_mean",
            "running_std": "moving_variance"}
# Classes of layers whose numbered variables are a kernel and a bias.
_KERNEL = re.compile(r"(conv\dd|conv\dd_transpose|depthwise_conv\dd|dense)")
# Groups of .weights.h5 that are not part of a layer's path, and those without weights.
_TRANSPARENT = ("layers", "_layer_checkpoint_dependencies")
_NO_WEIGHTS = ("optimizer", "seed_generator")


def read_h5(source: Path | BinaryIO, configs: dict[str, dict] | None = None
            ) -> dict[str, np.ndarray]:
    """Reads a legacy .h5 file or a .weights.h5 file.

    Args:
        source: the file.
        configs: class_name and config of each layer by its group; those of `.keras`.

    Returns:
        Arrays by LAYER/WEIGHT. bfloat16 becomes float32; other types stay. In a
        .weights.h5 file, weights are numbered; their names follow from the class of the
        layer, or if that is not known, the number stays: LAYER/vars/0. The states of
        optimizers and dropout are left out.

    Raises:
        InputError: h5py is not installed.
        ValueError and others: a damaged file, or one that is refused.
    """
    h5py = h5py_library()
    # Reading needs no lock, and some network file systems have none.
    with h5py.File(source, "r", locking=False) as file:
        reader = _Reader(h5py)
        whole_model = reader.find(file, "model_weights")
        root = file if whole_model is None else whole_model
        arrays = (_legacy(reader, root) if reader.names(root, "layer_names")
                  else _numbered(reader, root, configs or {}))
    if not arrays:
        raise ValueError("it holds no weights of Keras layers")
    return arrays


def h5py_library() -> Any:
    """Imports h5py. Raises InputError if it is not installed."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise InputError("h5py, the library of HDF5 files, is not installed; install "
                         f"it with {install_command('pretrained')}") from error
    return h5py


def read_keras(path: Path) -> dict[str, np.ndarray]:
    """Reads a .keras file, a zip. Returns and raises as `read_h5` does.

    If the weights have no layer names, as in the first versions of Keras 3, config.json
    gives them.
    """
    with zipfile.ZipFile(path) as archive:
        config = json.loads(_member(archive, "config.json"))
        weights = io.BytesIO(_member(archive, MEMBER))
    return read_h5(weights, dict(_layer_configs(config["config"], "layers")))


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    member = archive.getinfo(name)
    if member.file_size > max(FLOOR, MEMBER_RATIO * member.compress_size):
        raise ValueError(f"its member {name} declares {member.file_size:,} bytes and "
                         f"stores {member.compress_size:,}")
    return archive.read(member)


class _Reader:
    """Reads an HDF5 file, following only plain links to arrays stored in the file."""

    def __init__(self, h5py: Any) -> None:
        self.h5py = h5py
        self.seen: set[int] = set()  # addresses of objects
        self.declared = self.stored = 0  # bytes of the arrays so far

    def once(self, item: Any) -> None:
        """Refuses an object that was read before, because links can form cycles."""
        address = self.h5py.h5o.get_info(item.id).addr
        if address in self.seen:
            raise ValueError(f"its {item.name} is a second link to one object")
        self.seen.add(address)

    def find(self, group: Any, path: str) -> Any:
        """Returns the group or dataset at a path below a group; None if absent."""
        for part in path.split("/"):
            link = (group.get(part, getlink=True)
                    if isinstance(group, self.h5py.Group) else None)
            if link is None:
                return None
            if not isinstance(link, self.h5py.HardLink):
                raise ValueError(f"its {group.name} has a {type(link).__name__}, "
                                 f"{part}, which is not followed")
            group = group[part]
        return group

    def names(self, group: Any, attribute: str) -> list[str]:
        """Reads a list of names from an attribute, or from its pieces NAME0, NAME1, ...

        The list is empty if there is no such attribute.
        """
        pieces = [attribute]
        if attribute not in group.attrs:
            count = next(n for n in itertools.count()
                         if f"{attribute}{n}" not in group.attrs)
            pieces = [f"{attribute}{n}" for n in range(count)]
        return [name for piece in pieces for name in self.texts(group, piece)]

    def texts(self, group: Any, attribute: str) -> list[str]:
        """Reads an attribute that is one text or a list of texts."""
        item = group.attrs.get_id(attribute)
        if item.shape == (0,):  # Keras writes an empty list as numbers
            return []
        if item.shape is None or item.dtype.kind not in "SO" or (
                math.prod(item.shape) * item.dtype.itemsize > ATTRIBUTE_LIMIT):
            raise ValueError(f"its attribute {attribute} is {item.dtype} of shape "
                             f"{item.shape}: no text, or too long for names")
        texts = np.ravel(group.attrs[attribute])
        return [text.decode() if isinstance(text, bytes) else str(text)
                for text in texts]

    def array(self, dataset: Any) -> np.ndarray:
        """Reads a dataset, after checks of its type, its size and its storage."""
        if not isinstance(dataset, self.h5py.Dataset) or dataset.shape is None:
            raise ValueError("it has no array where a weight should be")
        self.once(dataset)
        if dataset.external or dataset.is_virtual:
            raise ValueError(f"its array {dataset.name} lies in another file, which is "
                             "not read")
        dtype = dataset.dtype
        # bfloat16 is the only type of Keras that h5py stores as two untyped bytes.
        is_bfloat16 = dtype.str == "|V2"
        if dtype.kind not in "fiub" and not is_bfloat16:
            raise ValueError(f"its array {dataset.name} holds {dtype}, no numbers")
        self.stored += dataset.id.get_storage_size()
        self.declared += dtype.itemsize * max(math.prod(dataset.shape),
                                              math.prod(dataset.chunks or ()))
        if self.declared > max(FLOOR, ARRAY_RATIO * self.stored):
            raise ValueError(f"its arrays up to {dataset.name} would take "
                             f"{self.declared:,} bytes, of which {self.stored:,} are "
                             "stored")
        values = np.asarray(dataset[()])
        if is_bfloat16:  # the upper half of a float32
            return (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
        return values.astype(dtype.newbyteorder("="), copy=False)


def _legacy(reader: _Reader, root: Any) -> dict[str, np.ndarray]:
    """Reads the arrays that the attributes layer_names and weight_names list."""
    arrays: dict[str, np.ndarray] = {}
    layers = reader.names(root, "layer_names")
    for layer in [*layers, "top_level_model_weights"]:
        group = reader.find(root, layer)
        if group is None and layer not in layers:
            continue
        if not isinstance(group, reader.h5py.Group):
            raise ValueError(f"its layer {layer} is missing")
        weights: dict[str, np.ndarray] = {}
        for weight in reader.names(group, "weight_names"):
            _add(weights, _legacy_name(layer, weight),
                 reader.array(reader.find(group, weight)))
        for name, array in weights.items():
            # Keras 2 called the kernel of a DepthwiseConv2D so; Keras 3 does not.
            if (name.endswith("/depthwise_kernel") and
                    name.replace("/depthwise_", "/pointwise_") not in weights):
                name = name.replace("/depthwise_kernel", "/kernel")
            _add(arrays, name, array)
    return arrays


def _legacy_name(layer: str, weight: str) -> str:
    """Makes LAYER/WEIGHT from a weight's name in the group of a layer.

    In the group `conv1`, the names `conv1/kernel:0` (Keras 2), `model/conv1/kernel`
    (Keras 3), `conv1_2/kernel:0` (a model that was loaded and saved) and `conv1_W_1:0`
    (Keras 1) become conv1/kernel. In the group of a model `inner`, `conv1/kernel:0`
    (Keras 2) and `inner/conv1/kernel` (Keras 3) become inner/conv1/kernel.
    """
    *scopes, name = weight.split(":")[0].split("/")
    for pattern in (re.escape(layer), re.escape(layer) + r"_\d+"):
        levels = [n for n, scope in enumerate(scopes) if re.fullmatch(pattern, scope)]
        if levels:
            scopes = scopes[levels[0] + 1:]
            break
    if name.startswith(f"{layer}_"):
        name = re.sub(r"_\d+$", "", name.removeprefix(f"{layer}_"))
        name = _KERAS_1.get(name, name)
    return "/".join([layer, *scopes, name])


def _numbered(reader: _Reader, root: Any, configs: dict[str, dict]
              ) -> dict[str, np.ndarray]:
    """Reads the `vars` groups of a .weights.h5 file, at any depth."""
    arrays: dict[str, np.ndarray] = {}

    def walk(group: Any, path: str, layers: tuple[str, ...]) -> None:
        reader.once(group)
        for key in sorted(group, key=_natural):
            child = reader.find(group, key)
            if key in _NO_WEIGHTS or not isinstance(child, reader.h5py.Group):
                continue
            where = f"{path}/{key}".lstrip("/")
            if key == "vars":
                names = _weight_names(path, len(child), configs.get(path, {}))
                for number, name in enumerate(names):
                    array = reader.array(reader.find(child, str(number)))
                    _add(arrays, "/".join([*layers, name]), array)
            elif key in _TRANSPARENT:
                walk(child, where, layers)
            else:
                name = _layer_name(reader, child, where, configs)
                walk(child, where, (*layers, name))

    walk(root, "", ())
    return arrays


def _layer_name(reader: _Reader, group: Any, path: str,
                configs: dict[str, dict]) -> str:
    """Finds the name of a layer in the file, else in config.json, else by its group."""
    variables = reader.find(group, "vars")
    if variables is not None and "name" in variables.attrs:
        name, = reader.texts(variables, "name")
        return name
    config = configs.get(path, {}).get("config", {})
    return config.get("name", path.rpartition("/")[2])


def _weight_names(path: str, count: int, layer: dict) -> list[str]:
    """Names the numbered variables of a layer, by its class and their number."""
    kind = re.sub(r"_\d+$", "", path.rpartition("/")[2])
    config = layer.get("config", {})
    names: list[str] = []
    if _KERNEL.fullmatch(kind):
        names = ["kernel", "bias"][:count]
    elif re.fullmatch(r"separable_conv\dd", kind):
        names = ["depthwise_kernel", "pointwise_kernel", "bias"][:count]
    elif kind == "p_re_lu":
        names = ["alpha"]
    elif kind in ("batch_normalization", "layer_normalization", "group_normalization"):
        moving = ["moving_mean", "moving_variance"] if kind[0] == "b" else []
        affine = [name for name, field in (("gamma", "scale"), ("beta", "center"))
                  if config.get(field, True)]
        if count == len(moving):
            affine = []
        elif count == len(moving) + 1 and len(affine) == 2:  # only config.json tells
            affine = ["vars/0"]
        names = affine + moving
    return names if len(names) == count else [f"vars/{n}" for n in range(count)]


def _layer_configs(config: dict, path: str) -> Iterator[tuple[str, dict]]:
    """Yields (group, config) of all layers of a model's config.

    Keras names a group after the class: conv2d, conv2d_1, ..., in the model's order.
    """
    counts: dict[str, int] = {}
    for layer in config.get("layers", []):
        kind = _snake_case(layer["class_name"])
        number = counts[kind] = counts.get(kind, -1) + 1
        group = f"{path}/{kind}_{number}" if number else f"{path}/{kind}"
        yield group, layer
        if "layers" in layer["config"]:
            yield from _layer_configs(layer["config"], f"{group}/layers")


def _snake_case(name: str) -> str:
    """Writes SeparableConv2D as separable_conv2d, as Keras does."""
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", name))
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


def _natural(name: str) -> list:
    """Makes a sort key that puts conv2d_10 after conv2d_9."""
    return [(int(part), "") if part.isdecimal() else (-1, part)
            for part in re.split(r"(\d+)", name)]


def _add(arrays: dict[str, np.ndarray], name: str, array: np.ndarray) -> None:
    if name in arrays:
        raise ValueError(f"it has two weights with the name {name}")
    arrays[name] = array
