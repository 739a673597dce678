"""Decides how many bytes of pixels a set may keep in memory."""

import ctypes
import sys
from pathlib import Path
from typing import NamedTuple

import jax

from cnn_jax.data.images import MAX_BYTES

_MEMINFO = Path("/proc/meminfo")


class Limit(NamedTuple):
    """The most bytes of pixels, and why."""

    size: int
    reason: str


def limit() -> Limit:
    """Returns the least of 8 GiB, half of the host's and half of a device's memory.

    Several processes must agree, so they ignore the memory of their hosts.
    """
    limits = [Limit(MAX_BYTES, "the limit")]
    available = available_bytes() if jax.process_count() == 1 else None
    if available is not None:
        limits.append(Limit(available // 2, "half of the available memory"))
    device = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if device is not None:
        limits.append(Limit(device // 2, "half of the memory of a device"))
    return min(limits)


def available_bytes() -> int | None:
    """Reads how much memory Linux has available without swapping; None elsewhere."""
    if not _MEMINFO.exists():
        return None
    meminfo = dict(line.split(":") for line in _MEMINFO.read_text().splitlines())
    return 1024 * int(meminfo["MemAvailable"].removesuffix("kB"))


def return_freed() -> None:
    """Returns freed memory to Linux.

    glibc would keep it. After an index is built, that is twice the size of the index.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)
