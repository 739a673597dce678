"""Keeps compiled programs from one start to the next.

XLA takes a minute to compile the programs of a deep network. JAX's compilation cache
keeps them in the folder `programs` of `CNN_JAX_CACHE`, else of ~/.cache/cnn_jax, and
drops those that were used longest ago. You may delete the folder. `CNN_JAX_CACHE=0`
turns the cache off; JAX_COMPILATION_CACHE_DIR, if set, names another folder.

The key of a program is its code, the compiler's options, the versions of jax and
jaxlib, and the devices. A call of the native library is kept by its name, so it runs in
the library that is loaded. Programs that call Python are never kept.

In a program over several CPU devices, a call of the native library is an address until
the compiler asks for each device's part of it. `compile_program` leaves the address out
of the key if the program holds all that decides the parts: `PARTS`, which
`native.lowering` writes beside each address. Another library's parts have no such mark,
so a program with one of them is compiled at each start.
"""

import logging
import os
from typing import Any

import jax

from cnn_jax import files

MOST_BYTES = 1 << 30
PARTS = "cnn_jax_parts"  # metadata of an operation that Python partitions
WITHOUT_ADDRESS = "jax_remove_custom_partitioning_ptr_from_cache_key"
SECONDS = 0.0  # least compile time; a start has a hundred programs that take 0.05 s


def use_program_cache() -> None:
    """Turns the cache on; call it before the first program is compiled."""
    if (os.environ.get("CNN_JAX_CACHE") == "0"
            or "JAX_COMPILATION_CACHE_DIR" in os.environ):
        return
    folder = files.cache_folder() / "programs"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        usable = folder.stat().st_uid == os.getuid() and os.access(folder, os.W_OK)
    except OSError as error:
        logging.getLogger(__name__).info("programs are not kept: %s", error)
        return
    if not usable:  # who can write to the folder can make this user run code
        logging.getLogger(__name__).info("programs are not kept: %s is not a folder of "
                                         "this user", folder)
        return
    for name, value in {
            "jax_compilation_cache_dir": str(folder),
            "jax_compilation_cache_max_size": MOST_BYTES,
            "jax_persistent_cache_min_compile_time_secs": SECONDS}.items():
        jax.config.update(name, value)


def compile_program(lowered: jax.stages.Lowered, options: dict[str, Any] | None = None
                    ) -> jax.stages.Compiled:
    """Compiles a program with these compiler options, or takes a kept one."""
    before = jax.config.values[WITHOUT_ADDRESS]
    sharded = jax.default_backend() == "cpu" and jax.local_device_count() > 1
    jax.config.update(WITHOUT_ADDRESS,
                      before or sharded and holds_parts(lowered.as_text()))
    try:
        return lowered.compile(compiler_options=options)
    finally:
        jax.config.update(WITHOUT_ADDRESS, before)


def holds_parts(text: str) -> bool:
    """Tells whether a program's text decides all that Python partitions in it."""
    return all(PARTS in line for line in text.splitlines()
               if "@CustomSPMDPartitioning" in line)
