"""Describes this machine and its packages, for results.json and the log."""

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from cnn_jax import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that affect a result."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "cnn_jax": __version__} | packages


def describe_devices(devices: Sequence[jax.Device]) -> str:
    """Writes the devices, the number of processes and the main versions in a line."""
    kinds = {d.device_kind for d in devices}
    packages = versions()
    main = ", ".join(f"{name} {packages[name]}" for name in ("python", "jax", "flax"))
    return (f"devices: {len(devices)} x {devices[0].platform} ({', '.join(kinds)}), "
            f"{jax.process_count()} process{'es' * (jax.process_count() > 1)} - {main}")


def peak_memory_mb(devices: Sequence[jax.Device]) -> dict[str, float]:
    """Returns the peak memory of this process in MB.

    If the backend counts it, it adds the peak of the device that used the most.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    counted = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in devices
               if d.process_index == jax.process_index()]
    memory = {"peak_memory_mb": round(host, 1)}
    if any(counted):
        memory["device_peak_memory_mb"] = round(max(counted) / 1e6, 1)
    return memory


def core_count() -> int:
    """Counts the cores that this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count() or 1)


def machine() -> str:
    """Names the processor and the number of its cores that this process may use."""
    cores = core_count()
    try:
        processors = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux, or hidden
        processors = ""
    model = re.search(r"^model name\s*: (.+)$", processors, re.MULTILINE)
    name = model[1] if model else platform.processor() or platform.machine()
    return f"{cores} core{'s' * (cores > 1)} of {name}"


def commit() -> str | None:
    """Returns the git commit of the sources, or None if there is none."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"],
                              capture_output=True, text=True, check=False)
    except OSError:  # git is not installed
        return None
    return done.stdout.strip() if done.returncode == 0 else None
