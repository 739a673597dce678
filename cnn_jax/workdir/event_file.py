"""Writes events for TensorBoard in the calling thread.

tensorboardX's SummaryWriter writes in a separate thread. A full disk kills that thread,
and so does a wall clock that is set back by weeks; adding an event then blocks forever.
This module uses the components of SummaryWriter without the thread, so that an error is
raised.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from cnn_jax.workdir.tensorboard_x import Event, EventsWriter, SessionLog, Summary


class EventFile:
    """Writes a new event file into a folder that TensorBoard reads as one run.

    purge_step: TensorBoard drops the events of older files from this step on.
    All methods raise OSError if the file cannot be written.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        # Without the number, two files made within a second would have one name.
        number = sum(1 for _ in folder.iterdir())
        self._events = EventsWriter(str(folder / "events"), f".{number}")
        if purge_step is not None:
            self._write(Event(step=purge_step, session_log=SessionLog(
                status=SessionLog.START)))

    def add(self, summaries: Iterable[Summary], step: int) -> None:
        """Adds summaries, as tensorboardX.summary makes them, and flushes the file."""
        for summary in summaries:
            self._write(Event(step=step, summary=summary))
        self._events.flush()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)

    def close(self) -> None:
        """Closes the file."""
        self._events.close()
