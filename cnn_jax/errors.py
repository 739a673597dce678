"""Defines the two kinds of errors.

Library code raises them; only commands turn them into one line and an exit code.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import NoReturn


class InputError(ValueError):
    """Raised when the user's input cannot be used (exit code 2).

    The message is one line: what was received, what is allowed, what to do.
    """

    exit_code = 2


class RunError(RuntimeError):
    """Raised when a run cannot continue, as when its loss is not finite (exit code 1).
    """

    exit_code = 1


def one_line(text: str) -> str:
    """Escapes characters that break the line or control a terminal, as in file names.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def fail(message: str, code: int) -> NoReturn:
    """Prints one line to stderr and exits."""
    print(f"cnn_jax: {one_line(message)}", file=sys.stderr)
    sys.exit(code)


@contextlib.contextmanager
def one_line_errors(interrupted: str) -> Iterator[None]:
    """Ends a command with one line and an exit code if its block raises.

    interrupted: the line after Ctrl-C.
    """
    try:
        yield
    except (InputError, RunError) as error:
        fail(str(error), error.exit_code)
    except OSError as error:  # a full disk, a deleted folder
        prefix = error.filename and f"{error.filename} cannot be read or written: "
        fail((prefix or "") + (error.strerror or str(error)), 1)
    except KeyboardInterrupt:
        fail(interrupted, 130)
