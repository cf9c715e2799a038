"""How a service ends: by a signal, to begin anew after a reload, and with a worker."""

import asyncio
import io
import os
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from hostkit.errors import HostkitError
from hostkit.metrics import Metrics
from hostkit.notify import Notifier
from hostkit.problems import Problems
from hostkit.service import AGAIN, Service
from tests.hostkit.served import Systemd, get, idle, running, socket_of
from tests.support.poll import eventually


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


def keeping(service: Service) -> list[str]:
    """Have *service* keep its settings at each SIGHUP; notes when it was asked."""
    asked: list[str] = []

    def reload() -> bool:
        asked.append("reload")
        return False

    service.on_hang_up(reload)
    return asked


async def test_sighup_with_settings_to_keep_is_told_to_systemd_and_the_service_goes_on(
    service: Service, systemd: Systemd
) -> None:
    asked = keeping(service)
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
    asked = keeping(service)
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
