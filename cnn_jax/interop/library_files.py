"""Writes the weights of a network under the names of another library.

    torchvision.safetensors  torchvision.models.NAME().load_state_dict(load_file(path))
    timm.safetensors         the same with timm.create_model(NAME)
    keras.h5                 keras.applications.NAME(weights=None).load_weights(path)

`load_file` is that of safetensors.torch.
"""

from pathlib import Path
from typing import Any

from cnn_jax.errors import InputError
from cnn_jax.interop.mapping import Arrays, arrays_from, mapping_of, variables_from
from cnn_jax.interop.pretrained.form import KINDS, differences
from cnn_jax.interop.readers import read_arrays, write_safetensors
from cnn_jax.interop.readers.keras_files import h5py_library
from cnn_jax.workdir.trained import Trained


def write_library(library: str, path: Path, trained: Trained) -> Path:
    """Writes the weights of a network that a library also has, and returns the path.

    library: torchvision, timm, keras, or cnn_jax for our own names.
    Raises InputError for a network that the library does not have, and for one that
    would compute something else there.
    """
    different = differences(library, trained.network, trained.info.image_shape)
    if kinds := [text for text in different if text.startswith(KINDS)]:
        raise InputError(
            f"{library} has no {trained.config.model.name}: this network has "
            f"{', '.join(kinds)} of {library}'s {type(trained.network).__name__}s; use "
            "--format=safetensors or onnx")
    if different:
        raise InputError(
            f"{library} would load these weights and compute something else: this "
            f"network has {', '.join(different)}; use --format=safetensors or onnx")
    mapping = mapping_of(library, trained.network, trained.info.image_shape)
    arrays = arrays_from(mapping, trained.variables)
    if library == "keras":
        write_h5(path, arrays)
    else:
        # torch's and timm's readers want to know that these are PyTorch's arrays.
        write_safetensors(path, arrays, {"format": "pt"})
    return path


def read_library(library: str, path: Path, trained: Trained) -> dict[str, Any]:
    """Reads what `write_library` wrote: {"params": ..., "batch_stats": ...}."""
    mapping = mapping_of(library, trained.network, trained.info.image_shape)
    return variables_from(mapping, read_arrays(path), str(path))


def write_h5(path: Path, arrays: Arrays) -> None:
    """Writes arrays named LAYER/WEIGHT as Keras' .h5 file of weights.

    Keras pairs its layers with those of the file in order.
    """
    h5py = h5py_library()
    layers: dict[str, list[str]] = {}
    for name in arrays:
        layers.setdefault(name.rpartition("/")[0], []).append(name)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        file.attrs["backend"], file.attrs["keras_version"] = b"cnn_jax", b"3"
        for layer, names in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name in names:
                group.create_dataset(name, data=arrays[name])
