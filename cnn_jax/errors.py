"""The two ways a run ends badly, the exit code of each, and the words for it.

Library code raises; only `main.py` turns an error into a line and an exit code.
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
    """Why a file cannot be used, and what to do where something else has its place."""
    words = error.strerror or str(error)
    if error.errno in _IN_THE_WAY:
        return f"{words}: move away what lies there, then run again"
    return words


def one_line(text: str) -> str:
    """With escapes for what would break the line or act on a terminal: names of files
    may hold anything."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
