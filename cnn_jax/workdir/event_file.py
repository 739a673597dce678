"""Events for TensorBoard, written by the thread that calls.

tensorboardX's SummaryWriter writes in a thread of its own. A full disk kills the
thread, and so does a wall clock that is set back by some weeks; adding an event then
waits for ever. This module uses its parts without the thread, so that an error is
raised.
"""

import time
from collections.abc import Iterable
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary


class EventFile:
    """A new event file in a folder that TensorBoard reads as one run.

    purge_step: TensorBoard drops what older files say of this step and later ones.
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
        """Adds what tensorboardX.summary makes and flushes the file."""
        for summary in summaries:
            self._write(Event(step=step, summary=summary))
        self._events.flush()

    def _write(self, event: Event) -> None:
        event.wall_time = time.time()
        self._events.write_event(event)

    def close(self) -> None:
        """Closes the file."""
        self._events.close()
