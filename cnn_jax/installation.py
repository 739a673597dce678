"""Checks what is installed, and says how to install what is missing.

It imports nothing that may be missing, and older versions of Python can read it.
"""

import contextlib
import importlib.util
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

# The last two are imported only after training; a missing one is reported before it.
PACKAGES = ("absl", "jax", "flax", "optax", "ml_collections", "matplotlib", "jinja2")
OLDEST = (3, 11)


def install_command(extra: str = "") -> str:
    """Returns the command that installs cnn_jax, or one of its extras.

    A clone that is not installed is named by its folder. An extra is named by the
    package, which works for an installed clone and for a wheel.
    """
    if extra:
        return f"pip install 'cnn_jax[{extra}]'"
    clone = Path(__file__).resolve().parents[1]
    in_clone = (clone / "setup.cfg").exists()
    return f"pip install {f'-e {clone}' if in_clone else 'cnn_jax'}"


def check_installation() -> None:
    """Ends with one line and exit code 2 if Python is too old or lacks a package."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    old = sys.version_info < OLDEST
    if old or missing:
        lacks = "is too old" if old else f"has no {', '.join(missing)}"
        print(f"cnn_jax: {sys.executable} (Python {sys.version.split()[0]}) {lacks}: "
              "cnn_jax needs Python 3.11 or later and, with that Python, "
              f"python -m {install_command()}", file=sys.stderr)
        sys.exit(2)


@contextlib.contextmanager
def importing() -> "Iterator[None]":  # older versions of Python read it
    """Checks the installation before the block, which holds the imports of a command.

    Ctrl-C ends the block, which takes seconds, without a traceback.
    """
    check_installation()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, signal.default_int_handler)
