"""Lets SIGTERM and SIGINT end a run after the current step, with that step saved."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from cnn_jax.errors import RunError


class Stopped(RunError):
    """Raised when a signal has asked the run to stop, after the step is saved."""

    def __init__(self, signum: int, message: str):
        super().__init__(message)
        self.signum = signum
        self.exit_code = 128 + signum


@contextlib.contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Yields a list that collects SIGTERM and SIGINT, so that neither ends the process.

    A second signal acts at once, as it does outside the block. Outside the main thread
    Python delivers no signals, and the list stays empty.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    previous = {number: signal.getsignal(number)
                for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in previous.items():
            signal.signal(number, handler)

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        restore()

    for number in previous:
        signal.signal(number, receive)
    try:
        yield received
    finally:
        restore()
