"""A process notices by a socket that another process has ended."""

import queue
import signal
import socket
import sys
import time

import pytest
from tests.support.tiny_runs import end, wait_until
from tests.training.test_processes import CHANGES, start_processes

from cnn_jax.training import peers
from cnn_jax.workdir.checkpoints import step_folders

SECONDS = 10  # until a test gives up


@pytest.fixture
def run(monkeypatch):
    """Imitates three processes: their watches, their last messages, and their sockets.
    """
    monkeypatch.setattr(peers, "ERROR_SECONDS", 0.1)
    monkeypatch.setattr(peers, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(peers, "SILENT_SECONDS", 2.0)
    pairs = {number: socket.socketpair() for number in (1, 2)}
    answers = [queue.Queue() for _ in range(3)]
    links = [{n: pair[0] for n, pair in pairs.items()},
             {0: pairs[1][1]}, {0: pairs[2][1]}]
    watches = [peers.Watch(links[n], n, 3, answers[n].put) for n in range(3)]
    yield watches, answers, links
    for watch in watches:
        watch.closing = True
    for pair in pairs.values():
        for link in pair:
            link.close()


def die(links):
    for link in links.values():
        link.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize("victim, others", [(0, (1, 2)), (1, (0, 2))])
def test_all_others_name_the_process_that_ended(run, victim, others):
    watches, answers, links = run
    watches[victim].closing = True  # a dead process sends nothing
    die(links[victim])
    for other in others:
        assert answers[other].get(timeout=SECONDS) == f"process {victim} is gone"


def test_a_process_that_is_stopped_does_not_answer(run):
    watches, answers, _ = run
    time.sleep(peers.SILENT_SECONDS + 0.5)
    assert all(answer.empty() for answer in answers)
    watches[1].closing = True  # it sends no more messages, and its connection is open
    for other in (0, 2):
        assert answers[other].get(timeout=SECONDS) == "process 1 does not answer"


def test_processes_that_finish_are_not_reported(run):
    watches, answers, links = run
    for number in (2, 1, 0):
        assert watches[number].close(failed=False)
        die(links[number])
    time.sleep(0.05)
    assert all(answer.empty() for answer in answers)


def test_a_process_that_fails_alone_tells_the_others(run):
    watches, answers, _ = run
    assert not watches[1].close(failed=True)
    for other in (0, 2):
        assert "process 1 has failed" in answers[other].get(timeout=SECONDS)


def test_an_error_of_all_processes_ends_them_as_usual(run):
    watches, answers, _ = run
    for watch in watches[1:]:
        watch.closing = True  # as `close` does before it waits
        watch.send(f"error {watch.number}")
    assert watches[0].close(failed=True)
    assert all(answer.empty() for answer in answers)


@pytest.mark.skipif(sys.platform != "linux", reason="sockets are listed by /proc")
def test_a_child_holds_all_sockets_but_the_links():
    """Closing a socket here is what a kill of this process does."""
    ours, theirs = socket.socketpair()
    link, other = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as server, other, theirs:
        theirs.settimeout(0.3)
        with peers.held_open([link]):
            assert server.fileno() not in peers.open_sockets()
            ours.close()
            link.close()
            with pytest.raises(TimeoutError):
                theirs.recv(1)
            assert other.recv(1) == b""
        assert theirs.recv(1) == b""


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_the_other_with_one_line(tmp_path, victim):
    changes = CHANGES | {"epochs": 4000, "checkpoint.keep": 2,
                         "early_stopping.patience": "none"}
    processes = start_processes(tmp_path / "run", changes, 2)
    folder = tmp_path / "run" / "checkpoints"
    wait_until(lambda: len(step_folders(folder)) > 1, processes[0])
    begun = time.monotonic()
    processes[victim].send_signal(signal.SIGKILL)
    code, _, errors = end(processes[1 - victim])
    assert time.monotonic() - begun < 15
    lines = [line for line in errors.splitlines() if line.startswith("cnn_jax: ")]
    assert code == 1 and errors.splitlines() == lines and len(lines) == 1, errors
    assert f"process {victim} is gone" in lines[0] and "step " in lines[0]
    end(processes[victim])
