"""``netd cleanup``: take away everything that netd ever put on this host, and nothing else.

A half that is switched off is left alone: another netd, or another program, may keep it.

Each step stands alone: one that fails is named, the others are done all the same.
"""

import contextlib
import glob
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path

from hostkit.command import Runner
from hostkit.config import Settings
from hostkit.errors import HostkitError
from hostkit.etcd.gateway import EtcdClient
from hostkit.files import remove
from netd.bridge.apply import remove as remove_bridge
from netd.bridge.options import Facts
from netd.config import etcd_config, halves_to_clean
from netd.identity import expected_vni, last_subnet, saved_config
from netd.iptables.errors import HiddenTable
from netd.iptables.flannel import forward, masquerade
from netd.iptables.leftovers import drop_table, unused_tables
from netd.iptables.table import DEADLINE, VARIANTS, Tables, remove_all
from netd.leases.model import LEASE_TTL, Lease
from netd.leases.peers import interpret
from netd.leases.store import LeaseStore
from netd.overlay.links import read_vtep_mac
from netd.overlay.manager import Overlay
from netd.overlay.model import device_name
from netd.services.names import CANARY, PREFIXES
from netd.state import State, load_state
from netd.sysctls import NEEDED

log = logging.getLogger(__name__)

OURS = frozenset({"filter", "nat"})
"""The tables that netd writes."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step's outcome; *ok* is False when something of ours stays."""

    what: str
    result: str
    ok: bool = True


class Cleanup:
    """Takes netd's traces away, guided by the saved state and the files it left; raises
    ConfigError when both halves are switched off. *drop* removes an empty table of nf_tables."""

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        *,
        drop: Callable[[str, Sequence[str]], bool] = drop_table,
    ) -> None:
        self._settings = settings
        self._runner = runner
        self._drop = drop
        self._halves = halves_to_clean(settings)
        self._state_path = Path(settings["state-dir"]) / "state.json"
        self._state: State = load_state(self._state_path)
        self._subnet = last_subnet(self._state, Path(settings["subnet-file"]))
        self._config = saved_config(self._state)
        self._vni = expected_vni(self._state)
        self._failed: set[str] = set()

    async def run(self) -> list[Step]:
        """Do every step."""
        overlay: list[tuple[str, Callable[[], Awaitable[str]]]] = [
            ("lease", self._lease),
            ("overlay", self._overlay),
            ("iptables", self._iptables),
            (self._settings["bridge"], self._bridge),
            ("files", self._files),
        ]
        steps = overlay if self._halves.overlay else []
        if self._halves.services:
            steps = [("services", self._services), *steps]
        steps = [*steps, ("tables", self._empty_tables), ("run files", self._run_files)]
        done: list[Step] = []
        for what, work in steps:
            try:
                done.append(Step(what, await work()))
            except (HostkitError, OSError) as error:
                done.append(Step(what, str(error), ok=False))
                self._failed.add(what)
        stay = ", ".join(NEEDED)
        done.append(Step("sysctls", f"stay as they are, others need them too: {stay}"))
        return done

    async def _lease(self) -> str:
        if self._subnet is None:
            return "none known"
        mac = await read_vtep_mac(self._vni) if self._vni else None
        client = EtcdClient(etcd_config(self._settings))
        store = LeaseStore(client, self._settings["etcd-prefix"], LEASE_TTL)
        try:
            record = await store.read(self._subnet)
            entry = interpret(record) if record is not None else None
            if not isinstance(entry, Lease) or not self._is_ours(entry, mac):
                return f"{self._subnet} is not ours in etcd"
            if entry.is_reservation:
                return f"{self._subnet} is a reservation and stays"
            await store.drop(entry)
        finally:
            await client.close()
        return f"{self._subnet} given back"

    def _is_ours(self, lease: Lease, mac_in_kernel: str | None) -> bool:
        """By the saved state, or, where that was lost, by the device that is still there."""
        macs = {self._state.vtep_mac, mac_in_kernel} - {"", None}
        return str(lease.public_ip) == self._state.public_ip or lease.vtep_mac in macs

    async def _overlay(self) -> str:
        network = None if self._config is None else self._config.network
        device = device_name(self._vni) if self._vni else ""
        overlay = Overlay()
        await overlay.start()
        try:
            gone = await overlay.remove(network, device)
        finally:
            await overlay.stop()
        return f"{', '.join(gone)} removed" if gone else "nothing of ours"

    async def _iptables(self) -> str:
        changed: list[str] = []
        for variant in VARIANTS:
            wishes = [forward(None), masquerade(None, None)]
            there = _tables(variant)
            tables = Tables(self._runner, variant)
            try:
                changed += await tables.ensure([wish for wish in wishes if wish.table in there])
            except HiddenTable as error:
                chains = [name for wish in wishes for name in wish.absent]
                await _only_if_ours(tables, chains, error)
        return ", ".join(changed) or "nothing of ours"

    async def _services(self) -> str:
        gone: list[str] = []
        for variant in VARIANTS:
            tables = Tables(self._runner, variant)
            names = sorted(_tables(variant))
            asked = self._settings["services"] == "on"
            try:
                there = await tables.save(names)
                # kube-proxy of the first years had chains of the same names.
                if asked or any(CANARY in table.chains for table in there.values()):
                    gone += await remove_all(tables, names, PREFIXES)
            except HiddenTable as error:
                await _only_if_ours(tables, [CANARY], error)
        return f"{len(gone)} chains and jumps removed" if gone else "nothing of ours"

    async def _empty_tables(self) -> str:
        """What iptables-nft leaves of a table; one with anything in it stays."""
        saved = await self._runner.run(["iptables-nft-save"], timeout=DEADLINE)
        unused = unused_tables(saved.stdout)
        gone = [name for name in sorted(unused.keys() & OURS) if self._drop(name, unused[name])]
        return f"{', '.join(gone)} removed, for nothing was in them" if gone else "none is empty"

    async def _bridge(self) -> str:
        name = self._settings["bridge"]
        if name == "none":
            return "not ours"
        ours = None
        if self._subnet is not None:
            ours = IPv4Interface(Facts(self._subnet, self._subnet, 0, ip_masq=False).gateway)
        return await remove_bridge(name, ours)

    async def _files(self) -> str:
        settings = self._settings
        names = [settings["docker-env-file"], settings["docker-drop-in"]]
        if not self._failed:
            # What could not be removed is known from these only: the next try needs them.
            names += [settings["subnet-file"], str(self._state_path)]
        paths = [Path(name) for name in names if name]
        own = [path.parent for path in paths if str(path) != settings["docker-env-file"]]
        gone = _remove(paths, own)
        if settings["docker-drop-in"] in gone:
            await self._runner.run(["systemctl", "daemon-reload"], check=False)
        return ", ".join(gone) + " removed" if gone else "none"

    async def _run_files(self) -> str:
        folder = Path(self._settings["run-dir"])
        gone = _remove([folder / name for name in ("netd.sock", "netd.lock")], [folder])
        return ", ".join(gone) + " removed" if gone else "none"


def _remove(paths: Iterable[Path], folders: Iterable[Path]) -> list[str]:
    """Remove files, with what a netd that was killed left of writing them, and then those of
    *folders* that are empty; the names of the files that were there."""
    gone = []
    for path in paths:
        if remove(path):
            gone.append(str(path))
        for part in path.parent.glob(f".{glob.escape(path.name)}.*"):
            remove(part)
    for folder in folders:
        # What others put there stays.
        with contextlib.suppress(OSError):
            folder.rmdir()
    return gone


async def _only_if_ours(tables: Tables, chains: Iterable[str], error: HiddenTable) -> None:
    """Raise *error* if the hidden table has one of our *chains*, not if it has none."""
    for chain in chains:
        if await tables.has_chain(error.table, chain):
            raise error


def _tables(variant: str) -> frozenset[str]:
    """Those of our tables that exist: only to look at a legacy table makes the kernel make it."""
    if variant != "legacy":
        return OURS
    try:
        names = Path("/proc/net/ip_tables_names").read_text(encoding="ascii")
    except OSError:
        return frozenset()
    return OURS & set(names.split())
