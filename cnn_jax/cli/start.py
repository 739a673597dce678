"""Starts the command line: `main.py`, `python -m cnn_jax` and `cnn-jax`.

It imports little, since it may restart the program or report missing packages.
"""

import importlib.util
import signal
import sys

from cnn_jax.huge_pages import use_huge_pages


# The last two are imported only after training; a missing one is reported before it.
PACKAGES = ("absl", "jax", "flax", "optax", "ml_collections", "matplotlib", "jinja2")


def start() -> None:
    """Checks Python and its packages, then runs the command line."""
    missing = [name for name in PACKAGES
               if importlib.util.find_spec(name) is None]
    old = sys.version_info < (3, 11)
    if old or missing:
        lacks = "is too old" if old else f"has no {', '.join(missing)}"
        print(f"cnn_jax: {sys.executable} (Python {sys.version.split()[0]}) {lacks}: "
              "cnn_jax needs Python 3.11 or later and, with that in the clone, python "
              "-m pip install -e .", file=sys.stderr)
        sys.exit(2)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the imports at once
    use_huge_pages()  # it may restart the program, so it precedes the slow imports
    from cnn_jax.cli import program
    program.run()
