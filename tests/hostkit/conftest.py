"""What tests of the service shell share."""

import io
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostkit import logs
from hostkit.metrics import Metrics
from hostkit.notify import Notifier
from hostkit.problems import Problems
from hostkit.service import Service
from tests.hostkit.served import Systemd


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
