"""``barenode init``: this host becomes the first and only master of a new cluster.

    checks ─► images ─► PKI, settings ─► Docker's images ─► netd, Docker, nodeagent
           ─► manifests ─► API server ─► objects, token ─► node Ready ─► the line for others

Everything can be repeated: what is there stays, what is missing is made, and there is a new token.
"""

import asyncio
import socket
from argparse import Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from hostkit import unixhttp
from hostkit.command import CommandError, Runner
from hostkit.files import write_atomic
from hostkit.kube.config import KubeConfig
from hostkit.kube.config import load as load_kubeconfig
from lab.errors import LabError
from lab.host import docker_client, parse_nameservers
from lab.join import (
    addresses,
    bootstrap,
    firstmaster,
    hostservices,
    objects,
    preflight,
    record,
    tokens,
)
from lab.join.api import Api
from lab.join.bootstrap import Joined, Waiting
from lab.join.firstmaster import Asked, Present, Settled
from lab.join.images import HostImages, Images, ImageWish
from lab.join.model import RECORD_FILE, ClusterConfig, Record
from lab.join.tokens import Token
from lab.master import agents, certificates, planeflags
from lab.master.etcdpods import ETCD_DATA, NETWORK_DATA
from lab.master.manifests import KUBERNETES, PKI
from lab.master.pki import Pki
from lab.master.plane import API_PORT, Plane
from lab.master.provision import STATE_FILE, Host
from netd.state import load_state

ADMIN_CONF = f"{KUBERNETES}/admin.conf"
DESCRIPTION = "made by barenode init"
_SOCKETS = {"netd": "/run/netd/netd.sock", "nodeagent": "/run/nodeagent/nodeagent.sock"}
_TAINTS = "register-with-taints"
# What the daemons read once: when one of these changes they have to be started again.
_READ_AT_START = (
    agents.NETD_FILE,
    agents.NODEAGENT_FILE,
    agents.NETD_CONF,
    agents.NODEAGENT_CONF,
    f"{PKI}/kubelet.crt",
)
_JOURNAL = "'journalctl -u nodeagent' and 'docker ps -a' tell more"


@dataclass(frozen=True, slots=True)
class Request:
    """What the flags ask for. *ttl* None: the token never expires; *timeout* in seconds."""

    asked: Asked = field(default_factory=Asked)
    names: tuple[str, ...] = ()
    images: ImageWish = field(default_factory=ImageWish)
    token: Token = field(default_factory=Token.new)
    ttl: timedelta | None = timedelta(days=1)
    schedule_pods: bool = False
    timeout: float = 600.0


class Init:
    """Makes the host whose root folder is *root* a master.

    *bring_up* and *check* are those of ``hostservices`` and ``preflight``, *connect* makes a client
    of the API server; *now* has a time zone, *sleep* takes seconds.
    """

    def __init__(
        self,
        runner: Runner,
        images: HostImages,
        report: hostservices.Report,
        *,
        root: Path = Path("/"),
        bring_up: Callable[..., Awaitable[None]] = hostservices.bring_up,
        check: Callable[..., Awaitable[Record | None]] = preflight.check,
        systemd: hostservices.Systemd | None = None,
        connect: Callable[[KubeConfig], Api] = Api,
        now: Callable[[], datetime] = bootstrap.now_utc,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._run = runner
        self._images = images
        self._report = report
        self._root = root
        self._bring_up = bring_up
        self._check = check
        self._systemd = systemd or hostservices.Systemd(runner)
        self._connect = connect
        self._now = now
        self._sleep = sleep

    async def run(self, request: Request) -> Joined:
        """Do all of it; raises LabError, and KubeError where the API server refuses."""
        known = record.load(self._path(RECORD_FILE))
        hostname = known.name if known else request.asked.name or socket.gethostname().lower()
        known = await self._check(
            self._run, role="master", name=hostname, report=self._report, root=self._root
        )
        there = self._present()
        settled = firstmaster.settle(request.asked, there, known, await self._facts(), hostname)
        if known is None:
            firstmaster.check_leftovers(settled.pods, *self._leftovers())
        self._report("check", f"{settled.name} at {settled.address}, pods {settled.pods},"
                     f" services {settled.services}")  # fmt: skip
        await self._systemd.up(hostservices.DOCKER, self._report, timeout=request.timeout)
        images = await self._choose(request.images, there)
        pki = Pki(self._path(PKI))
        plane = self._plane(settled, images, request.names, pki)
        host = Host(self._root, plane, pki, settled.name, settled.address)
        pki.authorities()
        entry = Record(
            role="master",
            name=settled.name,
            address=settled.address,
            server=f"https://{settled.address}:{API_PORT}",
            ca_hash=pki.fingerprint(),
            at=known.at if known else 0.0,
        )
        record.save(entry, self._path(RECORD_FILE))
        changed = self._provision(host, plane, settled, schedule_pods=request.schedule_pods)
        for image in (images.etcd, images.hyperkube):
            await self._images.bring(image)
        host.begin()
        await self._bring_up(
            self._run, self._report, timeout=request.timeout, restart=changed or not entry.at
        )
        host.place_manifests()
        return await self._finish(request, entry, ClusterConfig.of(plane), pki)

    async def _finish(
        self, request: Request, entry: Record, config: ClusterConfig, pki: Pki
    ) -> Joined:
        """From the first sign of the API server to the line for others."""
        waiting = Waiting(self._report, request.timeout, sleep=self._sleep)
        kubeconfig = load_kubeconfig([], str(self._path(ADMIN_CONF)))
        placed = objects.for_cluster(config, entry.server, pki.authority("ca"))
        async with self._connect(kubeconfig) as api:
            self._report("API", f"waiting for {entry.server}")
            answers = partial(bootstrap.answering, api, self._states)
            await waiting.until("API", "the API server does not answer", answers, _JOURNAL)
            self._report("API", "answers; roles and the cluster's configuration")

            expires: datetime | None = None

            async def told() -> str:
                nonlocal expires
                await bootstrap.put(api, placed)
                expires = await bootstrap.put_token(
                    api, request.token, request.ttl, DESCRIPTION, self._now()
                )
                return ""

            async def ready() -> str:
                free = request.schedule_pods
                return await bootstrap.make_master(api, entry.name, schedule_pods=free)

            await waiting.until("API", "the API server does not take its configuration", told)
            await waiting.until(entry.name, f"node {entry.name} is not Ready", ready, _JOURNAL)
        for daemon, path in _SOCKETS.items():
            await waiting.until(daemon, f"{daemon} is not ready", partial(self._settled, path))
        self._report(entry.name, "is Ready")
        if not entry.at:
            entry = msgspec.structs.replace(entry, at=self._now().timestamp())
            record.save(entry, self._path(RECORD_FILE))
        where = f"{entry.address}:{API_PORT}"
        return Joined(
            node=entry.name,
            address=entry.address,
            server=entry.server,
            ca_hash=entry.ca_hash,
            token=str(request.token),
            expires=tokens.timestamp(expires) if expires else "",
            join=tokens.join_line(where, request.token, entry.ca_hash),
            kubeconfig=ADMIN_CONF,
        )

    def _path(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _present(self) -> Present:
        network = self._path(agents.NETWORK_FILE)
        folder = self._path(agents.MANIFESTS)
        try:
            texts = {path.stem: path.read_text() for path in sorted(folder.glob("[!.]*.yaml"))}
            return firstmaster.present(network.read_text() if network.exists() else "", texts)
        except OSError as error:
            raise LabError(f"{error.filename}: {error.strerror or error}") from error

    def _leftovers(self) -> tuple[IPv4Network | None, list[str]]:
        """The subnet that netd remembers, and the folders of etcd that are not empty."""
        try:
            data = [
                folder
                for folder in (f"{ETCD_DATA}/data", NETWORK_DATA)
                if (path := self._path(folder)).is_dir() and any(path.iterdir())
            ]
        except OSError as error:
            raise LabError(f"{error.filename}: {error.strerror or error}") from error
        return load_state(self._path(STATE_FILE)).remembered, data

    async def _facts(self) -> addresses.Facts:
        try:
            links, routes = [
                msgspec.json.decode((await self._run.run(["ip", "-json", "-4", *words])).stdout
                                    or "[]", type=list[dict[str, Any]])
                for words in (("address", "show"), ("route", "show", "table", "all"))
            ]  # fmt: skip
            resolv = self._path("/etc/resolv.conf")
            servers = parse_nameservers(resolv.read_text() if resolv.exists() else "")
            return addresses.read(links, routes, servers)
        except (CommandError, OSError, ValueError, KeyError) as error:
            raise LabError(f"this host's addresses cannot be read: {error}") from error

    async def _choose(self, wish: ImageWish, there: Present) -> Images:
        """The images asked for; a host that is a master already keeps those that it has."""
        hyperkube, etcd = wish.hyperkube, wish.etcd
        if wish.silent and await self._has(there.hyperkube):
            hyperkube = there.hyperkube
        if not etcd and await self._has(there.etcd):
            etcd = there.etcd
        kept = ImageWish(hyperkube, wish.bin_dir, wish.version, etcd)
        return await self._images.choose(kept)

    async def _has(self, name: str) -> bool:
        return bool(name and await self._images.identity(name))

    def _plane(self, settled: Settled, images: Images, names: tuple[str, ...], pki: Pki) -> Plane:
        def plane(extra: tuple[str, ...]) -> Plane:
            flags = Namespace(
                master=[f"{settled.name}={settled.address}"],
                service_range=settled.services,
                domain=settled.domain,
                name=extra,
            )
            return planeflags.plane(
                flags,
                pods=settled.pods,
                version=images.version,
                hyperkube_image=images.hyperkube.name,
                etcd_image=images.etcd.name,
            )

        usual = plane(())
        return plane(tuple(dict.fromkeys((*self._given_before(usual, pki), *names))))

    def _given_before(self, usual: Plane, pki: Pki) -> tuple[str, ...]:
        """The names that the API's certificate got by --name in an earlier run."""
        if not (pki.folder / "apiserver.crt").exists():
            return ()
        there = pki.issued("apiserver")
        wanted = certificates.for_master(usual, usual.masters[0])[0]
        known = {*wanted.addresses, *wanted.names}
        return tuple(text for text in (*there.addresses, *there.names) if text not in known)

    def _provision(
        self, host: Host, plane: Plane, settled: Settled, *, schedule_pods: bool
    ) -> bool:
        """Write PKI and settings; whether what the daemons read at their start has changed."""
        before = self._read_at_start()
        own = self._path(agents.NODEAGENT_FILE)
        free = own.exists() and _TAINTS not in own.read_text()
        self._report("files", f"certificates and settings in {KUBERNETES}, /etc/netd, ...")
        host.provision()
        if schedule_pods or free:
            settings = agents.nodeagent_settings(plane, settled.name, settled.address)
            settings = {name: value for name, value in settings.items() if name != _TAINTS}
            write_atomic(own, agents.toml(settings))
        return self._read_at_start() != before

    def _read_at_start(self) -> list[bytes | None]:
        paths = [self._path(name) for name in _READ_AT_START]
        return [path.read_bytes() if path.exists() else None for path in paths]

    async def _states(self) -> str:
        """How the control plane's containers are, "" when Docker does not tell."""
        try:
            done = await self._run.run(bootstrap.states_argv(docker_client()))
        except CommandError:
            return ""
        return bootstrap.container_states(done.stdout)

    async def _settled(self, path: str) -> str:
        try:
            status, text = await unixhttp.get(self._path(path), "/readyz", timeout=5.0)
        except FileNotFoundError:
            # Its settings name another place; systemd has heard that it is up.
            return ""
        except (OSError, ValueError):
            return "waiting for its answer"
        return "" if status == 200 else text.decode(errors="replace").strip() or "is not ready"
