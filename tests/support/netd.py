"""A host that runs the real netd: its namespace, its files, its etcd, and pods on its bridge."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdUnavailable
from hostkit.etcd.gateway import EtcdClient
from tests.support.etcd import EtcdCluster
from tests.support.netns import Fabric, Inside, Namespace, eventually

T = TypeVar("T")

PREFIX = "/coreos.com/network"
NETWORK = "10.1.0.0/16"
ETCD_ADDRESSES = ("172.29.0.251", "172.29.0.252", "172.29.0.253")
# Hosts lease from 10.1.240.0 on: made-up peers have the numbers below for themselves.
CONFIG = {"Network": NETWORK, "SubnetMin": "10.1.240.0", "Backend": {"Type": "vxlan"}}


class NetdHost:
    """netd in *namespace* with all its files below *directory*."""

    def __init__(
        self, namespace: Namespace, directory: Path, endpoints: Sequence[str], fabric: Fabric
    ) -> None:
        self.ns = namespace
        self.directory = directory
        self.endpoints = tuple(endpoints)
        self._fabric = fabric
        self.process: subprocess.Popen[str] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def log(self) -> str:
        """Everything that netd has logged."""
        path = self.directory / "netd.log"
        return path.read_text() if path.exists() else ""

    def argv(self, command: str, *flags: str) -> list[str]:
        """The netd command line for this host."""
        folder = self.directory
        file = folder / "netd.toml"
        return [
            sys.executable, "-m", "netd", command,
            f"--etcd-endpoints={','.join(self.endpoints)}",
            f"--config={file}" if file.exists() else "--iface=eth0",
            f"--subnet-file={folder / 'subnet.env'}",
            f"--docker-env-file={folder / 'docker.env'}",
            "--docker-drop-in=",
            f"--docker-socket={folder / 'docker.sock'}",
            f"--state-dir={folder / 'state'}",
            f"--run-dir={folder / 'run'}",
            *flags,
        ]  # fmt: skip

    def start(self, *flags: str, environ: Mapping[str, str] | None = None) -> None:
        """Start ``netd run``; does not wait."""
        env = None if environ is None else {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", **environ}
        with (self.directory / "netd.log").open("a") as log:
            self.process = self.ns.start(
                self.argv("run", "--ip-masq", *flags), stdout=log, stderr=log, env=env
            )

    def up(self, *flags: str) -> None:
        """Start netd and wait until it is ready."""
        self.start(*flags)
        self.wait_ready()

    def wait_ready(self, deadline: float = 60.0) -> None:
        """Wait until /status says ready; a netd that ended fails at once."""
        self.wait(lambda status: bool(status["ready"]), "netd ready", deadline=deadline)

    def wait(
        self, condition: Callable[[dict[str, Any]], bool], what: str, *, deadline: float = 60.0
    ) -> dict[str, Any]:
        """Wait for a condition on the status document; returns the document."""

        def look() -> dict[str, Any]:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"netd ended while waiting for {what}:\n{self.log[-3000:]}")
            status = self.status()
            return status if status and condition(status) else {}

        try:
            return eventually(look, what, deadline=deadline, interval=0.05)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log[-3000:]}") from error

    def status(self) -> dict[str, Any]:
        """The status document; empty while netd does not answer."""
        with contextlib.suppress(OSError, json.JSONDecodeError, ValueError):
            return json.loads(self.view("/status"))  # type: ignore[no-any-return]
        return {}

    def view(self, path: str) -> str:
        """GET *path* from the control socket."""
        done = subprocess.run(
            ["curl", "-s", "--max-time", "30", "--unix-socket",
             str(self.directory / "run" / "netd.sock"), f"http://netd{path}"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout

    def command(self, command: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """Run another netd command to its end."""
        return subprocess.run(
            self.ns.argv(self.argv(command, *flags)), capture_output=True, text=True, check=False
        )

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    @property
    def subnet(self) -> str:
        """The leased subnet."""
        return str(self.status()["lease"]["subnet"])

    def address(self, last: int) -> str:
        """Address number *last* of the leased /24."""
        return self.subnet.rpartition(".")[0] + f".{last}"

    def pod(self, label: str, last: int = 2) -> Namespace:
        """A namespace that is plugged into docker0 as a container would be."""
        pod = self._fabric.namespace(label)
        mtu = self.status()["network"]["mtu"]
        port = f"veth{label}"[:15]
        self.ns.run(
            f"ip link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {pod.name}"
        )
        self.ns.run(f"ip link set {port} master docker0 up")
        pod.run(f"ip addr add {self.address(last)}/24 dev eth0")
        pod.run("ip link set eth0 up")
        pod.run(f"ip route add default via {self.address(1)}")
        return pod

    # --- what the kernel has ---

    def routes(self) -> dict[str, str]:
        """Overlay routes: destination to gateway."""
        rows = self.ns.json("ip route show dev flannel.1")
        return {row["dst"]: row.get("gateway", "") for row in rows}

    def neighbours(self) -> dict[str, str]:
        """Permanent neighbours of flannel.1: address to MAC."""
        rows = self.ns.json("ip neigh show dev flannel.1")
        return {row["dst"]: row["lladdr"] for row in rows if "PERMANENT" in row["state"]}

    def fdb(self) -> dict[str, str]:
        """FDB of flannel.1: MAC to remote address."""
        rows = self.ns.json("bridge fdb show dev flannel.1")
        return {row["mac"]: row["dst"] for row in rows if "dst" in row}

    def knows(self, subnet: str, mac: str, public_ip: str) -> bool:
        """Whether the three entries of one peer are there."""
        base = subnet.partition("/")[0]
        return (
            self.routes().get(subnet) == base
            and self.neighbours().get(base) == mac
            and self.fdb().get(mac) == public_ip
        )

    def saved(self, table: str, variant: str = "nft") -> str:
        """``iptables-save`` of one table."""
        return self.ns.run(f"iptables-{variant}-save -t {table}")


class Net:
    """A fabric with a real 3-member etcd on its bridge and hosts with netd."""

    def __init__(self, fabric: Fabric, directory: Path) -> None:
        self.fabric = fabric
        self.directory = directory
        for address in ETCD_ADDRESSES:
            fabric.bridge.run(f"ip addr add {address}/24 dev br0")
        self.etcd = EtcdCluster(
            directory / "etcd",
            3,
            addresses=ETCD_ADDRESSES,
            namespaces=[fabric.bridge.name] * 3,
        )
        self.inside = Inside(fabric.bridge)

    def host(self, number: int) -> NetdHost:
        """Host *number* with address 172.29.0.NUMBER, netd not started."""
        space = self.fabric.host(f"h{number}", f"172.29.0.{number}/24")
        space.run("ip route add default via 172.29.0.251")
        return NetdHost(space, self.directory / f"h{number}", self.etcd.endpoints, self.fabric)

    def configure(self, config: Mapping[str, Any] | str = CONFIG) -> None:
        """Write the network configuration."""
        text = config if isinstance(config, str) else json.dumps(config)
        self.put(f"{PREFIX}/config", text)

    def put(self, key: str, value: str, *, lease: int = 0) -> None:
        """Write one key."""
        self.do(lambda client: client.put(key, value.encode(), lease=lease))

    def delete(self, key: str) -> None:
        """Delete one key."""
        self.do(lambda client: client.delete(key))

    def get(self, key: str) -> Any:
        """Read one key."""
        return self.do(lambda client: client.get(key))

    def do(self, work: Callable[[EtcdClient], Awaitable[T]]) -> T:
        """Run *work* with an etcd client on the fabric; repeated while etcd elects a leader."""

        async def run() -> T:
            client = EtcdClient(EtcdConfig(self.etcd.endpoints, total_timeout=20.0))
            try:
                while True:
                    try:
                        return await work(client)
                    except EtcdUnavailable:
                        await asyncio.sleep(0.1)
            finally:
                await client.close()

        return self.inside.wait(run(), deadline=90.0)

    def put_peers(self, count: int, *, first: int = 1) -> dict[str, tuple[str, str]]:
        """Write *count* lease records; returns subnet → (MAC, PublicIP)."""
        made = {}
        for number in range(first, first + count):
            subnet, mac, public_ip, value = peer(number)
            made[subnet] = (mac, public_ip)
            self.put(f"{PREFIX}/subnets/{subnet.replace('/', '-')}", value)
        return made


def peer(number: int) -> tuple[str, str, str, str]:
    """A made-up host: subnet, MAC, PublicIP and the value of its record."""
    subnet = f"10.1.{number}.0/24"
    mac = f"0e:00:00:00:01:{number:02x}"
    public_ip = f"172.29.1.{number}"
    return subnet, mac, public_ip, record(public_ip, mac)


def record(public_ip: str, mac: str, vni: int = 1) -> str:
    """The value of a vxlan lease record."""
    return json.dumps(
        {
            "PublicIP": public_ip,
            "PublicIPv6": None,
            "BackendType": "vxlan",
            "BackendData": {"VNI": vni, "VtepMAC": mac},
        }
    )


@contextlib.contextmanager
def net(fabric: Fabric, directory: Path) -> Iterator[Net]:
    """A Net whose etcd runs and is configured."""
    made = Net(fabric, directory)
    try:
        with made.etcd:
            made.configure()
            yield made
    finally:
        made.inside.close()
