"""The daemon around its halves: what each sees of the other, and nothing of one that is off."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from hostkit.config import ConfigError, Settings
from hostkit.unixhttp import get
from netd.app import NetdApp
from netd.config import load_settings
from netd.halves import Half, Services
from netd.status import OVERLAY_SECTIONS
from tests.fakes.iptables import FakeIptables
from tests.support.poll import eventually

API = "--master=http://127.0.0.1:1"


class FakeHalf:
    """A half that becomes ready when it is told to; it remembers what it was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waits_for: str | None = f"{name} not done yet"
        self.runs = False
        self.is_closed = False
        self.network: IPv4Network | None = None

    async def run(self) -> None:
        self.runs = True
        await asyncio.Event().wait()

    def missing(self) -> str | None:
        return self.waits_for

    def status(self) -> dict[str, Any]:
        sections = OVERLAY_SECTIONS if self.name == "overlay" else ("listed",)
        return dict.fromkeys(sections, self.name)

    def network_known(self, network: IPv4Network) -> None:
        self.network = network

    def explain(self, target: str) -> dict[str, Any]:
        return {"target": target, "found": False, "answers": [], "wrong": ["no such service"]}

    async def close(self) -> None:
        self.is_closed = True


class FakedApp(NetdApp):
    """The daemon with halves that do nothing."""

    def __init__(self, settings: Settings) -> None:
        self.faked: dict[str, FakeHalf] = {}
        super().__init__(settings, FakeIptables())

    def _make_overlay(self) -> Half:
        return self.faked.setdefault("overlay", FakeHalf("overlay"))

    def _make_services(self) -> Services:
        return self.faked.setdefault("services", FakeHalf("services"))


def settings(folder: Path, *flags: str) -> Settings:
    """The settings of a netd whose files are all in *folder*."""
    own = [f"--run-dir={folder}", f"--state-dir={folder}", "--config=/dev/null"]
    return load_settings([*own, *flags], {})


@asynccontextmanager
async def running(app: NetdApp) -> AsyncIterator["asyncio.Task[int]"]:
    """*app* until the block ends."""
    task = asyncio.create_task(app.run())
    path = Path(app.settings["run-dir"]) / "netd.sock"
    try:
        await eventually(lambda: path.exists() or task.done())
        yield task
    finally:
        app.service.stop()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 60)


async def ask(app: NetdApp, view: str) -> tuple[int, str]:
    """Status and body of *view*."""
    path = Path(app.settings["run-dir"]) / "netd.sock"
    code, body = await get(path, view, timeout=60)
    return code, body.decode()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], {"overlay"}),
        ([API], {"overlay", "services"}),
        ([API, "--services=off"], {"overlay"}),
        ([API, "--overlay=off"], {"services"}),
        ([API, "--overlay=off", "--services=on"], {"services"}),
        (["--kubeconfig=/etc/kubeconfig"], {"overlay", "services"}),
    ],
)
def test_only_the_halves_that_are_on_are_made(
    tmp_path: Path, flags: list[str], expected: set[str]
) -> None:
    assert FakedApp(settings(tmp_path, *flags)).faked.keys() == expected


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--overlay=off", "--services=off"], "both off"),
        (["--overlay=off"], "no API server is named"),
        (["--services=on"], "flag --services: .*use --master or --kubeconfig"),
        (["--healthz-port=5", "--healthz-bind-address=127.0.0.1:6"], "healthz-port is 5"),
    ],
)
def test_settings_that_leave_nothing_to_do_are_refused(
    tmp_path: Path, flags: list[str], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        FakedApp(settings(tmp_path, *flags))


async def test_the_host_is_ready_when_both_halves_are(tmp_path: Path) -> None:
    app = FakedApp(settings(tmp_path, API))
    async with running(app):
        assert await ask(app, "/readyz") == (
            503, "network: overlay not done yet\nservices: services not done yet\n",
        )  # fmt: skip
        app.faked["overlay"].waits_for = None
        assert await ask(app, "/readyz") == (503, "services: services not done yet\n")
        app.faked["services"].waits_for = None
        assert await ask(app, "/readyz") == (200, "ok\n")
        assert all(half.runs for half in app.faked.values())
    assert all(half.is_closed for half in app.faked.values())


async def test_a_half_that_is_off_does_not_count_for_readiness_and_its_sections_are_null(
    tmp_path: Path,
) -> None:
    app = FakedApp(settings(tmp_path, API, "--overlay=off"))
    app.faked["services"].waits_for = None
    async with running(app):
        assert (await ask(app, "/readyz"))[0] == 200
        status = json.loads((await ask(app, "/status"))[1])
    assert status["halves"] == {"overlay": False, "services": True}
    assert status["services"] == {"listed": "services"}
    assert [status[section] for section in OVERLAY_SECTIONS] == [None] * len(OVERLAY_SECTIONS)
    assert status["repairs"] == {}


async def test_without_services_their_section_is_null_and_explain_says_how_to_get_them(
    tmp_path: Path,
) -> None:
    app = FakedApp(settings(tmp_path))
    async with running(app):
        status = json.loads((await ask(app, "/status"))[1])
        code, body = await ask(app, "/explain?target=web")
    assert (status["services"], status["lease"]) == (None, "overlay")
    assert code == 200
    document = json.loads(body)
    assert (document["target"], document["found"], document["answers"]) == ("web", False, [])
    assert "--master" in document["wrong"][0]


async def test_explain_hands_the_target_on_as_it_was_written(tmp_path: Path) -> None:
    app = FakedApp(settings(tmp_path, API))
    async with running(app):
        code, body = await ask(app, "/explain?target=10.0.0.7%3A53%2Fudp")
        assert (code, json.loads(body)["target"]) == (200, "10.0.0.7:53/udp")
        assert (await ask(app, "/explain"))[0] == 400


async def test_repairs_of_both_halves_are_counted_together(tmp_path: Path) -> None:
    app = FakedApp(settings(tmp_path, API))
    for _ in range(2):
        app.repairs.count("iptables")
    app.repairs.count("bridge")
    async with running(app):
        status = json.loads((await ask(app, "/status"))[1])
        metrics = (await ask(app, "/metrics"))[1]
    assert status["repairs"] == {"bridge": 1, "iptables": 2}
    assert 'netd_repairs_total{kind="iptables"} 2.0' in metrics
    assert "netd_problems 0.0" in metrics


async def test_flags_without_use_are_told_once_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(FakedApp(settings(tmp_path, "--logtostderr", "--kube-api-qps=5"))):
        pass
    told = [message for message in caplog.messages if "is not used" in message]
    assert [message.split()[0] for message in told] == ["--logtostderr", "--kube-api-qps"]


async def test_a_fault_in_one_half_ends_the_process_so_that_it_is_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    app = FakedApp(settings(tmp_path, API))

    async def broken() -> None:
        raise RuntimeError("a fault")

    app.faked["services"].run = broken  # type: ignore[method-assign]
    assert await asyncio.wait_for(app.run(), 60) == 1
    assert "services stopped by a fault" in caplog.text
    assert all(half.is_closed for half in app.faked.values())


async def test_the_real_overlay_half_alone_has_no_figures_of_services(tmp_path: Path) -> None:
    app = NetdApp(settings(tmp_path), FakeIptables())
    text = app.metrics.render().decode()
    assert "netd_peers 0.0" in text
    assert 'netd_repairs_total{kind="route"} 0.0' in text
    assert "kubeproxy_" not in text
    assert app.overlay is not None
    assert app.overlay.missing() == "no interface for the overlay yet"
    assert app.status()["lease"] is None
    await app.overlay.close()


async def test_the_real_services_half_alone_has_no_figures_of_the_overlay(tmp_path: Path) -> None:
    app = NetdApp(settings(tmp_path, API, "--overlay=off"), FakeIptables())
    text = app.metrics.render().decode()
    assert "kubeproxy_sync_proxy_rules_iptables_restore_failures_total 0.0" in text
    assert "netd_peers" not in text
    assert app.services is not None
    assert app.services.missing() is not None
    assert app.status()["services"]["listed"] is False
    await app.services.close()
