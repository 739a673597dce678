"""What orbax logs and raises, brought down to the one line that we show."""

import contextlib
import logging as python_logging
import re
import sys

from absl import logging


@contextlib.contextmanager
def without_log():
    """Orbax logs tracebacks of what it raises as well; one line is enough."""
    level = logging.get_verbosity()
    logging.set_verbosity(logging.FATAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def ignore_late_answers() -> None:
    """The first file that fails ends orbax's event loop, a time that is up its wait.
    What happens to the other files comes too late: a traceback each, after our line."""
    before = sys.unraisablehook
    if before.__module__ == __name__:
        return

    def hook(found) -> None:
        if str(found.exc_value) != "Event loop is closed":
            before(found)

    sys.unraisablehook = hook
    python_logging.getLogger("asyncio").addFilter(lambda record: not any(
        of_files in record.getMessage()
        for of_files in ("tensorstore", "OCDBT", "_wrap_awaitable")))
    # Its threads log what they also hand to who waits for them.
    logging.get_absl_logger().addFilter(
        lambda record: "_SignalingThread.run()" not in record.getMessage())


def first_line(error: Exception) -> str:
    """Without the settings in JSON that TensorStore puts behind what went wrong."""
    line = str(error).strip().partition("\n")[0]
    line = re.sub(r"""^(["'])(.*)\1$""", r"\2", line)  # a KeyError's are around it
    return re.split(r" \[(tensorstore_spec|source locations)", line)[0] or type(
        error).__name__
