"""Reads tensors from PyTorch's .pth and .pt files without PyTorch.

A file is a zip (since PyTorch 1.6) or a stream of five pickles (before; many files of
torchvision still have this format). In both, a pickle describes the tensors as views of
storages, and the storages, flat arrays of values, follow outside the pickle. Every
shape, stride and offset is checked against the storage. Nothing in the pickle is run,
see pickles.py.
"""

import io
import math
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cnn_jax.interop.readers import pickles
from cnn_jax.interop.readers.pickles import Call, Global

# The first two pickles of a stream.
MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
MAGIC_BYTES = MAGIC.to_bytes(10, "little")
# Entries that hold the state dict in a file with more content, such as a checkpoint.
WRAPPERS = ("state_dict", "model_state_dict", "model")

_BFLOAT16 = "torch.BFloat16Storage"  # read as uint16: NumPy has no bfloat16
_STORAGES = {
    "torch.FloatStorage": "f4", "torch.DoubleStorage": "f8", "torch.HalfStorage": "f2",
    _BFLOAT16: "u2", "torch.LongStorage": "i8", "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2", "torch.CharStorage": "i1", "torch.ByteStorage": "u1",
    "torch.BoolStorage": "?"}
_TENSORS = ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor")
_PARAMETER = "torch._utils._rebuild_parameter"
_ALLOWED = {pickles.ORDERED_DICT, *_TENSORS, _PARAMETER, "torch.Size", *_STORAGES}


class _Storage(NamedTuple):
    """Describes a flat array."""

    key: str
    kind: str  # its class, a key of _STORAGES
    length: int  # number of values

    @property
    def nbytes(self) -> int:
        return self.length * np.dtype(_STORAGES[self.kind]).itemsize


class _Tensor(NamedTuple):
    """Describes a view of a storage; offset and strides count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_zip(path: Path) -> dict[str, np.ndarray]:
    """Reads a zip of torch.save: FOLDER/data.pkl and FOLDER/data/KEY.

    Returns:
        Arrays by their names in the state dict. If the file's dict has an entry of
        `WRAPPERS` that is a dict, that entry is read. Values that are not tensors are
        left out. bfloat16 becomes float32; other types stay. Arrays are read-only, and
        those that share a storage share memory.

    Raises:
        ValueError and others: a damaged file, or one that holds something else.
    """
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
        pickled = [name for name in names if name.endswith("/data.pkl")]
        if len(pickled) != 1 or pickled[0].count("/") != 1:
            raise ValueError("it has no single FOLDER/data.pkl")
        folder = pickled[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in names:
            raise ValueError("it is a TorchScript program; save its state dict: "
                             "torch.save(torch.jit.load(FILE).state_dict(), NEW)")
        left = path.stat().st_size

        def read(name: str) -> bytes:
            """Reads a member; the members read may not exceed the size of the file."""
            nonlocal left
            member = archive.getinfo(name)
            left -= member.file_size
            if member.compress_type != zipfile.ZIP_STORED or left < 0:
                raise ValueError(f"its member {name} is compressed or overlaps "
                                 "another; torch.save writes neither")
            return archive.read(member)

        storages: dict[str, _Storage] = {}
        tree = pickles.parse(io.BytesIO(read(pickled[0])), _ALLOWED,
                             lambda reference: _storage(reference, storages))
        tensors = _state_dict(tree)
        order = "little"
        if f"{folder}byteorder" in names:
            order = read(f"{folder}byteorder").decode()
        if order not in ("little", "big"):
            raise ValueError(f"its byte order is {order!r} instead of little or big")
        values = {}
        for storage in dict.fromkeys(tensor.storage for tensor in tensors.values()):
            data = read(f"{folder}data/{storage.key}")
            values[storage.key] = _values(storage, data, order)
    return {name: _view(name, tensor, values[tensor.storage.key])
            for name, tensor in tensors.items()}


def read_stream(path: Path) -> dict[str, np.ndarray]:
    """Reads a file of torch.save before 1.6: five pickles, then the storages.

    The pickles are a magic number, a protocol number, facts about the system, the
    object, and the keys of the storages in order. Each storage is its count (int64) and
    its values, little-endian. Returns and raises as `read_zip` does.
    """
    with path.open("rb") as file, mmap.mmap(
            file.fileno(), 0, access=mmap.ACCESS_READ) as stream:
        start = [pickles.parse(stream, ()) for _ in range(3)]
        if start[:2] != [MAGIC, PROTOCOL]:
            raise ValueError(f"it starts with {start[:2]} instead of PyTorch's magic "
                             f"number and protocol {[MAGIC, PROTOCOL]}")
        storages: dict[str, _Storage] = {}
        tree = pickles.parse(stream, _ALLOWED,
                             lambda reference: _storage(reference, storages))
        tensors = _state_dict(tree)
        needed = {tensor.storage.key for tensor in tensors.values()}
        values = {}
        for key in pickles.parse(stream, ()):
            storage = storages[key]
            length, = struct.unpack("<q", stream.read(8))
            if length != storage.length:
                raise ValueError(f"its storage {key} has {length:,} values instead of "
                                 f"{storage.length:,}")
            if key in needed:
                data = stream.read(storage.nbytes)
                values[key] = _values(storage, data, "little")
            else:
                stream.seek(storage.nbytes, 1)
    return {name: _view(name, tensor, values[tensor.storage.key])
            for name, tensor in tensors.items()}


def _storage(reference: Any, storages: dict[str, _Storage]) -> _Storage:
    """Reads a reference to a storage and enters it in `storages` by its key."""
    match reference:
        case ("storage", Global(kind), str(key), str(), int(length), *view
              ) if kind in _STORAGES and length >= 0 and view in ([], [None]):
            storage = _Storage(key, kind, length)
            if storages.setdefault(key, storage) != storage:
                raise ValueError(f"it describes its storage {key} in two ways")
            return storage
    raise ValueError("it refers to something that is not a storage of numbers")


def _state_dict(tree: Any) -> dict[str, _Tensor]:
    """Finds the named tensors in the content of a file."""
    if not isinstance(tree, dict):
        kind = tree.name if isinstance(tree, Call) else type(tree).__name__
        raise ValueError(f"it holds a {kind} instead of a dict of tensors; save "
                         "model.state_dict()")
    for wrapper in WRAPPERS:
        if isinstance(tree.get(wrapper), dict):
            tree = tree[wrapper]
            break
    tensors = {name: tensor for name, value in tree.items()
               if isinstance(name, str) and (tensor := _tensor(value))}
    if not tensors:
        raise ValueError("it holds no tensors by name; save model.state_dict()")
    return tensors


def _tensor(value: Any) -> _Tensor | None:
    """Reads the description of a tensor or a parameter; None for other values."""
    match value:
        case Call(name, (_Storage() as storage, int(offset), tuple(size),
                         tuple(stride), *_)) if name in _TENSORS:
            return _Tensor(storage, offset, size, stride)
        case Call(name, (Call() as data, *_)) if name == _PARAMETER:
            return _tensor(data)
    return None


def _values(storage: _Storage, data: bytes, order: str) -> np.ndarray:
    """Converts the bytes of a storage to an array [count]."""
    if len(data) != storage.nbytes:
        raise ValueError(f"its storage {storage.key} has {len(data):,} bytes instead "
                         f"of {storage.nbytes:,}")
    dtype = np.dtype(_STORAGES[storage.kind])
    stored = dtype.newbyteorder("<" if order == "little" else ">")
    values = np.frombuffer(data, stored).astype(dtype, copy=False)
    if storage.kind == _BFLOAT16:  # the upper half of a float32
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values


def _view(name: str, tensor: _Tensor, values: np.ndarray) -> np.ndarray:
    """Makes a tensor from its storage; it must lie inside and not overlap itself."""
    size, stride, offset = tensor.size, tensor.stride, tensor.offset
    if len(size) != len(stride) or not all(
            isinstance(number, int) and number >= 0
            for number in (*size, *stride, offset)):
        raise ValueError(f"its tensor {name} has a size, stride or offset that is "
                         "negative or no integer")
    count = math.prod(size)
    if count == 0:
        return np.empty(size, values.dtype)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    if last >= len(values) or count > len(values):
        raise ValueError(f"its tensor {name} needs more than the {len(values):,} "
                         "values of its storage")
    strides = [step * values.itemsize if n > 1 else 0 for n, step in zip(size, stride)]
    return np.lib.stride_tricks.as_strided(
        values[offset:], size, strides, writeable=False)
