"""Parsers for the files that the official sets come in: idx, CIFAR-10 batches, tar.

Every file may be damaged or hostile. Nothing is extracted or executed, a length in
a header is never believed before the bytes have arrived, and every fault is an
`InputError` that names the file.
"""

import contextlib
import gzip
import io
import pickle
import pickletools
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Iterator

import numpy as np

from cnn_jax.errors import InputError

IDX_LABELS, IDX_IMAGES = 2049, 2051  # the magic numbers: uint8 data, 1 or 3 axes
CIFAR_PIXELS = 3 * 32 * 32

# The largest official idx file holds 47 MB, the CIFAR-10 archives 184 MB in members
# of 31 MB. Whatever is longer is refused while it is read, before it fills memory.
MAX_IDX_BYTES = 2**28
MAX_ARCHIVE_BYTES = 2**28
MAX_MEMBER_BYTES = 2**25
# Before a member come its header and perhaps extended ones (long names, attributes),
# which tarfile reads whole, searches in quadratic time (before Python 3.11.10) and
# keeps as many small objects.
MAX_HEADER_BYTES = 2**16       # before one member
MAX_EXTENDED_BYTES = 2**11     # of one extended header
MAX_EXTENDED_IN_ALL = 2**24
MAX_PICKLE_MEMO = 10**6        # entries, for which the unpickler makes room at once

_CHUNK = 2**20
_UNPACK = ("no archive of CIFAR-10 does (pictures in class folders: unpack it and name "
           "the folder)")


@contextlib.contextmanager
def _gunzip(path: Path) -> Iterator[gzip.GzipFile]:
    """Opens a gzip file; damage found while reading becomes an `InputError`."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise InputError(f"{path} is no file; fetch it again")
    try:
        with gzip.open(path, "rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(
            f"{path} cannot be read as gzip ({error}); fetch it again") from error


def read_idx(path: Path) -> np.ndarray:
    """The uint8 array of a gzipped idx file: labels [N] or images [N, H, W].

    Format: big-endian int32 magic number (2049 labels, 2051 images), one int32 per
    axis, then the bytes (Y. LeCun, C. Cortes, C. Burges, 1998).

    Raises:
        InputError: another magic number, fewer or more bytes than the header says,
            more than `MAX_IDX_BYTES`, or damaged gzip data.
    """
    with _gunzip(path) as stream:
        magic = int.from_bytes(stream.read(4), "big")
        if magic not in (IDX_LABELS, IDX_IMAGES):
            raise InputError(
                f"{path} starts with the number {magic}; an idx file of labels starts "
                f"with {IDX_LABELS}, one of images with {IDX_IMAGES}")
        axes = 3 if magic == IDX_IMAGES else 1
        header = stream.read(4 * axes)
        if len(header) < 4 * axes:
            raise InputError(f"{path} ends inside its header; fetch it again")
        shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
        size = int(np.prod(shape, dtype=object))
        if size > MAX_IDX_BYTES:
            raise InputError(
                f"{path} announces shape {shape}, {size:,} bytes; at most "
                f"{MAX_IDX_BYTES:,} are read")
        data = _read_at_most(stream, size + 1)
    if len(data) != size:
        held = "more" if len(data) > size else f"{len(data):,}"
        raise InputError(
            f"{path} announces shape {shape}, {size:,} bytes, but holds {held}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _read_at_most(stream, size: int) -> bytes:
    """Up to `size` bytes, never allocating for bytes that do not come."""
    data = io.BytesIO()
    while chunk := stream.read(min(_CHUNK, size - data.tell())):
        data.write(chunk)
    return data.getvalue()


class _Bounded:
    """A stream for tarfile, which gives out `left` bytes more and `total` in all."""

    def __init__(self, stream, path):
        self._stream, self._path = stream, path
        self.left, self.total = MAX_HEADER_BYTES, MAX_ARCHIVE_BYTES

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self.left -= len(data)
        self.total -= len(data)
        if self.total < 0:
            raise InputError(
                f"{self._path} unpacks to more than {MAX_ARCHIVE_BYTES:,} bytes, the "
                f"limit; {_UNPACK}")
        if self.left < 0:
            raise InputError(
                f"{self._path} has more than {MAX_HEADER_BYTES:,} bytes of headers "
                f"before a member, the limit; {_UNPACK}")
        return data


def _checked_headers(path) -> type[tarfile.TarInfo]:
    """What tarfile makes of headers, refusing extended ones that are large."""
    extended = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE,
                tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
    in_all = 0

    class Header(tarfile.TarInfo):
        @classmethod
        def frombuf(cls, *arguments):
            nonlocal in_all
            header = super().frombuf(*arguments)
            if header.type in extended:
                in_all += header.size
                if not 0 <= header.size <= MAX_EXTENDED_BYTES:
                    raise InputError(
                        f"{path} has an extended header of {header.size:,} bytes (a "
                        f"long name, attributes); at most {MAX_EXTENDED_BYTES:,} are "
                        f"read; {_UNPACK}")
                if in_all > MAX_EXTENDED_IN_ALL:
                    raise InputError(
                        f"{path} has over {MAX_EXTENDED_IN_ALL:,} bytes of extended "
                        f"headers, the limit; {_UNPACK}")
            return header

    return Header


def tar_members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of a .tar.gz, in order, nothing extracted.

    Raises:
        InputError: a link, a device, a sparse file, an absolute name, '..' in a name,
            a member over `MAX_MEMBER_BYTES`, headers over `MAX_HEADER_BYTES`, or a
            damaged archive.
    """
    with _gunzip(path) as stream:
        source = _Bounded(stream, path)
        try:
            with tarfile.open(fileobj=source, mode="r|",
                              tarinfo=_checked_headers(path)) as archive:
                while (member := archive.next()) is not None:
                    _check_member(path, member)
                    if member.isreg():
                        source.left = member.size + tarfile.RECORDSIZE
                        data = archive.extractfile(member).read()
                        yield str(PurePosixPath(member.name)), data
                    source.left = MAX_HEADER_BYTES
                    # Else each member is kept, and has all global headers before it.
                    archive.members.clear()
                    archive.pax_headers.clear()
        except (InputError, OSError, EOFError, zlib.error):
            raise
        except Exception as error:  # hostile headers make tarfile raise almost anything
            raise InputError(
                f"{path} cannot be read as a tar archive ({error}); fetch it again"
            ) from error


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    plain = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE)
    if not plain or member.issparse():
        fault = "which is a link, a device or a special file"
    elif name.is_absolute() or ".." in name.parts:
        fault = "which points out of the archive"
    elif member.size > MAX_MEMBER_BYTES:
        fault = f"of {member.size:,} bytes, over the limit of {MAX_MEMBER_BYTES:,}"
    else:
        return
    raise InputError(f"{path} holds {member.name!r}, {fault}; the archive is not used")


def read_cifar_binary(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels uint8 [N] of a CIFAR-10 `.bin` batch.

    Format: records of 1 label byte and 3 planes (red, green, blue) of 32 x 32 bytes
    (A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009).
    """
    record = 1 + CIFAR_PIXELS
    if not data or len(data) % record:
        raise InputError(
            f"{name} has {len(data):,} bytes; a CIFAR-10 batch has a multiple of "
            f"{record:,}")
    records = np.frombuffer(data, np.uint8).reshape(-1, record)
    return _cifar_images(records[:, 1:]), records[:, 0]


def read_cifar_python(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [N, 32, 32, 3] and labels uint8 [N] of a CIFAR-10 pickled batch.

    The pickle is read without calling anything that it names, see `_Unpickler`.
    """
    try:
        for opcode, argument, _ in pickletools.genops(data):
            if "PUT" in opcode.name and int(argument) > MAX_PICKLE_MEMO:
                raise ValueError(f"it asks for {int(argument):,} places to remember")
        batch = _Unpickler(io.BytesIO(data), encoding="bytes").load()
        batch = {_bytes(key): value for key, value in batch.items()}
        pixels, labels = _array(batch[b"data"]), batch[b"labels"]
        if not (isinstance(labels, list) and len(labels) == len(pixels)
                and all(type(n) is int and 0 <= n < 256 for n in labels)):
            raise ValueError("labels must be one small int per image")
    except InputError as error:
        raise InputError(f"{name} {error}") from error
    except Exception as error:  # hostile bytes make pickle raise almost anything
        raise InputError(
            f"{name} is not a CIFAR-10 batch: {type(error).__name__}: {error}"
        ) from error
    return _cifar_images(pixels), np.array(labels, np.uint8)


def _cifar_images(pixels: np.ndarray) -> np.ndarray:
    """[N, 3072] in planes -> [N, 32, 32, 3]."""
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


class _Call:
    """Notes what a pickle wants to call, and calls nothing."""

    def __init__(self, *args):
        self.args, self.state = args, None

    def __setstate__(self, state):
        self.state = state


class _Reconstruct(_Call):
    """Stands for numpy's `_reconstruct`; the state holds shape, dtype and bytes."""


class _Dtype(_Call):
    """Stands for `numpy.dtype`."""


class _Encode(_Call):
    """Stands for `_codecs.encode`, how Python 3 writes bytes with protocol 2."""


class _Unpickler(pickle.Unpickler):
    """Knows the few names in a CIFAR-10 batch, as stand-ins; refuses all others."""

    _KNOWN = {
        ("numpy.core.multiarray", "_reconstruct"): _Reconstruct,
        ("numpy._core.multiarray", "_reconstruct"): _Reconstruct,
        ("numpy", "ndarray"): _Call,
        ("numpy", "dtype"): _Dtype,
        ("_codecs", "encode"): _Encode,
    }

    def find_class(self, module, name):
        if (module, name) not in self._KNOWN:
            raise InputError(
                f"is a pickle that would call {module}.{name}; a CIFAR-10 batch does "
                "not, and the file is not used")
        return self._KNOWN[module, name]


def _bytes(value) -> bytes:
    """A string of Python 2 (as bytes), or one of Python 3, noted or as it is."""
    if isinstance(value, _Encode):
        value = value.args[0]
    return value.encode("latin1") if isinstance(value, str) else value


def _array(noted) -> np.ndarray:
    """The uint8 [N, 3072] array that a noted `_reconstruct` describes."""
    if not isinstance(noted, _Reconstruct):
        raise ValueError("data must be a numpy array")
    _, shape, dtype, fortran, data = noted.state
    data = _bytes(data)
    if not isinstance(dtype, _Dtype) or dtype.args[0] not in ("u1", b"u1") or fortran:
        raise ValueError("data must be a uint8 array in C order")
    if len(shape) != 2 or shape[1] != CIFAR_PIXELS or shape[0] < 1:
        raise ValueError(f"data must be [N, {CIFAR_PIXELS}], not {shape}")
    if len(data) != shape[0] * shape[1]:
        raise ValueError(f"data has {len(data):,} bytes for the shape {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape)
