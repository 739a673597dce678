"""Writes weight files of PyTorch and Keras by hand, valid and invalid ones.

The pickles are assembled from single instructions, so neither library is needed, and a
file may contain anything.
"""

import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from cnn_jax.errors import InputError
from cnn_jax.interop.readers import read_arrays

STORAGES = {"float32": "torch.FloatStorage", "float64": "torch.DoubleStorage",
            "float16": "torch.HalfStorage", "int64": "torch.LongStorage",
            "int32": "torch.IntStorage", "int16": "torch.ShortStorage",
            "int8": "torch.CharStorage", "uint8": "torch.ByteStorage",
            "bool": "torch.BoolStorage", "bfloat16": "torch.BFloat16Storage"}
MAGIC = 0x1950A86A20F9469CFC6C


class Name(NamedTuple):
    """Pickles as the function or class "module.name"."""

    name: str


class Called(NamedTuple):
    """Pickles as a call, and the state that its result gets."""

    name: str
    arguments: tuple = ()
    state: Any = None


class Reference(NamedTuple):
    """Pickles as a reference to something outside the pickle."""

    id: Any


class Raw(NamedTuple):
    """Pickles as these instructions."""

    code: bytes


def pickled(value: Any) -> bytes:
    """Writes a pickle of protocol 2."""
    return b"\x80\x02" + encode(value) + b"."


def encode(value: Any) -> bytes:
    """Writes the instructions that push a value."""
    match value:
        case Raw(code):
            return code
        case Name(name):
            module, _, attribute = name.rpartition(".")
            return f"c{module}\n{attribute}\n".encode()
        case Called(name, arguments, state):
            call = encode(Name(name)) + encode(arguments) + b"R"
            return call if state is None else call + encode(state) + b"b"
        case Reference(id):
            return encode(id) + b"Q"
        case None | bool():
            return {None: b"N", True: b"\x88", False: b"\x89"}[value]
        case int():
            digits = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
            return b"\x8a" + bytes([len(digits)]) + digits
        case float():
            return b"G" + struct.pack(">d", value)
        case str():
            text = value.encode()
            return b"X" + struct.pack("<I", len(text)) + text
        case bytes():
            return b"B" + struct.pack("<I", len(value)) + value
        case tuple():
            return b"(" + b"".join(map(encode, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encode, value)) + b"e"
        case dict():
            items = b"".join(encode(part) for item in value.items() for part in item)
            return b"}(" + items + b"u"
    raise TypeError(type(value))


def storage(key: str, kind: str, count: int) -> Reference:
    """Refers to a storage as torch.save does; `kind` is a name of NumPy."""
    return Reference(("storage", Name(STORAGES[kind]), key, "cpu", count))


def tensor(storage: Reference, size: tuple, stride: tuple, offset: int = 0) -> Called:
    hooks = Called("collections.OrderedDict")
    return Called("torch._utils._rebuild_tensor_v2",
                  (storage, offset, size, stride, False, hooks))


def strides(size: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the strides, in elements, of a tensor in C order."""
    return tuple(int(np.prod(size[axis + 1:])) for axis in range(len(size)))


def described(arrays: dict[str, np.ndarray]) -> tuple[Raw, dict[str, bytes]]:
    """Describes arrays as a state dict. Returns it and the bytes of each storage."""
    tensors, data = {}, {}
    for key, (name, array) in enumerate(arrays.items()):
        data[str(key)] = array.tobytes()
        tensors[name] = tensor(storage(str(key), array.dtype.name, array.size),
                               array.shape, strides(array.shape))
    items = b"".join(encode(part) for item in tensors.items() for part in item)
    # As torch: an OrderedDict, its items, and the attribute _metadata.
    return Raw(encode(Called("collections.OrderedDict")) + b"(" + items + b"u"
               + encode({"_metadata": {"": {"version": 1}}}) + b"b"), data


def write_zip(path, tree: Any, data: dict[str, bytes], folder="archive",
              order: str | None = "little", compression=zipfile.ZIP_STORED) -> None:
    """Writes a file as torch.save does since PyTorch 1.6."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr(f"{folder}/data.pkl", pickled(tree))
        if order is not None:
            archive.writestr(f"{folder}/byteorder", order)
        for key, content in data.items():
            archive.writestr(f"{folder}/data/{key}", content)
        archive.writestr(f"{folder}/version", "3\n")


def write_stream(path, tree: Any, data: dict[str, bytes],
                 counts: dict[str, int]) -> None:
    """Writes a file as torch.save did before PyTorch 1.6."""
    system = {"protocol_version": 1001, "little_endian": True,
              "type_sizes": {"short": 2, "int": 4, "long": 4}}
    content = b"".join(map(pickled, (MAGIC, 1001, system, tree, list(data))))
    for key, values in data.items():
        content += struct.pack("<q", counts[key]) + values
    path.write_bytes(content)


def as_stream(tree: Raw) -> Raw:
    """Adds the sixth entry, None, that references to storages had before 1.6."""
    return Raw(tree.code.replace(b"tQ", b"NtQ"))


def write_keras(path, config: dict, weights: bytes) -> None:
    """Writes a .keras file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.0"}))
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)


def write_legacy_h5(group, layers: dict[str, dict[str, np.ndarray]],
                    pieces: int = 0) -> None:
    """Writes layers as Keras 1 and 2 do: {layer: {weight's own name: array}}.

    pieces: number of attributes NAME0, NAME1, ... into which lists of names are split.
    """
    def write_names(group, attribute, names):
        names = np.array([name.encode() for name in names])
        if not pieces:
            group.attrs[attribute] = names
        else:
            for n, piece in enumerate(np.array_split(names, pieces)):
                group.attrs[f"{attribute}{n}"] = piece
    write_names(group, "layer_names", layers)
    for layer, weights in layers.items():
        inside = group.create_group(layer)
        write_names(inside, "weight_names", weights)
        for name, array in weights.items():
            inside.create_dataset(name, data=array)


def h5_bytes(write) -> bytes:
    """Returns the content of an HDF5 file that `write` fills."""
    import h5py
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        write(file)
    return content.getvalue()


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Compares names, types, shapes and values of arrays."""
    assert sorted(got) == sorted(expected)
    for name, array in expected.items():
        assert got[name].dtype == array.dtype, name
        assert got[name].shape == array.shape, name
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def refused(path: Path, read=read_arrays) -> str:
    """Asserts that a file is refused in one line that names it; returns the line."""
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert str(path) in message and message.isprintable()
    return message
