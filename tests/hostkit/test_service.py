"""The service shell: its views over the socket, READY=1, and what its checks say."""

import asyncio
import json
import socket
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hostkit.metrics import Metrics
from hostkit.notify import Notifier
from hostkit.problems import Problems
from hostkit.service import Heartbeat, Service
from tests.hostkit.served import Systemd, get, idle, running, socket_of
from tests.support.poll import eventually


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
        await eventually(lambda: service._was_ready)
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
        # An address of our own: ports of 127.0.0.1 may be taken by others once these are closed.
        for probe in (first, second):
            probe.bind(("127.83.1.7", 0))
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


def test_a_heartbeat_fails_when_its_last_beat_is_too_old() -> None:
    now = [0.0]
    beat = Heartbeat("the main loop", 20.0, clock=lambda: now[0])
    now[0] = 20.0
    assert beat() is None
    now[0] = 21.0
    assert beat() == "the main loop has not moved for 21 s"
    beat.beat()
    assert beat() is None
