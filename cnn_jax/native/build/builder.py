"""Finds oneDNN, and compiles the C++ of `cnn_jax.native` with or without it."""

import hashlib
import importlib.metadata
import logging
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import filelock
import jax
import jaxlib

from cnn_jax import files
from cnn_jax.installation import install_command

FOLDER = Path(__file__).parents[1]
SOURCES = tuple(FOLDER / f"{name}.cc" for name in ("convolution", "moments", "network"))
OWN_SOURCES = SOURCES[:2]  # those that compile without oneDNN
WHEELS = "onednn-cpu-gomp", "onednn-devel-cpu-gomp"
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-w")
SECONDS = 300  # limit for a compiler (takes 15), and for waiting for another process


class BuildError(RuntimeError):
    """The library cannot be built; the message is one line."""


class NotInstalled(BuildError):
    """What the library needs is not installed, or the library is turned off."""


class NoCompiler(BuildError):
    """There is no compiler."""


class OneDNN(NamedTuple):
    """One installation of oneDNN."""

    include: Path
    library: Path  # .so, or .a


def own_folder() -> Path:
    return files.cache_folder() / "native"


def from_wheels() -> OneDNN:
    """Finds the oneDNN of pip: one package has the headers, one the library."""
    located = []
    for wheel, name in zip(WHEELS, ("libdnnl.so.3", "oneapi/dnnl/dnnl.hpp")):
        try:
            contents = importlib.metadata.files(wheel) or []
        except importlib.metadata.PackageNotFoundError:
            raise NotInstalled(f"{wheel} is not installed: "
                               f"{install_command('onednn')} (Linux on x86-64)"
                               ) from None
        paths = [Path(file.locate()).resolve() for file in contents
                 if file.as_posix().endswith(f"/{name}")]
        if not paths or not paths[0].exists():
            raise BuildError(f"{wheel} is installed without {name}: pip install "
                             f"--force-reinstall {wheel}")
        located.append(paths[0])
    library, header = located
    return OneDNN(header.parents[2], library)


def from_folder(folder: str | Path) -> OneDNN:
    """Finds the oneDNN that `cmake --install` put into a folder."""
    folder = Path(folder).expanduser().resolve()
    header = folder / "include" / "oneapi" / "dnnl" / "dnnl.hpp"
    libraries = [folder / lib / name for name in ("libdnnl.so", "libdnnl.a")
                 for lib in ("lib", "lib64", "lib/x86_64-linux-gnu")]
    library = next((path for path in libraries if path.exists()), None)
    if not header.exists() or library is None:
        missing = "include/oneapi/dnnl/dnnl.hpp" if library else "lib/libdnnl.so or .a"
        raise BuildError(f"--with-onednn={folder} has no {missing}: give the folder "
                         "that oneDNN was installed into")
    return OneDNN(header.parents[2], library)


def chosen() -> OneDNN:
    """Finds the oneDNN of the last build command, else that of the wheels."""
    record = own_folder() / "with-onednn"
    try:
        return from_folder(record.read_text())
    except FileNotFoundError:
        return from_wheels()
    except ValueError as error:  # no text, or a name that no folder has
        raise BuildError(f"{record} does not name a folder ({error}): delete it, or "
                         "run python -m cnn_jax.native.build again") from error


def processor() -> str:
    """Identifies the kind of CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        lines = []
    known = [line for line in lines if line.startswith(("model name", "flags"))]
    return "\n".join([platform.machine(), *known])


def built_path(onednn: OneDNN | None) -> Path:
    """Returns the path of the library built against this oneDNN, present or not.

    onednn: None, here and below, for our own kernels without oneDNN.
    """
    state = onednn and onednn.library.stat()
    key = hashlib.sha256()
    for source in [*SOURCES, *sorted(FOLDER.glob("*.h"))]:
        key.update(source.read_bytes())
    key.update(repr((FLAGS, jaxlib.__version__, processor(), onednn and str(
        onednn.library), state and (state.st_size, state.st_mtime_ns))).encode())
    return own_folder() / f"convolution-{key.hexdigest()[:32]}.so"


def compiler() -> list[str]:
    """Returns the compiler and its flags."""
    try:
        return [*shlex.split(os.environ.get("CXX") or "g++"), *FLAGS]
    except ValueError as error:
        raise BuildError(f"CXX={os.environ['CXX']} is not a command line ({error}): "
                         "set it to a compiler, such as g++") from error


def compile_command(onednn: OneDNN | None, source: Path, output: Path) -> list[str]:
    """Composes the command line that compiles one source."""
    with_onednn = ["-DWITH_ONEDNN", "-I", str(onednn.include)] if onednn else []
    return [*compiler(), "-I", jax.ffi.include_dir(), *with_onednn,
            "-c", str(source), "-o", str(output)]


def link_command(onednn: OneDNN | None, objects: Sequence[Path],
                 output: Path) -> list[str]:
    """Composes the command line that links the compiled sources."""
    if onednn is None:
        libraries = []
    elif onednn.library.suffix == ".a":
        libraries = [str(onednn.library), "-Wl,--exclude-libs,ALL", "-fopenmp", "-ldl"]
    else:
        # The RPATH wins over LD_LIBRARY_PATH. -Xlinker takes a path with a comma.
        libraries = [str(onednn.library), "-Wl,--disable-new-dtags", "-Xlinker",
                     "-rpath", "-Xlinker", str(onednn.library.parent)]
    return [*compiler(), *map(str, objects), "-o", str(output), *libraries, "-lpthread"]


def build(onednn: OneDNN | None, force: bool = False) -> Path:
    """Returns the path of the built library, and compiles it if it is missing.

    Several processes may call this at once: one compiles, the others wait. Raises
    BuildError.
    """
    path = built_path(onednn)
    if path.exists() and not force:
        return path
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with filelock.FileLock(path.parent / "lock", timeout=SECONDS):
            if not path.exists() or force:
                _compile(onednn, path)
    except filelock.Timeout:
        raise BuildError(f"another process has been building in {path.parent} for "
                         f"{SECONDS} s: wait for it, or end it") from None
    except OSError as error:
        raise BuildError(f"cannot build in {path.parent}: {error}") from error
    return path


def _compile(onednn: OneDNN | None, path: Path) -> None:
    """Compiles the sources in parallel and renames the library when it is complete."""
    logging.getLogger(__name__).info(
        "compiles the C++ library, once for this machine: about 10 s, 20 with oneDNN")
    sources = SOURCES if onednn else OWN_SOURCES
    for stale in path.parent.glob(".building-*"):  # of a process that was killed
        shutil.rmtree(stale) if stale.is_dir() else stale.unlink()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".building-") as temporary:
        folder = Path(temporary)
        objects = [folder / f"{source.stem}.o" for source in sources]
        with ThreadPoolExecutor() as threads:
            list(threads.map(_call, (compile_command(onednn, *pair)
                                     for pair in zip(sources, objects))))
        _call(link_command(onednn, objects, folder / path.name))
        os.replace(folder / path.name, path)


def _call(line: Sequence[str]) -> None:
    """Runs the compiler; raises BuildError with its first error."""
    try:
        result = subprocess.run(line, capture_output=True, text=True, timeout=SECONDS)
    except FileNotFoundError as error:
        raise NoCompiler(f"{line[0]} not found: install g++ (Debian, Ubuntu: apt "
                         "install g++), or set CXX to a C++17 compiler") from error
    except subprocess.TimeoutExpired as error:
        raise BuildError(f"{line[0]} took more than {SECONDS} s") from error
    if result.returncode:
        messages = (result.stderr.strip().splitlines()
                    or [f"exit code {result.returncode}"])
        first = next((text for text in messages if "error" in text), messages[0])
        raise BuildError(f"{line[0]} failed: {first.strip()}")
