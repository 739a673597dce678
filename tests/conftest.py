"""Settings and fixtures that tests share: quick compiling and a browser."""

import atexit
import gc
import os
import sys

import jax
import pytest
from tests.support.browser import launched
from tests.support.quick_compile import FUSED, QUICK_FLAGS
from hypothesis import settings
from jax.experimental.compilation_cache import compilation_cache

import cnn_jax.native.register  # noqa: F401
from cnn_jax import ops
from cnn_jax.data import shapes
from cnn_jax.native import library

# An array of lower rank must be broadcast explicitly, here and in child processes.
jax.config.update("jax_numpy_rank_promotion", "raise")
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"

# Child processes keep no programs in the user's folder.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", "")

# The suite starts a hundred processes, which without stored bytecode would all compile
# the package.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Makes hypothesis draw the same examples in each run.
settings.register_profile("reproducible", derandomize=True)
settings.load_profile("reproducible")


def pytest_configure(config):
    """Lets XLA compile quickly, here and in child processes, before JAX has started.

    Slow tests compile as users do. So do the other tests if you put `XLA_FLAGS=` before
    the command.

    Python's garbage collector visits all live objects, here millions of objects of
    programs and imported modules. In the fast suite `collected` runs it once per file,
    on new objects. A file of slow tests may make gigabytes of garbage.
    """
    if config.option.markexpr == "not slow":
        os.environ.setdefault("XLA_FLAGS", QUICK_FLAGS)
        gc.disable()
    if hasattr(config, "workerinput"):  # this is a worker of pytest-xdist
        atexit.register(os._exit, 0)  # freeing all that it compiled takes seconds


def pytest_collection_modifyitems(items):
    """Puts folders of short files last, so that the workers end at the same time."""
    items.sort(key=lambda item: item.path.parent.name in ("config", "data"))


@pytest.fixture(scope="module", autouse=True)
def collected():
    """Collects the garbage of a file, and exempts the rest from later collections."""
    gc.freeze()
    yield
    gc.collect()


@pytest.fixture
def no_onednn(monkeypatch):
    """Makes the native library unavailable, to test `auto` without it."""
    monkeypatch.setattr(library, "load", lambda: None)


@pytest.fixture(scope="session")
def cache_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def compiled_once(cache_folder):
    """Compiles each program once per session and without LLVM's optimizations.

    This holds in this process and in those that it starts. Compiling takes nearly all
    of a tiny run's time. Only files with
    `pytestmark = pytest.mark.usefixtures("compiled_once")` use this fixture.
    """
    settings = {"jax_disable_most_optimizations": True,
                "jax_compilation_cache_dir": str(cache_folder),
                "jax_persistent_cache_min_compile_time_secs": 0.0,
                "jax_persistent_cache_min_entry_size_bytes": -1}
    before = {name: jax.config.values[name] for name in settings}
    patch = pytest.MonkeyPatch()
    for name, value in settings.items():
        jax.config.update(name, value)
        patch.setenv(name.upper(), str(value))
    compilation_cache.reset_cache()  # jax looks only once whether there is one
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()
    patch.undo()


@pytest.fixture(scope="module")
def fused():
    """Makes XLA fuse as by default in this process.

    It is for files that compare the bits of two programs, such as those of a resident
    and a streamed run.
    """
    options = ops.compiler_options
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ops, "compiler_options",
                      lambda *given: options(*given) | FUSED)
        yield


@pytest.fixture(scope="module")
def few_shapes():
    """Draws a sixth of the large shapes, in a second less."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "COUNTS_LARGE", (800, 200))
        yield


@pytest.fixture(scope="module")
def undrawn():
    """Turns off drawing in this process, which takes half of the time of a tiny run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cnn_jax.training.train.draw", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def browser():
    """Starts a headless Chromium; see tests/support/browser.py.

    Each file starts its own. While playwright runs, its event loop counts as running in
    this thread, and the tests of notebooks could not start theirs.
    """
    with launched() as chromium:
        yield chromium
