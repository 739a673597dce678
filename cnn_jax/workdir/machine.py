"""Facts of this machine and its packages, for results.json and the log."""

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

import jax

from cnn_jax import __version__

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Of Python and of the packages that decide what a run computes."""
    found = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"python": platform.python_version(), "cnn_jax": __version__} | found


def describe_devices(devices) -> str:
    """The line that says where a run happens and with what."""
    kinds = {d.device_kind for d in devices}
    packages = versions()
    words = ", ".join(f"{name} {packages[name]}" for name in ("python", "jax", "flax"))
    return (f"devices: {len(devices)} x {devices[0].platform} ({', '.join(kinds)}), "
            f"{jax.process_count()} process(es) - {words}")


def peak_memory_mb(devices) -> dict[str, float]:
    """Of this process; and the largest of its devices', where the backend counts it."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    counted = [(d.memory_stats() or {}).get("peak_bytes_in_use", 0) for d in devices
               if d.process_index == jax.process_index()]
    memory = {"peak_memory_mb": round(host, 1)}
    if any(counted):
        memory["device_peak_memory_mb"] = round(max(counted) / 1e6, 1)
    return memory


def core_count() -> int:
    """How many cores this process may use."""
    return (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity")
            else os.cpu_count())


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    cores = core_count()
    names = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", names.read_text(), re.MULTILINE
                      ) if names.exists() else None
    name = found[1] if found else platform.processor() or platform.machine()
    return f"{cores} core{'s' * (cores > 1)} of {name}"


def commit() -> str | None:
    """Returns the git commit of the sources; None where git does not tell it."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    try:
        found = subprocess.run(["git", "-C", root, "rev-parse", "HEAD"],
                               capture_output=True, text=True, check=False)
    except OSError:  # no program git
        return None
    return found.stdout.strip() if found.returncode == 0 else None
