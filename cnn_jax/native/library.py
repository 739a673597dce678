"""Loads the library that `build` built and registers it with XLA, once per process.

The library is built with oneDNN if the extra is installed, and else without it. Without
a compiler or the platform, `load` returns None. The log says which is used, and why.
CNN_JAX_NATIVE in the environment decides too: 0 turns the library off, `own` leaves
oneDNN out.
"""

import ctypes
import functools
import logging
import os
import platform
import sys
import threading
from typing import Any, NamedTuple

import jax
from jax._src import dispatch
from jax.interpreters import mlir

from cnn_jax.errors import InputError
from cnn_jax.native.build import builder

# The handlers of the .cc files, and their names in XLA.
TARGET, SUMS, NETWORK = "cnn_jax_convolution", "cnn_jax_sums", "cnn_jax_network"

# JAX's list of primitives whose lowering must know the devices of the program. A
# lowering with custom_partitioning must. JAX has no public name for the list.
LOWERED_WITH_DEVICES = "prim_requires_devices_during_lowering"

# How many turns OpenMP's threads spin while they wait for a call, unless the user sets
# it. With OpenMP's default they keep XLA's threads from the cores for milliseconds.
# With 10,000 turns, MobileNetV2 at batch 1 takes 0.9 of the time that it takes with
# 600, and the training steps of seven networks take 0.9 to 1.01.
SPIN = "10000"

_LOCK = threading.Lock()


class Library(NamedTuple):
    """The loaded library."""

    version: str    # of oneDNN, '' without it
    bfloat16: bool  # whether the CPU has instructions for it
    threads: str    # of oneDNN: 'OpenMP', "XLA's threads", ...
    loaded: ctypes.CDLL

    def __str__(self) -> str:
        return (f"oneDNN {self.version} ({self.threads})" if self.version
                else "C++ without oneDNN")


def lower_with_devices(primitive: Any) -> None:
    """Tells JAX that the lowering of a primitive must know the program's devices."""
    getattr(dispatch, LOWERED_WITH_DEVICES, set()).add(primitive)


def runs_unsharded(module: Any) -> bool:
    """Tells whether a program runs unsharded, so that it may call the library.

    It does on a single device, and inside pmap and shard_map unless shard_map leaves
    axes to the compiler. An exported program does not count: the machine that loads it
    may lack the library.

    module: the ModuleContext of a lowering.
    """
    axes = module.axis_context
    alone = (axes.num_devices == 1 if isinstance(axes, mlir.ShardingContext)
             else axes.manual_axes == frozenset(axes.mesh.axis_names))
    return alone and not module.lowering_parameters.for_export


def load() -> Library | None:
    """Returns the library, built if it is missing; None where it cannot be used."""
    with _LOCK:  # two threads must not register the handler twice
        return _load()[0]


def load_onednn() -> Library | None:
    """Returns the library if it has oneDNN; does not build one without."""
    return load() if wants_onednn() else None


def wants_onednn() -> bool:
    """Tells whether the library, if it can be loaded, is built with oneDNN."""
    try:
        return _onednn()[0] is not None
    except (OSError, RuntimeError, InputError):  # `load` says what is wrong
        return True


def describe() -> str:
    """Returns 'oneDNN 3.2.0 (OpenMP)', or 'no oneDNN: ' and the reason."""
    with _LOCK:
        library, reason = _load()
    return f"no oneDNN: {reason}" if reason else str(library)


def has_bfloat16() -> bool:
    """Tells whether oneDNN is loaded, on a CPU with instructions for bfloat16."""
    library = load_onednn()
    return library is not None and library.bfloat16


@functools.cache
def _onednn() -> tuple[builder.OneDNN | None, str]:
    """Returns (oneDNN, '') or (None, why the library is built without it)."""
    if switch() == "own":
        return None, "CNN_JAX_NATIVE=own leaves it out"
    try:
        return builder.chosen(), ""
    except builder.NotInstalled as error:
        logging.getLogger(__name__).info("no oneDNN: %s", error)
        return None, str(error)


@functools.cache
def _load() -> tuple[Library | None, str]:
    """Returns the library, if any, and why it has no oneDNN, else ''."""
    log = logging.getLogger(__name__)
    try:
        library, reason = _register()
    except (OSError, RuntimeError, InputError) as error:  # BuildError; no folder
        log.log(logging.INFO if isinstance(error, builder.NotInstalled)
                else logging.WARNING, "convolutions run in JAX alone: %s", error)
        return None, str(error)
    log.info("convolutions may run in %s, batch-norm statistics in C++", library)
    return library, reason


def switch() -> str:
    """Reads CNN_JAX_NATIVE: '0', '1' or 'own'."""
    value = os.environ.get("CNN_JAX_NATIVE") or "1"
    if value not in ("0", "1", "own"):
        raise builder.BuildError(f"CNN_JAX_NATIVE={value} is neither 0 (off), 1 nor "
                                 "own (without oneDNN)")
    return value


def _register() -> tuple[Library, str]:
    if switch() == "0":
        raise builder.NotInstalled("CNN_JAX_NATIVE=0 turns it off")
    if sys.platform != "linux":
        raise builder.NotInstalled(f"it needs Linux, this is {platform.system()}")
    onednn, reason = _onednn()
    if onednn is None and platform.machine() != "x86_64":
        raise builder.NotInstalled(f"{reason}; without it the library needs x86-64")
    if not hasattr(dispatch, LOWERED_WITH_DEVICES):
        raise builder.BuildError(f"jax {jax.__version__} lacks {LOWERED_WITH_DEVICES}: "
                                 "it needs another version of cnn_jax")
    try:
        path = builder.build(onednn)
    except builder.NoCompiler as error:
        if onednn is None:  # nobody asked for the library
            raise builder.NotInstalled(f"{reason}; {error}") from error
        raise
    if onednn and "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN)  # read when OpenMP is loaded
    if path.stat().st_uid not in (os.getuid(), 0):
        raise builder.BuildError(f"{path} belongs to another user: delete it, or set "
                                 "CNN_JAX_CACHE to a folder of your own")
    try:
        loaded = ctypes.CDLL(str(path))
        handlers = {name: getattr(loaded, name)
                    for name in (TARGET, SUMS, NETWORK)[:3 if onednn else 2]}
    except (OSError, AttributeError) as error:
        raise builder.BuildError(f"{error}: python -m cnn_jax.native.build --force "
                                 "builds it again") from error
    if platform.machine() == "x86_64" and not loaded.cnn_jax_has_avx2():
        raise (builder.BuildError if onednn else builder.NotInstalled)(
            "this CPU has no AVX2, without which the library is slow")
    for name, handler in handlers.items():
        jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    loaded.cnn_jax_threads.restype = ctypes.c_char_p
    version = loaded.cnn_jax_onednn_version()
    text = f"{version // 10000}.{version // 100 % 100}.{version % 100}"
    return Library(text if version else "", bool(loaded.cnn_jax_has_bfloat16()),
                   loaded.cnn_jax_threads().decode(), loaded), reason


def drop_weights(number: int) -> None:
    """Frees the kernels that network.cc packed for the weights with this number."""
    library = load()
    if library is not None:
        library.loaded.cnn_jax_network_drop(ctypes.c_int32(number))
