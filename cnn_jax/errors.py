"""The two kinds of errors, and the words for them.

Library code raises them; only `main.py` turns one into a line and an exit code.
"""

import errno

_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ELOOP)


class InputError(ValueError):
    """The user's input cannot be used (exit code 2).

    The message is one line: what was received, what is allowed, what to do.
    """


class RunError(RuntimeError):
    """A run that started cannot go on, as when its loss is not finite (exit code 1)."""


def reason(error: OSError) -> str:
    """Says why a file cannot be used, and what to do if something is in its place."""
    words = error.strerror or str(error)
    if error.errno in _IN_THE_WAY:
        return f"{words}: move away what lies there, then run again"
    return words


def one_line(text: str) -> str:
    """Escapes what would break the line or control a terminal: names may hold it."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
