"""Defines the two kinds of errors.

Library code raises them; only commands turn them into one line and an exit code.
"""


class InputError(ValueError):
    """Raised when the user's input cannot be used (exit code 2).

    The message is one line: what was received, what is allowed, what to do.
    """


class RunError(RuntimeError):
    """Raised when a run cannot continue, as when its loss is not finite (exit code 1).
    """


def one_line(text: str) -> str:
    """Escapes characters that break the line or control a terminal, as in file names.
    """
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
