"""Measures how long the devices of a streamed run are idle before an input arrives."""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import jax

from cnn_jax.training.feed import Arguments, Feed
from cnn_jax.training.steps import Metrics


class InputWait:
    """Takes the inputs of calls from a feed, and measures the idle time before each.

    At most one call of a stream is queued: `after` waits for the previous one. A feed
    that does not stream is never waited for.
    """

    def __init__(self, feed: Feed) -> None:
        self.feed, self.watcher = feed, ThreadPoolExecutor(1)
        self.previous: Metrics | None = None  # of the previous call, in a stream
        self.ending: Future[float] | None = None
        self.begun = self.arrived = 0.0

    def next(self, calls: Iterator[Arguments]) -> Arguments:
        """Returns the arguments of the next call."""
        self.begun = time.perf_counter()
        # The end of the previous call matters only if the next input is not there.
        self.ending = (self.watcher.submit(end_time, self.previous)
                       if self.previous and not self.feed.ready else None)
        arguments = next(calls)
        self.arrived = time.perf_counter()
        return arguments

    def after(self, metrics: Metrics) -> float:
        """Waits for the previous call; returns the idle seconds before this one.

        The devices were idle until the input arrived: since the end of the previous
        call, or since `next` was called if that is later.

        metrics: what this call returned.
        """
        if not self.feed.streams:
            return 0.0
        idle = 0.0
        if self.ending or not self.previous:
            ended = self.ending.result() if self.ending else self.begun
            idle = max(0.0, self.arrived - max(self.begun, ended))
        jax.block_until_ready(self.previous)
        self.previous = metrics
        return idle

    def close(self) -> None:
        """Ends the thread that waits."""
        self.watcher.shutdown()


def end_time(metrics: Metrics) -> float:
    """Waits for the end of a call and returns its time."""
    jax.block_until_ready(metrics)
    return time.perf_counter()
