"""The surroundings of a measurement: hosts as namespaces, a real etcd with lease records, netd.

Everything lives in private namespaces and one temporary directory and goes when ``world`` ends,
in whatever way. Records of different size sets lie under different prefixes of one etcd.
"""

import asyncio
import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import NamedTuple

from bench.events import Recorder
from bench.peers import CONFIG, Entry, Peer, peers
from bench.result import BenchError
from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.gateway import EtcdClient, put
from netd.leases.model import LEASE_TTL
from tests.support.etcd import EtcdCluster
from tests.support.netns import Fabric, Inside, Namespace

ETCD_ADDRESS = "172.29.0.254"
ETCD_PORT = 2379
_PARALLEL = 32


class Notices:
    """The socket at *path* to which a service says READY=1.

    A thread empties it: the kernel keeps no more than ten messages for a slow reader, and netd
    does not wait for one.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.settimeout(0.2)
        self._ready = threading.Event()
        self._ready_at = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._closing and not self._ready.is_set():
            try:
                message = self._socket.recv(65536)
            except TimeoutError:
                continue
            if b"READY=1" in message.splitlines():
                self._ready_at = time.monotonic()
                self._ready.set()

    def wait_ready(self, timeout: float) -> float:
        """When READY=1 came, on the monotonic clock; 0 if it did not within *timeout* seconds."""
        return self._ready_at if self._ready.wait(timeout) else 0.0

    def close(self) -> None:
        """End the thread."""
        self._closing = True
        self._thread.join()
        self._socket.close()


class Daemon:
    """``netd run`` in *namespace*; all its files are below *directory*.

    ``started`` is the monotonic time right before the last start.
    """

    def __init__(self, namespace: Namespace, directory: Path, endpoint: str, prefix: str) -> None:
        self.ns = namespace
        self.directory = directory
        self._endpoint = endpoint
        self._prefix = prefix
        self._process: subprocess.Popen[str] | None = None
        self._notices: Notices | None = None
        self.started = 0.0
        directory.mkdir(parents=True)

    @property
    def pid(self) -> int:
        """The process id; raises BenchError when it does not run."""
        self.check()
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start it; does not wait."""
        folder = self.directory
        self._notices = Notices(folder / "notify")
        netd = Path(sys.executable).with_name("netd")
        argv = [
            # The bench may be killed; what it started must not stay.
            "setpriv", "--pdeathsig", "KILL", "--", str(netd), "run",
            f"--etcd-endpoints={self._endpoint}", f"--etcd-prefix={self._prefix}",
            "--iface=eth0", "--ip-masq", "--docker-drop-in=",
            f"--subnet-file={folder / 'subnet.env'}",
            f"--docker-env-file={folder / 'docker.env'}",
            f"--docker-socket={folder / 'docker.sock'}",
            f"--state-dir={folder / 'state'}",
            f"--run-dir={folder / 'run'}",
        ]  # fmt: skip
        # An installed netd has its bytecode; PYTHONDONTWRITEBYTECODE would measure the compiler.
        env = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(folder / "notify")}
        with (folder / "netd.log").open("a") as log:
            self.started = time.monotonic()
            self._process = self.ns.start(argv, stdout=log, stderr=log, env=env)

    def wait_ready(self, deadline: float = 60.0) -> float:
        """Wait for READY=1, sd_notify(3); returns when it came, on the monotonic clock."""
        end = time.monotonic() + deadline
        while True:
            assert self._notices is not None
            at = self._notices.wait_ready(0.1)
            if at:
                return at
            self.check()
            if time.monotonic() > end:
                raise BenchError(f"netd is not ready after {deadline:g} s: {self._log_tail()}")

    def subnet(self) -> IPv4Network:
        """The leased subnet, from the file that it writes before READY=1."""
        for line in (self.directory / "subnet.env").read_text().splitlines():
            name, _, value = line.partition("=")
            if name == "FLANNEL_SUBNET":
                return IPv4Interface(value).network
        raise BenchError("subnet.env names no subnet")

    def check(self) -> None:
        """Raise BenchError when it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise BenchError(f"netd has ended: {self._log_tail()}")

    def _log_tail(self) -> str:
        path = self.directory / "netd.log"
        return path.read_text(errors="replace")[-1500:] if path.exists() else "no log"

    def wait_entries(self, recorder: Recorder, wanted: set[Entry], deadline: float) -> float:
        """Wait until all *wanted* entries were added; returns when, on the monotonic clock."""
        try:
            return recorder.wait_for(wanted, deadline=deadline, alive=self.check)
        except BenchError as error:
            raise BenchError(f"{error}: {self._log_tail()}") from error

    def kill(self) -> None:
        """SIGKILL; the kernel keeps what it programmed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None
        if self._notices is not None:
            self._notices.close()
            self._notices = None


class Host(NamedTuple):
    """A host: its namespace and the address of its ``eth0``."""

    space: Namespace
    address: IPv4Address


class World:
    """A fabric with hosts and one etcd member; use ``world``."""

    def __init__(self, fabric: Fabric, etcd: EtcdCluster, inside: Inside, directory: Path) -> None:
        self.fabric = fabric
        self.etcd = etcd
        self.inside = inside
        self.directory = directory
        self._prefixes: set[str] = set()
        self._numbers = itertools.count(1)

    @contextlib.contextmanager
    def host(self) -> Iterator[Host]:
        """A host with ``eth0`` on the fabric, for the time of the context."""
        # An address is not used twice: netd refuses one that another host's lease has.
        number = next(self._numbers)
        address = IPv4Address(f"172.29.0.{number}")
        space = self.fabric.host(f"h{number}", f"{address}/24")
        try:
            space.run(f"ip route add default via {ETCD_ADDRESS}")
            yield Host(space, address)
        finally:
            space.remove()

    @contextlib.contextmanager
    def daemon(self, host: Host, prefix: str) -> Iterator[Daemon]:
        """A netd on *host*, not started; killed with the context, and its lease deleted."""
        folder = self.directory / host.space.name
        made = Daemon(host.space, folder, self.etcd.endpoints[0], prefix)
        try:
            yield made
        finally:
            made.kill()
        # Not after a failure: etcd may be what failed.
        self.inside.wait(self._delete_lease(prefix, host.address))

    async def _delete_lease(self, prefix: str, address: IPv4Address) -> None:
        client = EtcdClient(EtcdConfig(self.etcd.endpoints))
        try:
            found = await client.range_prefix(f"{prefix}/subnets/")
            for item in found.kvs:
                if json.loads(item.value)["PublicIP"] == str(address):
                    await client.delete(item.key)
        finally:
            await client.close()

    def records(self, name: str, peers: Sequence[Peer]) -> str:
        """Write a network with *peers*, each record on a lease of its own; returns the prefix."""
        prefix = f"/bench/{name}"
        if prefix in self._prefixes:
            raise BenchError(f"{prefix} was written before")
        self._prefixes.add(prefix)
        self.inside.wait(self._write(prefix, peers), deadline=120.0)
        return prefix

    async def _write(self, prefix: str, peers: Sequence[Peer]) -> None:
        client = EtcdClient(EtcdConfig(self.etcd.endpoints))
        gate = asyncio.Semaphore(_PARALLEL)

        async def write(one: Peer) -> None:
            async with gate:
                lease, _ = await client.lease_grant(LEASE_TTL)
                key = f"{prefix}/subnets/{one.key}"
                await client.txn([], [put(key, one.value.encode(), lease=lease)])

        try:
            await client.put(f"{prefix}/config", CONFIG.encode())
            async with asyncio.TaskGroup() as group:
                for one in peers:
                    group.create_task(write(one))
        finally:
            await client.close()

    def etcd_pid(self) -> int:
        """The process id of etcd."""
        out = self.fabric.bridge.run("ss -Hltnp")
        for line in out.splitlines():
            if f"{ETCD_ADDRESS}:{ETCD_PORT}" in line and "pid=" in line:
                return int(line.partition("pid=")[2].partition(",")[0])
        raise BenchError("etcd does not listen")


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A World for the time of the context."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        # etcd is not what is measured: in memory no other program's disk writes disturb it.
        shared = Path("/dev/shm")
        data = Path(
            stack.enter_context(
                tempfile.TemporaryDirectory(
                    prefix="bench-", dir=shared if shared.is_dir() else None
                )
            )
        )
        fabric = Fabric()
        stack.callback(fabric.remove)
        fabric.bridge.run(f"ip addr add {ETCD_ADDRESS}/24 dev br0")
        etcd = EtcdCluster(
            data, 1, addresses=(ETCD_ADDRESS,), namespaces=(fabric.bridge.name,),
            cluster_name="bench",
        )  # fmt: skip
        stack.enter_context(etcd)
        inside = Inside(fabric.bridge)
        stack.callback(inside.close)
        yield World(fabric, etcd, inside, directory)


def warm_up(world: World) -> None:
    """Start netd once, so that files are in memory and its bytecode is compiled."""
    prefix = world.records("warm-up", peers(1))
    with world.host() as host, world.daemon(host, prefix) as daemon:
        daemon.start()
        daemon.wait_ready()


def sweep() -> None:
    """Delete namespaces of this process that are still there.

    An interrupt can arrive between making one and noting it.
    """
    done = subprocess.run(["ip", "-j", "netns"], capture_output=True, text=True, check=False)
    for entry in json.loads(done.stdout or "[]"):
        if entry["name"].startswith(f"bnt-{os.getpid()}-"):
            subprocess.run(["ip", "netns", "del", entry["name"]], check=False)
