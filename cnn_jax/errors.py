"""The two ways a run ends badly, and the exit code of each.

Library code raises; only `main.py` turns an error into a line and an exit code.
"""


class InputError(ValueError):
    """The user's input cannot be used (exit code 2).

    The message is one line: what was received, what is allowed, what to do.
    """


class RunError(RuntimeError):
    """A run that started cannot go on, as when its loss is not finite (exit code 1)."""
