"""A worker that measures how far two cores are from each other.

One core sets a byte, the other clears it. This measures the seconds of one round trip
of a cache line, including about 0.1 us of Python. The host of a virtual machine may
move its cores, sometimes next to each other, sometimes to different chips. A training
step on two cores takes up to 1.5 times as long when they are far apart, and nothing
else shows it. Linux only.
"""

import json
import mmap
import os
import sys

from arms.worker import serve


def spin(shared, mine: int, other: int, count: int) -> None:
    """Waits `count` times for the byte to be `mine`, then makes it `other`."""
    for _ in range(count):
        while shared[0] != mine:
            pass
        shared[0] = other


def main() -> None:
    first, *_, last = sorted(os.sched_getaffinity(0))
    shared = mmap.mmap(-1, mmap.PAGESIZE)
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(writer)
        os.sched_setaffinity(0, {last})
        while count := os.read(reader, 8):
            spin(shared, 1, 0, int.from_bytes(count))
        os._exit(0)
    os.close(reader)
    os.sched_setaffinity(0, {first})

    def round_trip(count):
        os.write(writer, count.to_bytes(8))
        for _ in range(count):
            shared[0] = 1
            while shared[0]:
                pass

    round_trip(1000)
    serve({"cores": [first, last]}, {"round_trip": round_trip})


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
