"""Decides how many bytes of pixels a set may keep in memory."""

import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

import jax

from cnn_jax.data.images import MAX_BYTES

_MEMINFO = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")  # of a container


class Limit(NamedTuple):
    """The most bytes of pixels, and why."""

    size: int
    reason: str


def limit() -> Limit:
    """Returns the least of 8 GiB and of parts of the host's and a device's memory.

    The parts are a quarter of the host's and half of a device's. It is a quarter
    because up to three copies of the pixels exist at the start: as stored, split, and
    in one array. Several processes must agree, so they ignore their hosts.
    """
    limits = [Limit(MAX_BYTES, "the limit")]
    available = available_bytes() if jax.process_count() == 1 else None
    if available is not None:
        limits.append(Limit(available // 4, "a quarter of the available memory"))
    device = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if device is not None:
        limits.append(Limit(device // 2, "half of the memory of a device"))
    return min(limits)


def available_bytes() -> int | None:
    """Reads how much memory Linux has available without swapping; None elsewhere.

    In a container with a limit, it is at most what is left of that, not counting cached
    files, which Linux drops when it needs memory.
    """
    if not _MEMINFO.exists():
        return None
    meminfo = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    available = 1024 * int(meminfo["MemAvailable"].removesuffix("kB"))
    most = _GROUP / "memory.max"
    if not most.exists() or (text := most.read_text().strip()) == "max":
        return available
    used = int((_GROUP / "memory.current").read_text())
    statistics = dict(line.split() for line in
                      (_GROUP / "memory.stat").read_text().splitlines())
    return max(0, min(available, int(text) - used + int(statistics["inactive_file"])))


def return_freed() -> None:
    """Returns freed memory to Linux.

    glibc would keep it. After an index is built, that is twice the size of the index.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
