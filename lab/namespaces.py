"""The network between the hosts of a lab: one bridge in a namespace of its own, one cable each.

The commands are planned as ``ip -batch`` text. Both ends of every veth are created inside the
lab's namespaces; the host's own namespace never sees them. Its FORWARD policy and bridge
netfilter would otherwise drop frames between the nodes.
"""

from collections.abc import Iterable
from pathlib import Path

from hostkit.command import CommandError, Runner
from hostkit.mounts import unmount
from lab.errors import LabError
from lab.model import LabSpec, NodeSpec
from lab.plan import lab_of_netns

NETNS_DIR = Path("/run/netns")
BRIDGE = "br0"
MTU = 1500


def fabric_batch(spec: LabSpec) -> str:
    """Commands inside the fabric's namespace: the bridge with etcd's address."""
    prefix = spec.underlay.rpartition("/")[2]
    return (
        "link set lo up\n"
        f"link add {BRIDGE} mtu {MTU} address {spec.fabric.mac} type bridge forward_delay 0\n"
        f"address add {spec.fabric.address}/{prefix} dev {BRIDGE}\n"
        f"link set {BRIDGE} up\n"
    )


def port(node: NodeSpec) -> str:
    """The bridge's end of *node*'s cable."""
    return f"p-{node.name}"


def cable_batch(node: NodeSpec) -> str:
    """Commands inside the fabric's namespace: a veth from the bridge to *node*'s eth0."""
    return (
        f"link add {port(node)} mtu {MTU} type veth"
        f" peer name eth0 mtu {MTU} address {node.mac} netns {node.netns}\n"
        f"link set {port(node)} master {BRIDGE} up\n"
    )


def node_batch(spec: LabSpec, node: NodeSpec) -> str:
    """Commands inside *node*'s namespace: its address and the default route."""
    prefix = spec.underlay.rpartition("/")[2]
    return (
        "link set lo up\n"
        f"address add {node.address}/{prefix} dev eth0\n"
        "link set eth0 up\n"
        f"route add default via {spec.fabric.address}\n"
    )


def _is_mount(path: Path) -> bool:
    # Path.is_mount compares device numbers, which a directory bound onto itself shares.
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(path) for line in lines)


class Namespaces:
    """Makes and removes the network namespaces of labs with iproute2.

    *marker* is the file that remembers how /run/netns was before the first lab: ``ip`` makes
    that directory and mounts it on itself when it first needs it.
    """

    def __init__(self, runner: Runner, marker: Path) -> None:
        self._run = runner
        self._marker = marker

    def names(self) -> list[str]:
        """All network namespaces that belong to labs."""
        if not NETNS_DIR.is_dir():
            return []
        return sorted(p.name for p in NETNS_DIR.iterdir() if lab_of_netns(p.name))

    def labs(self) -> set[str]:
        """The labs that have a network namespace."""
        return {lab for name in self.names() if (lab := lab_of_netns(name)) is not None}

    def names_of(self, lab: str) -> list[str]:
        """The network namespaces of one lab."""
        return [name for name in self.names() if lab_of_netns(name) == lab]

    async def create_fabric(self, spec: LabSpec) -> None:
        """Make the fabric's namespace and bridge; raises LabError."""
        self._remember_directory()
        await self._ip("netns", "add", spec.fabric.netns)
        await self._batch(spec.fabric.netns, fabric_batch(spec))

    def _remember_directory(self) -> None:
        if not self._marker.exists() and not _is_mount(NETNS_DIR):
            self._marker.write_text("directory" if NETNS_DIR.exists() else "absent")

    async def create_node(self, spec: LabSpec, node: NodeSpec) -> None:
        """Make a node's namespace and plug its cable into the fabric; raises LabError."""
        await self._ip("netns", "add", node.netns)
        await self._batch(spec.fabric.netns, cable_batch(node))
        await self._batch(node.netns, node_batch(spec, node))

    async def cut(self, spec: LabSpec, node: NodeSpec) -> None:
        """Let no frame of *node* pass any more, as when its power fails.

        A kernel whose processes are killed ends their connections; a power failure does not.
        """
        await self._ip("-n", spec.fabric.netns, "link", "set", port(node), "down")

    async def unplug(self, spec: LabSpec, node: NodeSpec) -> None:
        """Pull *node*'s cable, if there is one, and remove its namespace.

        The kernel takes a namespace apart later, and not while a process outside the lab is in
        it; the cable must be gone before a new one can be plugged.
        """
        links = await self._ip("-n", spec.fabric.netns, "-brief", "link", "show", "type", "veth")
        if any(line.startswith(f"{port(node)}@") for line in links.splitlines()):
            await self._ip("-n", spec.fabric.netns, "link", "delete", port(node))
        await self.remove([node.netns])

    async def remove(self, names: Iterable[str]) -> None:
        """Remove these namespaces with all that is in them; those already gone are fine."""
        for name in names:
            if (NETNS_DIR / name).exists():
                await self._ip("netns", "delete", name)

    def remove_directory(self) -> None:
        """Undo what ``ip`` did to /run/netns for the first lab, unless others now use it."""
        if not self._marker.exists() or self.names():
            return
        before = self._marker.read_text()
        if _is_mount(NETNS_DIR) and not any(NETNS_DIR.iterdir()):
            try:
                unmount(str(NETNS_DIR))
                if before == "absent":
                    NETNS_DIR.rmdir()
            except OSError:  # somebody else has just begun to use it: then it is theirs
                return
        self._marker.unlink(missing_ok=True)

    async def _batch(self, netns: str, text: str) -> None:
        await self._ip("-n", netns, "-batch", "-", stdin=text)

    async def _ip(self, *arguments: str, stdin: str | None = None) -> str:
        try:
            return (await self._run.run(["ip", *arguments], stdin=stdin)).stdout
        except CommandError as error:
            raise LabError(f"network set-up failed: {error}") from error
