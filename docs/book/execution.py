"""Extends Sphinx: two kernels execute the pages while Sphinx reads them.

myst-nb alone executes a page when it reads it, one after the other. Most of the time
is the compilation of programs, which uses one processor.
"""

import contextlib
import os
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import create_nb_reader
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from nbformat import NotebookNode
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging

from book.languages import CHINESE

KERNELS = 2
# Pages that take long; they start early, so that the kernels finish together.
LONG = ("tutorial/transfer", "tutorial/looking_inside", "tutorial/lenet",
        "tutorial/batch_and_rate", "tutorial/families")
# Optimizes less: compiling a program of a page takes longer than running it.
FAST_COMPILATION = "--xla_backend_optimization_level=1"
MEASURES = ("tutorial/algorithms",)  # compares programs, so they are optimized

logger = logging.getLogger(__name__)
running: dict[str, Future[NotebookNode]] = {}


def empty_cache(app: Sphinx) -> None:
    """Deletes the outputs of earlier builds, so that this one executes every cell.

    Within a build, myst-nb reuses the outputs of a page whose kernel and code cells
    (with their tags) are the same. The text between the cells does not count.
    """
    outputs = Path(app.config.nb_execution_cache_path)
    if outputs.exists():
        shutil.rmtree(outputs)


def start(app: Sphinx, env: BuildEnvironment, names: list[str]) -> None:
    """Starts to execute the pages that will be read."""
    if env.mystnb_config.execution_mode != "cache":
        return
    pool = ThreadPoolExecutor(KERNELS)
    for name in sorted(names, key=lambda name: (name.startswith("tutorial/"),
                                                name not in LONG, name)):
        path = Path(env.doc2path(name))
        text = path.read_text(encoding="utf-8")
        reader = create_nb_reader(str(path), env.myst_config, env.mystnb_config, text)
        if reader is not None and not name.startswith(CHINESE):
            running[name] = pool.submit(execute, app, name, reader.read(text))


def execute(app: Sphinx, name: str, notebook: NotebookNode) -> NotebookNode:
    """Adds the outputs of the cells, executed in a kernel of their own."""
    flags = {} if name in MEASURES else {"XLA_FLAGS": " ".join(
        [os.environ.get("XLA_FLAGS", ""), FAST_COMPILATION])}
    begun = time.perf_counter()
    with TemporaryDirectory() as folder:
        NotebookClient(notebook, timeout=app.config.nb_execution_timeout,
                       record_timing=False,  # or myst-nb would not find the outputs
                       resources={"metadata": {"path": folder}}).execute(
            env=os.environ | flags)
    logger.info("%s: executed in %.1f s", name, time.perf_counter() - begun)
    return notebook


def finish(app: Sphinx, name: str, source: list[str]) -> None:
    """Waits for the outputs of a page, and gives them to myst-nb.

    After an error there are no outputs. Then myst-nb executes the page again, and
    reports the error.
    """
    if name not in running:
        return
    with contextlib.suppress(CellExecutionError):
        get_cache(app.config.nb_execution_cache_path).cache_notebook_bundle(
            CacheBundleIn(running.pop(name).result(), str(app.env.doc2path(name))),
            check_validity=False, overwrite=True)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", empty_cache)
    app.connect("env-before-read-docs", start)
    app.connect("source-read", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
