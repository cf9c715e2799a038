"""The daemon around its two halves: views, problems, metrics, and this host's iptables.

    overlay half --network--> services half
         |                        |
         +--> problems, metrics <-+
         +----> iptables <--------+

Each half is imported and made only where it is switched on.
"""

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from importlib.metadata import version
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from hostkit.command import Runner
from hostkit.config import Settings
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from hostkit.service import Heartbeat, Service
from netd.config import halves_to_run
from netd.halves import Half, Services
from netd.iptables.table import Iptables
from netd.proxyflags import listeners, notes
from netd.status import OVERLAY_SECTIONS, REPAIRS, Repairs, show_problems

log = logging.getLogger(__name__)


class NetdApp:
    """One netd process; raises ConfigError for settings that cannot be used."""

    def __init__(self, settings: Settings, runner: Runner) -> None:
        self.settings = settings
        self.halves = halves_to_run(settings)
        self._runner = runner
        self._started = time.time()
        self._version = version("barenode")
        self.problems = Problems()
        self.metrics = Metrics("netd")
        self.repairs = Repairs(self.metrics)
        show_problems(self.metrics, self.problems)
        self.iptables = Iptables(
            runner, settings["iptables-variant"], resync=settings["iptables-resync"]
        )
        self.services = self._make_services() if self.halves.services else None
        self.overlay = self._make_overlay() if self.halves.overlay else None
        self._beat = Heartbeat("the main loop", 20.0)
        self.service = self._make_service()

    def _make_overlay(self) -> Half:
        from netd.overlayhalf import OverlayHalf  # noqa: PLC0415 - only where it is on

        self.repairs.expect(*REPAIRS)
        return OverlayHalf(
            self.settings,
            self._runner,
            self.problems,
            self.metrics,
            iptables=self.iptables,
            repaired=self.repairs.count,
            network_known=self._network_known,
        )

    def _make_services(self) -> Services:
        from netd.services.half import ServicesHalf  # noqa: PLC0415 - only where it is on

        return ServicesHalf(
            self.settings,
            self._runner,
            self.problems,
            self.metrics,
            iptables=self.iptables,
            repaired=self.repairs.count,
        )

    def _network_known(self, network: IPv4Network) -> None:
        if self.services is not None:
            self.services.network_known(network)

    def _make_service(self) -> Service:
        service = Service(
            "netd",
            problems=self.problems,
            metrics=self.metrics,
            status=self.status,
            socket_path=Path(self.settings["run-dir"]) / "netd.sock",
            listen=listeners(self.settings),
        )
        service.add_view("/explain", self._explain)
        service.add_live_check("loop", self._beat)
        if self.overlay is not None:
            service.add_ready_check("network", self.overlay.missing)
        if self.services is not None:
            # Docker waits for READY=1, and the API server may be a container of this very host.
            alone = self.overlay is None
            service.add_ready_check("services", self.services.missing, holds_start=alone)
        return service

    async def run(self) -> int:
        """Run until a signal; returns the exit status, or hostkit.service.AGAIN."""
        for note in notes(self.settings):
            log.info("%s", note)
        halves: dict[str, Half] = {}
        if self.overlay is not None:
            halves["overlay"] = self.overlay
        if self.services is not None:
            halves["services"] = self.services
        try:
            workers = {name: half.run() for name, half in halves.items()}
            workers |= {"rule watch": self.iptables.watch.run(), "main loop": self._tick()}
            return await self.service.run(workers)
        finally:
            for half in halves.values():
                await half.close()
            self.iptables.close()

    def status(self) -> dict[str, Any]:
        """The status document; times are Unix seconds, absent things null."""
        overlay, services = self.overlay, self.services
        return {
            "version": self._version,
            "pid": os.getpid(),
            "started": self._started,
            "halves": {"overlay": self.halves.overlay, "services": self.halves.services},
            **(dict.fromkeys(OVERLAY_SECTIONS) if overlay is None else overlay.status()),
            "services": None if services is None else services.status(),
            "repairs": dict(sorted(self.repairs.counts.items())),
        }

    def _explain(self, query: Mapping[str, str]) -> dict[str, Any]:
        target = query.get("target", "")
        if not target:
            raise ValueError("explain needs a target: a service or an address with port")
        if self.services is None:
            wrong = "this netd balances no services: start it with --master or --kubeconfig"
            return {"target": target, "found": False, "answers": [], "wrong": [wrong]}
        return self.services.explain(target)

    async def _tick(self) -> None:
        while True:
            self._beat.beat()
            await asyncio.sleep(0.5)
