"""The C++ library is built once and loaded safely; a failure gives one line.

Most tests replace the compiler with a shell script and oneDNN with empty files. One
builds with g++ against the real oneDNN, if both are installed.
"""

import functools
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from tests.support.forked import Forked
from tests.support.gradcheck import normal, relative_error
from tests.support.tiny_runs import end, start_module

from cnn_jax.native import library
from cnn_jax.native.build import builder, command
from cnn_jax.ops import correlate
from cnn_jax.ops.conv import registry

ROOT = Path(__file__).parents[2]
FIND_OUTPUT = 'while [ "$1" != -o ]; do shift; done; '
# It counts the links: one for each build.
COUNTING = ('case " $* " in *" -c "*) ;; *) echo x >> "$COUNT"; sleep 1;; esac; '
            f'{FIND_OUTPUT} echo built > "$2"')


def compiler(folder: Path, script: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Makes an empty cache, a compiler that succeeds, and oneDNN as empty files."""
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", compiler(tmp_path, COUNTING.replace("sleep 1;;", ";;")))
    monkeypatch.setenv("COUNT", str(tmp_path / "count"))
    header = tmp_path / "onednn" / "include" / "oneapi" / "dnnl" / "dnnl.hpp"
    for file in header, tmp_path / "onednn" / "lib" / "libdnnl.so":
        file.parent.mkdir(parents=True)
        file.touch()
    return tmp_path


@pytest.fixture
def fresh(monkeypatch):
    """Loads as in a new process; other tests keep the loaded library."""
    for name in "CNN_JAX_NATIVE", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY":
        monkeypatch.delenv(name, raising=False)
    for name in ("_load", "_onednn"):
        monkeypatch.setattr(library, name, functools.cache(
            getattr(library, name).__wrapped__))


def compiled(place: Path) -> int:
    return len((place / "count").read_text().split())


def names(place: Path) -> set[str]:
    return {path.name for path in (place / "cache" / "native").iterdir()}


def test_builds_once(place):
    onednn = builder.from_folder(place / "onednn")
    path = builder.build(onednn)
    assert path.read_text() == "built\n" and compiled(place) == 1
    assert builder.build(onednn) == path and compiled(place) == 1
    assert builder.build(onednn, force=True) == path and compiled(place) == 2
    assert names(place) == {path.name, "lock"}
    assert path.parent.stat().st_mode & 0o777 == 0o700
    without = builder.build(None)
    assert without != path and compiled(place) == 3


def test_two_processes_build_once(place):
    environment = os.environ | {"CXX": compiler(place, COUNTING)}
    processes = []
    for folder in (place / "first", place / "second"):
        folder.mkdir()
        processes.append(Forked([f"--with-onednn={place / 'onednn'}"], folder,
                                environment=environment, module="cnn_jax.native.build"))
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ends
    assert ends[0] == ends[1] and Path(ends[0][0].strip()).read_text() == "built\n"
    assert compiled(place) == 1


def test_the_name_holds_what_it_depends_on(place, monkeypatch):
    onednn = builder.from_folder(place / "onednn")
    seen = {builder.built_path(onednn)}

    def differs():
        path = builder.built_path(onednn)
        assert path not in seen
        seen.add(path)
    onednn.library.write_text("another version")
    differs()
    monkeypatch.setattr(builder.jaxlib, "__version__", "0.99")
    differs()
    monkeypatch.setattr(builder, "processor", lambda: "another CPU")
    differs()
    changed = place / "convolution.cc"
    changed.write_bytes(builder.SOURCES[0].read_bytes() + b"\n")
    monkeypatch.setattr(builder, "SOURCES", (changed, *builder.SOURCES[1:]))
    differs()
    assert builder.built_path(onednn) in seen


@pytest.mark.parametrize("script, pattern", [
    (FIND_OUTPUT + 'echo half > "$2"; echo "a.cc:3: fatal error: no x.h" >&2; exit 1',
     "a.cc:3: fatal error: no x.h"),
    (FIND_OUTPUT + 'echo half > "$2"; exit 7', "code 7")])
def test_a_failed_build_leaves_nothing(place, monkeypatch, script, pattern):
    monkeypatch.setenv("CXX", compiler(place, script))
    with pytest.raises(builder.BuildError, match=pattern) as error:
        builder.build(builder.from_folder(place / "onednn"))
    assert "\n" not in str(error.value)
    assert names(place) == {"lock"}


def test_a_killed_build_is_repeated(place):
    started = place / "started"
    process = subprocess.Popen(
        [sys.executable, "-m", "cnn_jax.native.build",
         f"--with-onednn={place / 'onednn'}"], cwd=ROOT, start_new_session=True,
        env=os.environ | {"CXX": compiler(
            place, f'{FIND_OUTPUT} echo half > "$2"; touch {started}; sleep 600')})
    while not started.exists():
        assert process.poll() is None
        time.sleep(.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    left, = names(place) - {"lock"}
    assert left.startswith(".building-")
    (place / "cache" / "native" / ".building-earlier").touch()  # it was a file
    compiler(place, COUNTING)
    path = builder.build(builder.from_folder(place / "onednn"))
    assert path.read_text() == "built\n" and names(place) == {path.name, "lock"}


@pytest.mark.parametrize("change, fact", [
    (lambda place, env: env("CXX", "/no/such/g++"), "/no/such/g++ not found: install"),
    (lambda place, env: (place / "cache").touch(), "cannot build in"),
    (lambda place, env: (place / "onednn/lib/libdnnl.so").unlink(), "has no lib/lib"),
    (lambda place, env: (place / "onednn/include/oneapi/dnnl/dnnl.hpp").unlink(),
     "has no include/oneapi/dnnl/dnnl.hpp")])
def test_the_command_says_what_is_missing(place, monkeypatch, capsys, change, fact):
    change(place, monkeypatch.setenv)
    assert command.main([f"--with-onednn={place / 'onednn'}"]) == 1
    assert fact in capsys.readouterr().err


def test_the_command_chooses_the_library(place, capsys):
    assert command.main([f"--with-onednn={place / 'onednn'}"]) == 0
    assert builder.chosen().library == place / "onednn" / "lib" / "libdnnl.so"
    assert capsys.readouterr().out.strip() == str(builder.built_path(builder.chosen()))
    (place / "onednn" / "lib" / "libdnnl.so").rename(
        place / "onednn" / "lib" / "libdnnl.a")
    line = builder.link_command(builder.chosen(), [], place / "x.so")
    assert "-Wl,--exclude-libs,ALL" in line


@pytest.mark.parametrize("change, reason, level", [
    (lambda env: env("CNN_JAX_NATIVE", "0"), "CNN_JAX_NATIVE=0", logging.INFO),
    (lambda env: env("CNN_JAX_NATIVE", "off"), "neither 0", logging.WARNING),
    (lambda env: (env("CNN_JAX_NATIVE", "own"), env("CXX", "/no/such/g++")),
     "/no/such/g++ not found", logging.INFO),
    (lambda env: env("CXX", "/no/such/g++"), "not found", logging.WARNING),
    (lambda env: env("CXX", 'g++ "'), 'CXX=g++ " is not a command', logging.WARNING),
    (lambda env: None, "python -m cnn_jax.native.build --force", logging.WARNING)],
    ids=["off", "neither", "own, no compiler", "no compiler", "no command",
         "not a library"])
def test_without_it_one_line_says_why(place, fresh, monkeypatch, caplog, change, reason,
                                      level):
    onednn = builder.from_folder(place / "onednn")
    monkeypatch.setattr(builder, "chosen", lambda: onednn)
    change(monkeypatch.setenv)
    caplog.set_level(logging.INFO)
    assert library.load() is None and library.load() is None
    assert reason in library.describe()
    record, = [r for r in caplog.records if r.name == library.__name__]
    assert reason in record.message and record.levelno == level


@pytest.mark.parametrize("env, spin", [
    ({}, library.SPIN), ({"GOMP_SPINCOUNT": "7"}, "7"),
    ({"OMP_WAIT_POLICY": "active"}, None)])
def test_openmp_settings_of_the_user_are_kept(place, fresh, monkeypatch, env, spin):
    onednn = builder.from_folder(place / "onednn")
    monkeypatch.setattr(builder, "chosen", lambda: onednn)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    assert library.load() is None  # the compiler of `place` writes no library
    assert os.environ.get("GOMP_SPINCOUNT") == spin


@pytest.mark.parametrize("content", [b"\xff\xfe", b"a\0b"])
def test_a_damaged_record_of_the_onednn_folder(place, fresh, content):
    kept = builder.own_folder() / "with-onednn"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_bytes(content)
    assert library.load() is None
    assert str(kept) in library.describe()


def test_no_folder_to_build_in(place, fresh, monkeypatch):
    """The convolution falls back to XLA without an error."""
    (place / "file").touch()
    monkeypatch.setenv("CNN_JAX_CACHE", str(place / "file"))
    assert library.load() is None
    assert str(place / "file") in library.describe()


def test_a_cache_in_the_home_of_nobody(place, fresh, monkeypatch, capsys):
    monkeypatch.setenv("CNN_JAX_CACHE", "~nosuchuser/x")
    assert library.load() is None
    line = "CNN_JAX_CACHE is '~nosuchuser/x', whose home folder is not known"
    assert line in library.describe()
    assert command.main(["--with-onednn", str(place / "onednn")]) == 1
    assert line in capsys.readouterr().err


def test_the_compilers_options_and_a_comma_in_a_path(place, monkeypatch):
    monkeypatch.setenv("CXX", f"{compiler(place, COUNTING)} -m64")
    (place / "onednn").rename(place / "a,b c")
    onednn = builder.from_folder(place / "a,b c")
    line = builder.link_command(onednn, [], place / "x.so")
    assert line[1] == "-m64"
    assert line[line.index("-rpath") + 2] == str(place / "a,b c" / "lib")
    assert builder.build(onednn).read_text() == "built\n"


@pytest.mark.slow
@pytest.mark.skipif(library.load_onednn() is None, reason=library.describe())
def test_the_thread_pool_flavour_compiles(tmp_path):
    """It is compiled against the wheels' headers, changed to the thread-pool runtime.

    No package has that runtime. Later versions of oneDNN require the function `wait`.
    """
    include = tmp_path / "include"
    shutil.copytree(builder.from_wheels().include, include)
    for name, old, new in (
            ("dnnl_threadpool_iface.hpp", "virtual uint64_t get_flags() const = 0;",
             "virtual uint64_t get_flags() const = 0; virtual void wait() = 0;"),
            ("dnnl_config.h", "THREADING_RUNTIME DNNL_RUNTIME_OMP",
             "THREADING_RUNTIME DNNL_RUNTIME_THREADPOOL")):
        file, = include.glob(f"oneapi/**/{name}")
        assert old in file.read_text(), file
        file.write_text(file.read_text().replace(old, new))
    done = subprocess.run(
        ["g++", "-std=c++17", "-fsyntax-only", "-I", jax.ffi.include_dir(), "-I",
         str(include), *map(str, builder.SOURCES)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]


def test_not_installed(place, fresh, monkeypatch, caplog):
    """The library is then built without oneDNN; without a compiler, JAX computes all.
    """
    monkeypatch.setattr(builder, "WHEELS", ("no-such-wheel", "nor-this"))
    monkeypatch.setenv("CXX", "/no/such/g++")
    assert not library.wants_onednn() and library.load_onednn() is None
    assert library.load() is None
    for fact in "pip install 'cnn_jax[onednn]'", "/no/such/g++ not found":
        assert fact in library.describe()
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    monkeypatch.setenv("CXX", compiler(place, COUNTING))
    assert command.main([]) == 0 and builder.built_path(None).exists()


def test_a_jax_without_the_needed_internals(place, fresh, monkeypatch):
    monkeypatch.delattr(library.dispatch, library.LOWERED_WITH_DEVICES)
    library.lower_with_devices("primitive")
    assert library.load() is None
    assert "version of cnn_jax" in library.describe()


def test_conv_onednn_is_auto_without_it(no_onednn, caplog):
    registry._warn.cache_clear()
    x, w = (jnp.asarray(normal(i, *shape), jnp.float32) for i, shape in enumerate(
        [(2, 6, 5, 3), (3, 3, 3, 4)]))
    y = correlate(x, w, implementation="onednn")
    assert relative_error(y, correlate(x, w, implementation="lax")) <= 5e-6
    correlate(x, w, implementation="onednn")
    record, = [r for r in caplog.records if r.name.startswith("cnn_jax")]
    assert "'onednn'" in record.message and "'auto'" in record.message


def test_an_import_loads_nothing():
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs /proc")
    code, _, errors = end(start_module("tests.support.imports_alone"))
    assert code == 0, errors


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_the_library_without_onednn():
    """It serves our own kernels where oneDNN is installed too, in a process of its own.
    """
    code, _, errors = end(start_module("tests.support.without_onednn",
                                       variables={"CNN_JAX_NATIVE": "own"}))
    assert code == 0, errors


def is_linked(path: Path, onednn: builder.OneDNN) -> None:
    """Asserts that a built library finds this oneDNN without environment variables."""
    assert path.stat().st_size > 50_000
    shown = subprocess.run(["ldd", str(path)], capture_output=True, text=True).stdout
    assert str(onednn.library.parent) in shown, shown


@pytest.mark.skipif(library.load_onednn() is None, reason=library.describe())
def test_the_loaded_library_is_that_build():
    """The tests of convolutions load what g++ built from the sources as they are."""
    is_linked(builder.built_path(builder.chosen()), builder.chosen())


@pytest.mark.slow
def test_a_real_build(tmp_path, monkeypatch):
    """g++ alone builds it in its own folder, and the command names the file."""
    monkeypatch.setenv("CNN_JAX_CACHE", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    # Without optimization it compiles in half of the time.
    monkeypatch.setattr(builder, "FLAGS", ("-O0", *builder.FLAGS[1:]))
    try:
        onednn = builder.from_wheels()
        begun = time.perf_counter()
        path = builder.build(onednn)
    except builder.BuildError as error:
        if "not installed" in str(error) or "not found" in str(error):
            pytest.skip(str(error))
        raise
    assert time.perf_counter() - begun < builder.SECONDS
    is_linked(path, onednn)
