"""Notices within seconds that another process of a run has ended.

JAX itself waits for a minute or more, and then aborts with a stack trace. So each
process keeps a TCP connection to the first one, which the kernel closes when a process
dies. When a machine dies, the kernel of the other machine closes it after 10 to 20
seconds. A process that is stopped, or whose machine hangs, keeps its connection but
sends nothing; after a minute it counts as gone. The first process tells the others
which one is gone.
"""

import contextlib
import os
import secrets
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from cnn_jax.workdir.checkpoints import step_folders

JOIN_SECONDS = 15.0   # to wait for the connections of all processes
ERROR_SECONDS = 1.0   # for a process to end by itself after the error of another one
BEAT_SECONDS = 10.0   # between the messages of a process that runs
SILENT_SECONDS = 60.0  # without a message, until a process counts as gone
HELD_SECONDS = 5      # for which a killed first process keeps JAX's connections
TOKEN_BYTES, HOST_BYTES = 16, 240
# Seconds, number; milliseconds until the kernel gives up on a message.
KEEPALIVE = {"TCP_KEEPIDLE": 4, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3,
             "TCP_USER_TIMEOUT": 10_000}
# What a process says about another one before it ends.
REASONS = {"gone": "process {} is gone", "silent": "process {} does not answer",
           "error": "process {} has failed: its output says why"}

Links = dict[int, socket.socket]  # number of a process -> connection to it


class Watch:
    """Follows the connections of one process, and ends it when another is gone.

    Messages are lines: 'here K' while process K runs, 'bye K' when it has finished,
    'error K' when it fails, 'gone K' when its connection has closed without either, and
    'silent K' when it has sent nothing for a minute.
    """

    def __init__(self, links: Links, number: int, count: int,
                 leave: Callable[[str], None]) -> None:
        self.links, self.number, self.count, self.leave = links, number, count, leave
        self.closing = False
        self.ended: set[int] = set()
        self.failed: set[int] = set()
        self.changed = threading.Condition()
        for other, link in links.items():
            threading.Thread(target=self.follow, args=(other, link), daemon=True,
                             name=f"watch process {other}").start()
        threading.Thread(target=self.beat, daemon=True, name="beat").start()

    def beat(self) -> None:
        """Tells the connected processes every few seconds that this one runs."""
        while not self.closing:
            self.send(f"here {self.number}")
            time.sleep(BEAT_SECONDS)

    def follow(self, other: int, link: socket.socket) -> None:
        """Reads the messages of a process until its connection closes."""
        end = "gone"
        link.settimeout(SILENT_SECONDS)
        try:
            with link.makefile("r") as lines:
                for line in lines:
                    word, who = line.split()
                    if word != "here":
                        self.receive(word, int(who), other)
        except TimeoutError:
            end = "silent"
        except OSError:  # it was closed while messages were under way
            pass
        if other not in self.ended:
            self.receive(end, other, other)

    def receive(self, word: str, who: int, sender: int) -> None:
        """Acts on a message; the first process passes it on to the others."""
        if word == "error" or (word in ("gone", "silent") and not self.closing):
            self.send(f"{word} {who}", skip=sender)
        with self.changed:
            (self.ended if word == "bye" else self.failed).add(who)
            self.changed.notify_all()
            if word == "error":
                self.changed.wait_for(lambda: self.closing, ERROR_SECONDS)
            if word != "bye" and not self.closing:
                self.leave(REASONS[word].format(who))

    def send(self, message: str, skip: int | None = None) -> None:
        """Sends a message to all connected processes, except to `skip`."""
        for other, link in self.links.items():
            if other != skip:
                with contextlib.suppress(OSError):  # it has ended
                    link.sendall(f"{message}\n".encode())

    def close(self, failed: bool) -> bool:
        """Says goodbye; returns whether all other processes end as well.

        That is known only after an error; otherwise it returns True at once.
        """
        with self.changed:
            self.closing = True
            self.changed.notify_all()
        self.send(f"{'error' if failed else 'bye'} {self.number}")
        if not failed:
            return True
        with self.changed:
            return self.changed.wait_for(
                lambda: len(self.failed | self.ended) >= self.count - 1,
                2 * ERROR_SECONDS)


@contextlib.contextmanager
def watch(workdir: Path, config: ConfigDict) -> Iterator[None]:
    """Ends this process with one line and exit code 1 once another one is gone.

    A process that fails while the others go on ends at once when it leaves the block:
    JAX would wait for them.
    """
    if jax.process_count() == 1:
        yield
        return

    def leave(reason: str) -> None:
        steps = step_folders(workdir / "checkpoints")
        effect = f" to go on from step {steps[-1].name}" if steps else ""
        end_at_once(f"{reason}; start the same command again{effect}", 1)

    links = connect(config)
    watching = Watch(links, jax.process_index(), jax.process_count(), leave)
    try:
        with (held_open(links.values()) if jax.process_index() == 0 else
              contextlib.nullcontext()):
            yield
    except Exception as error:
        if isinstance(error, jax.errors.JaxRuntimeError):
            time.sleep(ERROR_SECONDS)  # if another process is gone, `leave` says so
        if not watching.close(failed=True):
            end_at_once(str(error), 2 if isinstance(error, ValueError) else 1)
        raise
    watching.close(failed=False)


@contextlib.contextmanager
def held_open(links: Iterable[socket.socket]) -> Iterator[None]:
    """Keeps the sockets of this process, except `links`, open after it is killed.

    A child process holds them for some seconds, on Linux. Otherwise JAX's runtime in
    the other processes notices the end of the coordination service at once, and prints
    a stack trace while `Watch` prints its line.
    """
    try:
        holder = subprocess.Popen(
            ["sh", "-c", f"read end; exec sleep {HELD_SECONDS}"], stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
            pass_fds=open_sockets().difference(link.fileno() for link in links))
    except OSError:  # another system
        yield
        return
    try:
        yield
    finally:
        holder.kill()
        holder.communicate()


def open_sockets() -> set[int]:
    """Lists the sockets of this process, without those that only accept connections.

    Raises OSError where there is no /proc.
    """
    sockets = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # closed in the meantime
            if number > 2 and stat.S_ISSOCK(os.fstat(number).st_mode):
                with socket.socket(fileno=os.dup(number)) as copy:
                    if not copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                        sockets.add(number)
    return sockets


def end_at_once(message: str, code: int) -> None:
    """Prints a line and ends the process without JAX's wait for the others."""
    print(f"cnn_jax: {message}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(code)


def connect(config: ConfigDict) -> Links:
    """Connects each process to the first one. All processes must call this together.

    Processes that cannot be reached within `JOIN_SECONDS` are not watched.
    """
    first = jax.process_index() == 0
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("", 0))) if first else None
        token, port, host = broadcast(server)
        if server is not None:
            return accept(server, token, jax.process_count() - 1)
    coordinator = (config.coordinator or "").rpartition(":")[0] if (
        config.coordinator != "auto") else os.environ.get(
            "JAX_COORDINATOR_ADDRESS", "").rpartition(":")[0]
    for address in filter(None, (coordinator, host)):
        with contextlib.suppress(OSError):
            link = socket.create_connection((address, port), JOIN_SECONDS / 3)
            link.sendall(token + bytes([jax.process_index() % 256,
                                        jax.process_index() // 256]))
            return {0: kept_alive(link)}
    return {}


def broadcast(server: socket.socket | None) -> tuple[bytes, int, str]:
    """Tells all processes the token, port and host name of the first one."""
    message = b""
    if server is not None:
        host = socket.gethostname().encode()[:HOST_BYTES]
        port = server.getsockname()[1]
        message = secrets.token_bytes(TOKEN_BYTES) + port.to_bytes(2, "big") + host
    block = np.frombuffer(message.ljust(TOKEN_BYTES + 2 + HOST_BYTES, b"\0"), np.uint8)
    block = np.asarray(multihost_utils.broadcast_one_to_all(block)).astype(np.uint8)
    message = block.tobytes()
    return (message[:TOKEN_BYTES],
            int.from_bytes(message[TOKEN_BYTES:TOKEN_BYTES + 2], "big"),
            message[TOKEN_BYTES + 2:].rstrip(b"\0").decode())


def accept(server: socket.socket, token: bytes, count: int) -> Links:
    """Accepts the connections of `count` processes that send the token."""
    links: Links = {}
    end = time.monotonic() + JOIN_SECONDS
    while len(links) < count and (left := end - time.monotonic()) > 0:
        server.settimeout(left)
        try:
            link, _ = server.accept()
            link.settimeout(left)
            message = link.recv(TOKEN_BYTES + 2, socket.MSG_WAITALL)
        except OSError:  # a time-out, or a connection of somebody else
            continue
        if secrets.compare_digest(message[:TOKEN_BYTES], token):
            links[message[-2] + 256 * message[-1]] = kept_alive(link)
    return links


def kept_alive(link: socket.socket) -> socket.socket:
    """Lets the kernel close the connection when the other machine does not answer."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return link
