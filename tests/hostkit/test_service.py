"""The service shell: its views over the socket, READY=1, and how it ends."""

import asyncio
import io
import json
import logging
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from hostkit import logs
from hostkit.errors import HostkitError
from hostkit.metrics import Metrics
from hostkit.notify import Notifier
from hostkit.problems import Problems
from hostkit.service import AGAIN, Heartbeat, Service
from tests.support.poll import eventually


class Systemd:
    """systemd's side of the notify socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)
        self.path = str(path)
        self._got: list[str] = []

    def got(self) -> list[str]:
        """Every message so far."""
        while True:
            try:
                self._got.append(self.socket.recv(65536).decode())
            except BlockingIOError:
                return self._got


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    made = Systemd(tmp_path / "notify")
    yield made
    made.socket.close()


@pytest.fixture
def problems() -> Problems:
    return Problems(clock=lambda: 5.0)


@pytest.fixture
def service(tmp_path: Path, systemd: Systemd, problems: Problems) -> Service:
    """A service on a socket, with one metric and one fact in its status."""
    metrics = Metrics("netd")
    metrics.gauge("peers", "Other hosts").set(3)
    return Service(
        "netd",
        problems=problems,
        metrics=metrics,
        status=lambda: {"lease": "10.1.2.0/24"},
        socket_path=tmp_path / "run" / "netd.sock",
        notifier=Notifier({"NOTIFY_SOCKET": systemd.path}),
    )


async def idle() -> None:
    """A worker that goes on for ever."""
    await asyncio.Event().wait()


def socket_of(service: Service) -> Path:
    """Where *service* answers."""
    assert service._socket_path is not None
    return service._socket_path


@asynccontextmanager
async def running(
    service: Service, worker: Callable[[], Awaitable[None]] = idle
) -> AsyncIterator["asyncio.Task[int]"]:
    """The service until the block ends."""
    task = asyncio.create_task(service.run({"worker": worker()}))
    try:
        await eventually(lambda: socket_of(service).exists() or task.done())
        yield task
    finally:
        service.stop()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 10)


async def get(service: Service, view: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body of *view*, read without the program's own client."""
    reader, writer = await asyncio.open_unix_connection(str(socket_of(service)))
    writer.write(f"GET {view} HTTP/1.0\r\n\r\n".encode())
    head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
    writer.close()
    await writer.wait_closed()
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return int(first.split()[1]), headers, body.decode()


async def test_a_service_without_trouble_is_alive_and_ready(service: Service) -> None:
    async with running(service):
        for view in ("/healthz", "/readyz"):
            code, _, body = await get(service, view)
            assert (code, body) == (200, "ok\n")
        assert (await get(service, "/nothing"))[0] == 404


async def test_a_view_of_the_daemon_s_own_gets_the_query_and_answers_json(
    service: Service,
) -> None:
    service.add_view("/explain", lambda query: {"target": query["target"]})
    async with running(service):
        code, headers, body = await get(service, "/explain?target=10.0.0.7%3A53%2Fudp")
        assert code == 200
        assert headers["content-type"].startswith("application/json")
        assert json.loads(body) == {"target": "10.0.0.7:53/udp"}


async def test_a_view_refuses_a_query_without_sense_in_words(service: Service) -> None:
    def refuse(_query: Mapping[str, str]) -> dict[str, Any]:
        raise ValueError("say what to explain")

    service.add_view("/explain", refuse)
    async with running(service):
        code, _, body = await get(service, "/explain")
        assert (code, body) == (400, "say what to explain\n")
        assert (await get(service, "/healthz"))[0] == 200


async def test_a_failing_live_check_is_named_by_healthz_only(service: Service) -> None:
    service.add_live_check("loop", lambda: "has not moved for 30 s")
    async with running(service):
        code, _, body = await get(service, "/healthz")
        assert (code, body) == (503, "loop: has not moved for 30 s\n")
        assert (await get(service, "/readyz"))[0] == 200


async def test_a_failing_ready_check_is_named_by_readyz_and_leaves_the_service_alive(
    service: Service,
) -> None:
    service.add_ready_check("network", lambda: "no subnet leased yet")
    async with running(service):
        code, _, body = await get(service, "/readyz")
        assert (code, body) == (503, "network: no subnet leased yet\n")
        assert (await get(service, "/healthz"))[0] == 200


async def test_a_blocking_problem_makes_the_service_not_ready_until_it_is_over(
    service: Service, problems: Problems
) -> None:
    async with running(service):
        problems.set("etcd", "away")
        assert (await get(service, "/readyz"))[0] == 200
        problems.set("lease", "taken", blocking=True)
        code, _, body = await get(service, "/readyz")
        assert (code, body) == (503, "lease: taken\n")
        problems.clear("lease")
        assert (await get(service, "/readyz"))[0] == 200


async def test_metrics_are_prometheus_text(service: Service) -> None:
    async with running(service):
        code, headers, body = await get(service, "/metrics")
    assert code == 200
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "netd_peers 3.0\n" in body
    assert "process_resident_memory_bytes" in body


async def test_status_adds_readiness_and_problems_to_what_the_program_says(
    service: Service, problems: Problems
) -> None:
    problems.set("lease", "taken", blocking=True)
    async with running(service):
        _, headers, body = await get(service, "/status")
    assert headers["content-type"].startswith("application/json")
    expected: dict[str, Any] = {
        "lease": "10.1.2.0/24",
        "ready": False,
        "not_ready": ["lease: taken"],
        "problems": [{"key": "lease", "text": "taken", "blocking": True, "since": 5.0}],
    }
    assert json.loads(body) == expected


async def test_the_socket_is_closed_to_others_and_goes_away_at_the_end(service: Service) -> None:
    async with running(service):
        assert stat.S_IMODE(socket_of(service).stat().st_mode) == 0o660
    assert not socket_of(service).exists()


async def test_a_socket_left_by_a_killed_service_is_replaced(service: Service) -> None:
    path = socket_of(service)
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
    async with running(service):
        await eventually(lambda: service._was_ready)
        assert (await get(service, "/healthz"))[0] == 200


async def test_the_views_are_served_over_tcp_at_every_address_that_is_asked_for(
    problems: Problems,
) -> None:
    with socket.socket() as first, socket.socket() as second:
        for probe in (first, second):
            probe.bind(("127.0.0.1", 0))
        addresses = [probe.getsockname() for probe in (first, second)]
    service = Service(
        "netd", problems=problems, metrics=Metrics("netd"), status=dict,
        listen=addresses, notifier=Notifier({}),
    )  # fmt: skip
    task = asyncio.create_task(service.run({"worker": idle()}))
    await eventually(lambda: service._was_ready)
    for host, port in addresses:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        reply = await asyncio.wait_for(reader.read(), 10)
        writer.close()
        await writer.wait_closed()
        assert reply.startswith(b"HTTP/1.0 200")
    service.stop()
    assert await asyncio.wait_for(task, 10) == 0


async def test_a_tcp_port_in_use_is_a_problem_and_not_the_end(problems: Problems) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = other.getsockname()
        service = Service(
            "netd", problems=problems, metrics=Metrics("netd"), status=dict,
            listen=[address], notifier=Notifier({}),
        )  # fmt: skip
        task = asyncio.create_task(service.run({"worker": idle()}))
        await eventually(lambda: service._was_ready)
        (problem,) = problems.all()
        assert f"127.0.0.1:{address[1]}" in problem.text
        service.stop()
        assert await asyncio.wait_for(task, 10) == 0


async def test_ready_does_not_wait_for_a_check_that_does_not_hold_the_start(
    service: Service, systemd: Systemd
) -> None:
    service.add_ready_check("services", lambda: "not listed", holds_start=False)
    async with running(service):
        await eventually(lambda: "READY=1" in systemd.got())
        assert "STATUS=services: not listed" in systemd.got()
        code, _, body = await get(service, "/readyz")
        assert (code, body) == (503, "services: not listed\n")


async def test_ready_is_sent_once_and_only_when_nothing_is_missing(
    service: Service, systemd: Systemd
) -> None:
    missing: list[str | None] = ["no subnet leased yet"]
    service.add_ready_check("network", lambda: missing[0])
    async with running(service):
        await eventually(lambda: "STATUS=network: no subnet leased yet" in systemd.got())
        assert "READY=1" not in systemd.got()
        missing[0] = None
        await eventually(lambda: "STATUS=ready" in systemd.got())
        assert systemd.got().count("READY=1") == 1
        missing[0] = "lost again"
        await eventually(lambda: "STATUS=network: lost again" in systemd.got())
        missing[0] = None
        await eventually(lambda: systemd.got().count("STATUS=ready") == 2)
    assert systemd.got().count("READY=1") == 1
    assert systemd.got()[-1] == "STOPPING=1"


async def test_ready_is_said_again_until_systemd_has_room_for_it(
    service: Service, systemd: Systemd
) -> None:
    """systemd may be busy starting a hundred units: a lost READY=1 would end in a time-out."""
    notifier = Notifier({"NOTIFY_SOCKET": systemd.path})
    while notifier.send("X=1"):
        pass
    asked: list[int] = []
    service.add_ready_check("network", lambda: asked.append(1))
    async with running(service):
        # The check is asked, all is well, and still READY=1 is not out.
        await eventually(lambda: len(asked) > 5)
        assert not service._was_ready
        assert "READY=1" not in systemd.got()
        await eventually(lambda: "READY=1" in systemd.got())
        await eventually(lambda: "STATUS=ready" in systemd.got())
    assert systemd.got().count("READY=1") == 1


async def test_the_watchdog_is_fed_while_everything_lives_and_starves_when_something_hangs(
    tmp_path: Path, systemd: Systemd, problems: Problems
) -> None:
    service = Service(
        "netd", problems=problems, metrics=Metrics("netd"), status=dict,
        socket_path=tmp_path / "netd.sock",
        notifier=Notifier({"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "20000"}),
    )  # fmt: skip
    hangs: list[str | None] = [None]
    service.add_live_check("loop", lambda: hangs[0])
    async with running(service):
        await eventually(lambda: systemd.got().count("WATCHDOG=1") > 3)
        hangs[0] = "hangs"
        await eventually(lambda: "STATUS=loop: hangs" in systemd.got())
        hung = len(systemd.got())
        hangs[0] = None
        await eventually(lambda: "WATCHDOG=1" in systemd.got()[hung:])
        # What was sent between the two turns of the check.
        between = systemd.got()[systemd.got().index("STATUS=loop: hangs") : hung]
        assert "WATCHDOG=1" not in between


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_the_service_well(service: Service, number: signal.Signals) -> None:
    cleaned: list[str] = []

    async def worker() -> None:
        try:
            await idle()
        finally:
            cleaned.append("worker")

    async with running(service, worker) as task:
        os.kill(os.getpid(), number)
        assert await asyncio.wait_for(task, 10) == 0
    assert cleaned == ["worker"]


@pytest.fixture
def hang_up_mask() -> Iterator[None]:
    """This process as it was: a service that begins anew leaves SIGHUP blocked."""
    yield
    assert signal.SIGHUP not in signal.sigpending()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})


async def test_without_anything_to_reload_sighup_changes_nothing(service: Service) -> None:
    async with running(service) as task:
        os.kill(os.getpid(), signal.SIGHUP)
        assert (await get(service, "/healthz"))[0] == 200
        assert not task.done()


async def test_sighup_with_settings_to_keep_is_told_to_systemd_and_the_service_goes_on(
    service: Service, systemd: Systemd
) -> None:
    asked: list[str] = []

    def reload() -> bool:
        asked.append("reload")
        return False

    service.on_hang_up(reload)
    async with running(service) as task:
        await eventually(lambda: "READY=1" in systemd.got())
        os.kill(os.getpid(), signal.SIGHUP)
        await eventually(lambda: systemd.got().count("READY=1") == 2)
        (told,) = [one for one in systemd.got() if one.startswith("RELOADING=1")]
        assert int(told.removeprefix("RELOADING=1\nMONOTONIC_USEC=")) > 0
        assert asked == ["reload"]
        assert not task.done()


async def test_sighup_with_other_settings_ends_the_workers_and_asks_to_begin_anew(
    tmp_path: Path, systemd: Systemd, problems: Problems, hang_up_mask: None
) -> None:
    """systemd hears of a reload that is not over, and of no stop; the watchdog is fed last."""
    service = Service(
        "netd", problems=problems, metrics=Metrics("netd"), status=dict,
        socket_path=tmp_path / "netd.sock",
        notifier=Notifier({"NOTIFY_SOCKET": systemd.path, "WATCHDOG_USEC": "60000000"}),
    )  # fmt: skip
    service.on_hang_up(lambda: True)
    cleaned: list[str] = []

    async def worker() -> None:
        try:
            await idle()
        finally:
            # Nobody is killed by another one meanwhile.
            os.kill(os.getpid(), signal.SIGHUP)
            cleaned.append("worker")

    async with running(service, worker) as task:
        await eventually(lambda: "READY=1" in systemd.got())
        os.kill(os.getpid(), signal.SIGHUP)
        assert await asyncio.wait_for(task, 60) == AGAIN
    assert cleaned == ["worker"]
    assert not socket_of(service).exists()
    assert "STOPPING=1" not in systemd.got()
    assert systemd.got()[-2].startswith("RELOADING=1\n")
    assert systemd.got()[-1] == "WATCHDOG=1"
    assert signal.sigpending() == {signal.SIGHUP}, "the process that begins anew gets it"
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


async def test_a_sighup_that_came_while_it_was_blocked_is_heard_at_the_start(
    service: Service, hang_up_mask: None
) -> None:
    asked: list[str] = []

    def reload() -> bool:
        asked.append("reload")
        return False

    service.on_hang_up(reload)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    os.kill(os.getpid(), signal.SIGHUP)
    async with running(service):
        await eventually(lambda: asked == ["reload"])


async def test_sigterm_wins_over_a_reload_that_is_under_way(
    service: Service, systemd: Systemd, hang_up_mask: None
) -> None:
    service.on_hang_up(lambda: True)
    going = asyncio.Event()
    may_end = asyncio.Event()

    async def worker() -> None:
        try:
            await idle()
        finally:
            going.set()
            await may_end.wait()

    async with running(service, worker) as task:
        os.kill(os.getpid(), signal.SIGHUP)
        await asyncio.wait_for(going.wait(), 60)
        os.kill(os.getpid(), signal.SIGTERM)
        await eventually(lambda: not service._again)
        may_end.set()
        assert await asyncio.wait_for(task, 60) == 0


async def test_a_worker_that_fails_wins_over_a_reload(
    service: Service, hang_up_mask: None, printed: io.StringIO
) -> None:
    async def worker() -> None:
        service._hang_up()
        raise HostkitError("etcd speaks only v2")

    service.on_hang_up(lambda: True)
    async with running(service, worker) as task:
        assert await asyncio.wait_for(task, 60) == 1
    assert "etcd speaks only v2" in printed.getvalue()


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """The log as an operator sees it at verbosity 0."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    logs.setup(0, {})
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


async def fails_as_expected() -> None:
    raise HostkitError("etcd speaks only v2")


async def fails_by_a_bug() -> None:
    raise KeyError("subnet")


async def fails_within_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(fails_by_a_bug())


async def ends() -> None:
    return


async def is_cancelled() -> None:
    raise asyncio.CancelledError


@pytest.mark.parametrize(
    ("worker", "words"),
    [
        (fails_as_expected, ["worker: etcd speaks only v2"]),
        (fails_by_a_bug, ["worker", "KeyError", "subnet", "fails_by_a_bug"]),
        (fails_within_a_group, ["worker", "KeyError", "subnet", "fails_by_a_bug"]),
        (ends, ["worker ended without being asked to"]),
        (is_cancelled, ["worker ended without being asked to"]),
    ],
)
async def test_a_worker_that_ends_ends_the_service_with_one_line_and_status_one(
    service: Service,
    printed: io.StringIO,
    worker: Callable[[], Awaitable[None]],
    words: list[str],
) -> None:
    assert await asyncio.wait_for(service.run({"worker": worker(), "other": idle()}), 10) == 1
    (line,) = [line for line in printed.getvalue().splitlines() if " ERROR " in line]
    assert all(word in line for word in words), line
    assert "Traceback" not in printed.getvalue()


def test_a_heartbeat_fails_when_its_last_beat_is_too_old() -> None:
    now = [0.0]
    beat = Heartbeat("the main loop", 20.0, clock=lambda: now[0])
    now[0] = 20.0
    assert beat() is None
    now[0] = 21.0
    assert beat() == "the main loop has not moved for 21 s"
    beat.beat()
    assert beat() is None
