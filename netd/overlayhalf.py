"""The overlay half of netd: which part hears what from which.

    etcd --feed--> roster --peering--> overlay (link, neighbours, FDB, routes)
                     |                    |
                     +--> holder          +--> MTU --+
                            |                        v
                            +--> subnet ---> host side (docker0, files, sysctls), firewall

Nothing is touched before both the configuration and the records have been listed, or, when etcd
stays silent for ``CACHE_AFTER`` seconds, the saved state has been put in their place.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from hostkit.command import Runner
from hostkit.config import Settings
from hostkit.etcd.errors import EtcdError
from hostkit.etcd.gateway import EtcdClient
from hostkit.metrics import Metrics
from hostkit.problems import Problems
from hostkit.reconcile import Backoff, Reconciler
from netd.bridge.options import Facts
from netd.config import etcd_config
from netd.errors import LeaseError
from netd.feed import Feed, Seed, read_seed
from netd.firewall import Firewall
from netd.hostside import HostSide, paths_from
from netd.identity import expected_vni, identify, saved_config
from netd.iptables.table import Iptables
from netd.leases.holder import Held, LeaseHolder
from netd.leases.model import LEASE_TTL, Lease, NetworkConfig, describe
from netd.leases.peers import Entry, Judge, Roster
from netd.leases.store import LeaseStore
from netd.overlay.links import read_vtep_mac
from netd.overlay.manager import Overlay
from netd.overlay.model import HostGwOptions, LocalNode, VxlanOptions, device_name
from netd.peering import Peering
from netd.state import SavedRecord, State, StateSaver, load_state
from netd.status import Figures, overlay_sections
from netd.underlay import Underlay, Wish, ask_network, find

log = logging.getLogger(__name__)

CACHE_AFTER = 3.0
"""Seconds that etcd is given at the start before the saved state is used."""


class OverlayHalf:
    """Keeps this host in the overlay.

    *repaired* is called with the kind of each repair, *network_known* with the overlay's network
    whenever it comes into force, at once with the one of the process before.
    """

    def __init__(
        self,
        settings: Settings,
        runner: Runner,
        problems: Problems,
        metrics: Metrics,
        *,
        iptables: Iptables,
        repaired: Callable[[str], None],
        network_known: Callable[[IPv4Network], None],
    ) -> None:
        self.settings = settings
        self.problems = problems
        self._network_known = network_known
        self.client = EtcdClient(etcd_config(settings))
        self.store = LeaseStore(self.client, settings["etcd-prefix"], LEASE_TTL)
        self.roster = Roster()
        self.feed = Feed(self.client, self.store, self.roster, problems, self)
        self.overlay = Overlay(on_repair=repaired, on_mtu=self._mtu_known)
        self.peering = Peering(self.roster, self.overlay, problems, self._judge)
        self.firewall = Firewall(
            iptables,
            problems,
            ip_masq=settings["ip-masq"],
            forward_rules=settings["iptables-forward-rules"],
            repaired=repaired,
        )
        self.host = HostSide(runner, problems, paths_from(settings), repaired=repaired)
        self.lease_loop = Reconciler(
            "lease", self._converge_lease, sources=("config", "records"), resync=60.0,
            tolerate=(EtcdError, LeaseError), backoff=Backoff(first=0.2, most=5.0),
        )  # fmt: skip
        self.config: NetworkConfig | None = None
        self._config_raw = ""
        self.underlay: Underlay | None = None
        self.holder: LeaseHolder | None = None
        self.from_cache = False
        state_file = Path(settings["state-dir"]) / "state.json"
        self._saver = StateSaver(state_file, problems, self._to_save)
        self._state = load_state(state_file)
        if (saved := saved_config(self._state)) is not None:
            # Before any rule: a restart while etcd is away must not change what depends on it.
            network_known(saved.network)
        Figures(metrics, self)

    async def close(self) -> None:
        """Close what was opened; the data plane and the lease stay."""
        self._saver.flush()
        if self.holder is not None:
            await self.holder.close()
        self.host.close()
        await self.overlay.stop()
        await self.client.close()

    def status(self) -> dict[str, Any]:
        """The overlay's sections of the status document."""
        return overlay_sections(self)

    def missing(self) -> str | None:
        """What has not been done yet on the way to a working network."""
        steps = (
            (self.underlay is not None, "no interface for the overlay yet"),
            (self.config is not None, "no network configuration yet"),
            (self.holder is not None and self.holder.subnet is not None, "no subnet leased yet"),
            (self.overlay.settled, "overlay not programmed yet"),
            (self.host.is_done, "bridge and files not written yet"),
            (self.firewall.is_done, "iptables chains not written yet"),
        )
        return next((text for done, text in steps if not done), None)

    async def run(self) -> None:
        """Keep this host in the overlay for ever."""
        await self.overlay.start()
        self.underlay = await self._find_underlay()
        self.holder = await self._make_holder(self.underlay)
        seed = await asyncio.to_thread(self._read_seed, self.holder)
        async with asyncio.TaskGroup() as group:
            for work in (
                self.feed.follow_config(seed),
                self.feed.follow_records(),
                self._fall_back(),
                self.lease_loop.run(),
                self.overlay.run(),
                self.host.run(),
                self.firewall.run(),
                self._saver.run(),
                self._tick(),
            ):
                group.create_task(work)

    async def _find_underlay(self) -> Underlay:
        settings = self.settings
        wish = Wish(
            settings["iface"],
            settings["iface-regex"],
            settings["iface-can-reach"],
            settings["public-ip"],
        )

        def missing(why: str | None) -> None:
            self.problems.update("interface", why, blocking=True)

        return await find(wish, missing)

    async def _make_holder(self, underlay: Underlay) -> LeaseHolder:
        vni = expected_vni(self._state)
        mac = None
        if vni:
            mac = await read_vtep_mac(vni)
            self.overlay.retire(device_name(vni))
        subnet_file = Path(self.settings["subnet-file"])
        who = await asyncio.to_thread(identify, self._state, mac, subnet_file)
        if who.vtep_mac != self._state.vtep_mac:
            # Before anybody is told: a host that loses its MAC is a stranger to its own record.
            self._state.vtep_mac = who.vtep_mac
            await self._saver.save(self._state)
        holder = LeaseHolder(
            self.store,
            self.roster,
            self.problems,
            public_ip=underlay.public_ip,
            vtep_mac=who.vtep_mac,
            mac_is_new=who.mac_is_new,
            known_macs=who.known_macs,
            remembered=who.remembered,
            changed=self._subnet_changed,
            trigger=self.lease_loop.trigger,
            allow_renumber=self.settings["allow-renumber"],
            find_owner=lambda address: ask_network(underlay.interface.name, address),
            on_link=underlay.interface.reaches,
        )
        if who.remembered is not None and await self.host.in_use(who.remembered):
            # Containers live on it: from here on it is defended, not chosen.
            holder.subnet = who.remembered
        return holder

    def _read_seed(self, holder: LeaseHolder) -> Seed | None:
        """What to write into an etcd that has nothing, where this host is as it is now."""
        path, remembered = self.settings["net-config-path"], self._state.to_records()
        seed = read_seed(path, self.problems, remembered)
        if seed is None:
            return None
        leases = (
            replace(one, public_ip=holder.public_ip, vtep_mac=one.vtep_mac and holder.vtep_mac)
            if one.subnet == self._state.remembered
            else one
            for one in seed.leases
        )
        return Seed(seed.config, tuple(leases))

    # --- what the feed tells ---

    def config_changed(self, config: NetworkConfig, raw: str) -> None:
        """etcd has a well-formed configuration."""
        subnet = self.holder.subnet if self.holder is not None else None
        refused = (
            subnet is not None and not config.admits(subnet) and not self.settings["allow-renumber"]
        )
        if refused:
            self.problems.set(
                "config",
                f"the new network configuration ({config.network}, /{config.subnet_len}) does "
                f"not admit this host's subnet {subnet}; the last good one stays in force. Stop "
                "the containers and restart netd with --allow-renumber",
                blocking=True,
            )
            return
        self._use_config(config, raw)

    def _use_config(self, config: NetworkConfig, raw: str) -> None:
        if config == self.config:
            return
        self.config, self._config_raw = config, raw
        self._network_known(config.network)
        backend = config.backend
        log.info("network %s, /%d a host, %s", config.network, config.subnet_len, describe(backend))
        self._enter_local()
        self.peering.refresh()
        self.lease_loop.trigger()
        self._saver.changed()

    def config_listed(self) -> None:
        """The configuration was looked up."""
        if self.config is not None:
            self.lease_loop.listed("config")

    def roster_replaced(self) -> None:
        """All records are known."""
        self.peering.listed = True
        self.peering.refresh()
        self.lease_loop.listed("records")
        self.lease_loop.trigger()
        self._saver.changed()

    def records_changed(self, changed: Iterable[tuple[Entry | None, Entry | None]]) -> None:
        """Some records changed."""
        changes = list(changed)
        self.peering.apply(changes)
        if any(self._concerns_us(entry) for pair in changes for entry in pair):
            self.lease_loop.trigger()
        self._saver.changed()

    def _concerns_us(self, entry: Entry | None) -> bool:
        holder = self.holder
        if entry is None or holder is None:
            return False
        if holder.subnet is None or entry.subnet == holder.subnet:
            return True
        return isinstance(entry, Lease) and entry.public_ip == holder.public_ip

    def _judge(self) -> Judge | None:
        if self.config is None or self.holder is None:
            return None
        return Judge(self.config, self.holder.public_ip, self.holder.subnet)

    # --- this host ---

    async def _converge_lease(self) -> None:
        holder = self.holder
        if holder is None or self.config is None:
            return
        holder.config = self.config
        try:
            await holder.converge()
        except EtcdError as error:
            self.problems.set("lease-write", f"etcd does not do it: {error}")
            raise
        finally:
            if self.underlay is not None:
                # The MAC may have been taken over from the record.
                self._enter_local()
        self.problems.clear("lease-write")
        self.from_cache = False
        self._saver.changed()

    def _subnet_changed(self, _held: Held) -> None:
        """A subnet came into force."""
        self._enter_local()
        self.peering.refresh()
        self._saver.changed()

    def _enter_local(self) -> None:
        """Tell overlay, firewall and host side what is in force."""
        holder, config, underlay = self.holder, self.config, self.underlay
        if holder is None or holder.subnet is None or config is None or underlay is None:
            return
        self.firewall.set_subnet(config.network, holder.subnet)
        interface = underlay.interface
        behind_nat = interface.addresses and not interface.holds(holder.public_ip)
        direct = isinstance(config.backend, HostGwOptions)
        self.problems.update(
            "host-gw",
            f"PublicIP {holder.public_ip} is not an address of {interface.name}, so no other host "
            "can route to this one: use --public-ip with an address of the interface"
            if direct and behind_nat
            else None,
            blocking=True,
        )
        self.overlay.set_local(
            LocalNode(
                network=config.network,
                subnet=holder.subnet,
                public_ip=holder.public_ip,
                interface=interface.name,
                backend=config.backend,
                vtep_mac=holder.vtep_mac if isinstance(config.backend, VxlanOptions) else "",
                local_ip=interface.addresses[0].ip if behind_nat else None,
            )
        )
        self._mtu_known(self.overlay.mtu)

    def _mtu_known(self, mtu: int) -> None:
        holder, config = self.holder, self.config
        if mtu and holder is not None and holder.subnet is not None and config is not None:
            masq = self.settings["ip-masq"]
            self.host.set_facts(Facts(config.network, holder.subnet, mtu, masq))

    async def _fall_back(self) -> None:
        """Use what was saved of that which etcd has not told in time."""
        await asyncio.sleep(CACHE_AFTER)
        holder, state = self.holder, self._state
        config, subnet = saved_config(state), state.remembered
        if holder is None or not self.lease_loop.waiting_for or config is None:
            return
        if subnet is None or not config.admits(subnet):
            return
        saved_at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(state.saved_at))
        if not self.peering.listed:
            self.from_cache = True
            log.warning(
                "etcd has not answered for %g s: coming up with subnet %s and %d lease records, "
                "saved at %s", CACHE_AFTER, subnet, len(state.records), saved_at,
            )  # fmt: skip
            self.roster.replace(state.to_records(), 0)
            self.peering.listed = True
        if self.config is None:
            log.warning("using the network configuration saved at %s", saved_at)
            self._use_config(config, state.config)
            self.lease_loop.listed("config")
        if holder.subnet is None:
            holder.use_cached(subnet)
        self.peering.refresh()

    # --- housekeeping ---

    def _to_save(self) -> State | None:
        """What a reboot without etcd needs, once there is something that etcd confirmed."""
        holder = self.holder
        if holder is None or holder.subnet is None or self.from_cache or self.config is None:
            return None
        return State(
            vtep_mac=holder.vtep_mac,
            subnet=str(holder.subnet),
            public_ip=str(holder.public_ip),
            config=self._config_raw,
            saved_at=time.time(),
            records=[SavedRecord.of(lease) for lease in self.roster.leases()],
        )

    async def _tick(self) -> None:
        while True:
            blocking = self.overlay.blocking
            self.problems.update("overlay-device", "; ".join(blocking), blocking=True)
            others = (text for text in self.overlay.problems if text not in blocking)
            self.problems.replace_group(
                "overlay/", ((text.partition(":")[0], text) for text in others)
            )
            await asyncio.sleep(0.5)
