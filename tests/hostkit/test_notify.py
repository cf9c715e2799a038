"""sd_notify: what is sent, where to, and that a missing systemd costs nothing."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostkit.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    """systemd's side of the notify socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(tmp_path / "notify"))
        server.setblocking(False)
        yield server


def received(server: socket.socket) -> list[str]:
    """Every message that has arrived."""
    texts = []
    while True:
        try:
            texts.append(server.recv(4096).decode())
        except BlockingIOError:
            return texts


def test_each_message_arrives_by_itself(systemd: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})
    notifier.ready()
    notifier.alive()
    notifier.stopping()
    assert received(systemd) == ["READY=1", "WATCHDOG=1", "STOPPING=1"]


def test_an_unchanged_status_is_sent_once(systemd: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})
    for text in ("waiting", "waiting", "ready", "waiting"):
        notifier.status(text)
    assert received(systemd) == ["STATUS=waiting", "STATUS=ready", "STATUS=waiting"]


def test_a_full_queue_is_told_and_the_message_arrives_when_there_is_room_again(
    systemd: socket.socket,
) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})
    sent = 0
    while notifier.send(f"X={sent}"):
        sent += 1
        assert sent < 1_000_000
    assert not notifier.ready()
    assert received(systemd) == [f"X={number}" for number in range(sent)]
    assert notifier.ready()
    assert received(systemd) == ["READY=1"]


def test_a_status_that_found_the_queue_full_is_sent_again(systemd: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})
    while notifier.send("X=1"):
        pass
    notifier.status("ready")
    assert "STATUS=ready" not in received(systemd)
    notifier.status("ready")
    notifier.status("ready")
    assert received(systemd) == ["STATUS=ready"]


def test_a_status_of_several_lines_is_one_message_of_one_line(systemd: socket.socket) -> None:
    """A line break would begin another variable."""
    Notifier({"NOTIFY_SOCKET": systemd.getsockname()}).status("waiting\nREADY=1\n  for etcd ")
    assert received(systemd) == ["STATUS=waiting READY=1 for etcd"]


def test_a_message_that_can_never_arrive_counts_as_sent() -> None:
    assert Notifier({}).ready()
    assert Notifier({"NOTIFY_SOCKET": "/nowhere/x"}).ready()


def test_a_leading_at_sign_means_the_abstract_namespace() -> None:
    name = f"netd-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind("\0" + name)
        server.setblocking(False)
        Notifier({"NOTIFY_SOCKET": "@" + name}).ready()
        assert received(server) == ["READY=1"]


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "/nowhere/x"}])
def test_without_a_listener_nothing_fails(environ: dict[str, str]) -> None:
    notifier = Notifier(environ)
    notifier.ready()
    notifier.status("x")


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "0"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "me"}, 0.0),
    ],
)
def test_the_watchdog_is_fed_at_half_of_systemds_time_if_it_is_meant_for_us(
    environ: dict[str, str], interval: float
) -> None:
    assert Notifier(environ).watchdog_interval == interval
