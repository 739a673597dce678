"""Reduces the logs and errors of orbax to one line."""

import contextlib
import logging as python_logging
import re
import sys
from collections.abc import Iterator

from absl import logging


@contextlib.contextmanager
def without_log() -> Iterator[None]:
    """Silences the log of orbax, which repeats each error with a traceback."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def silence_late_errors() -> None:
    """Silences the errors that orbax's threads report after orbax has raised one.

    The first file that fails ends orbax's event loop, and a timeout ends its wait. Each
    of the other files would then print a traceback after our line.
    """
    before = sys.unraisablehook
    if before.__module__ == __name__:
        return

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook
    python_logging.getLogger("asyncio").addFilter(lambda record: not any(
        name in record.getMessage()
        for name in ("tensorstore", "OCDBT", "_wrap_awaitable")))
    # The threads also log the errors that they pass on to the waiting thread.
    logging.get_absl_logger().addFilter(
        lambda record: "_SignalingThread.run()" not in record.getMessage())


def first_line(error: BaseException) -> str:
    """Returns the first line of an error, without the JSON that TensorStore appends."""
    line = str(error).strip().partition("\n")[0]
    line = re.sub(r"""^(["'])(.*)\1$""", r"\2", line)  # quotes of a KeyError
    return re.split(r" \[(tensorstore_spec|source locations)", line)[0] or type(
        error).__name__
