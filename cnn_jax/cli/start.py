"""Starts the command line: `main.py`, `python -m cnn_jax` and `cnn-jax`.

It imports little, since it may restart the program or report missing packages.
"""

from cnn_jax.huge_pages import use_huge_pages
from cnn_jax.installation import importing


def start() -> None:
    """Checks Python and its packages, then runs the command line."""
    with importing():
        use_huge_pages()  # may restart the program, so it precedes the slow imports
        from cnn_jax.cli import program
    program.run()
