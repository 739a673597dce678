"""Runs the server of --mode=serve on this machine until Ctrl-C."""

import contextlib
import errno
import ipaddress
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import waitress

from cnn_jax.console import Reporter
from cnn_jax.errors import InputError
from cnn_jax.serve.app import MAX_BYTES, create_app
from cnn_jax.workdir.trained import load

THREADS = 8  # a browser keeps six connections open


def serve(workdir: Path, host: str, port: int, invert: bool = False) -> None:
    """Serves a run's best checkpoint as a web page until SIGINT or SIGTERM.

    port: 0 takes a free port, which is printed.
    invert: see `create_app`.
    Raises InputError for an address that cannot be used, and for a workdir without a
    checkpoint.
    """
    with listen(host, port) as listener:  # before the slow loading and compiling
        report = Reporter()
        with report.under_way("reading the checkpoint"):
            trained = load(workdir)
        with report.under_way("compiling"):
            app = create_app(trained, workdir.name, host, invert)
        # waitress warns about every request that waits for another.
        logging.getLogger("waitress.queue").setLevel(logging.ERROR)
        server = waitress.create_server(
            app, sockets=[listener], threads=THREADS, ident=None,
            max_request_body_size=4 * MAX_BYTES)  # below it, the app answers 413
        print(f"{address(host, listener)} shows {workdir}; Ctrl-C ends it", flush=True)
        if not ipaddress.ip_address(listener.getsockname()[0]).is_loopback:
            print("others who reach this machine can use the page: it has neither "
                  "password nor encryption", flush=True)
        with sigterm_as_sigint():
            server.run()  # returns at KeyboardInterrupt
    print("stopped", flush=True)


def listen(host: str, port: int) -> socket.socket:
    """Opens a listening socket. Raises InputError if that is not possible."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family)
    except socket.gaierror as error:
        raise InputError(f"--host={host} is not an address ({error.strerror}): use "
                         "127.0.0.1, or 0.0.0.0 for all addresses of this machine"
                         ) from error
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(f"--port={port} of {host} is in use: choose another, or 0 "
                             "for a free one") from error
        raise InputError(f"--host={host} --port={port}: this machine cannot listen "
                         f"there ({error.strerror}): choose another") from error


def address(host: str, listener: socket.socket) -> str:
    """Returns the address of the page, to be shown to people."""
    name = "localhost" if host in ("0.0.0.0", "::", "") else host
    name = f"[{name}]" if ":" in name else name
    return f"http://{name}:{listener.getsockname()[1]}"


@contextlib.contextmanager
def sigterm_as_sigint() -> Iterator[None]:
    """Makes SIGTERM end the server as Ctrl-C does, after running requests."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
