"""The values of a lab: what was asked for, what a node's pid 1 is told, what is written down.

``LabSpec`` is kept as lab.json and is the only thing remembered between commands. It says what
the lab should be; whether a node lives is always looked up, never read from here.
"""

import msgspec


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One host of a lab. ``address`` is on the lab's underlay, without prefix length."""

    name: str
    address: str
    mac: str
    netns: str


class ProcessRef(msgspec.Struct, frozen=True, kw_only=True):
    """A process that cannot be mistaken for a later one with the same number.

    ``started`` is field 22 of /proc/PID/stat, clock ticks since boot.
    """

    pid: int
    started: int


class LabSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A lab: its names, its address ranges, and the pid 1 of each node that was started.

    ``service_range`` is empty in a lab without control plane.
    """

    name: str
    underlay: str
    overlay: str
    fabric: NodeSpec
    nodes: tuple[NodeSpec, ...]
    service_range: str = ""
    processes: dict[str, ProcessRef] = {}

    @property
    def etcd(self) -> str:
        """The URL at which this lab's etcd listens."""
        return f"http://{self.fabric.address}:2379"

    @property
    def api(self) -> str:
        """The URL of this lab's API server, empty when it has none."""
        return f"http://{self.fabric.address}:8080" if self.service_range else ""

    @property
    def members(self) -> tuple[NodeSpec, ...]:
        """The fabric and then the nodes."""
        return (self.fabric, *self.nodes)

    def member(self, name: str) -> NodeSpec | None:
        """The fabric or node called *name*, or None."""
        return next((m for m in self.members if m.name == name), None)


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon of a node, with the meaning that systemd gives to these words.

    ``notify``: it is ready when it says READY=1, otherwise as soon as it runs. ``after``: started
    only once these have been ready; ``wants``: once each of these has been ready or has failed.
    ``environment_file`` must exist when the service starts; an
    argument ``$NAME`` is replaced by that variable's words. ``stop_seconds``: time between
    SIGTERM and SIGKILL.
    """

    name: str
    argv: tuple[str, ...]
    notify: bool = False
    after: tuple[str, ...] = ()
    wants: tuple[str, ...] = ()
    environment_file: str = ""
    stop_seconds: float = 15.0


class BootConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What ``lab.launch`` and then pid 1 of a node need to know.

    ``data`` is the node's directory on the host's disk, ``cgroups`` the directories to join,
    ``persistent`` the absolute paths inside the node that are kept in ``data``.
    """

    lab: str
    node: str
    netns: str
    data: str
    cgroups: tuple[str, ...]
    persistent: tuple[str, ...]
    hosts: tuple[tuple[str, str], ...]
    machine_id: str
    services: tuple[Service, ...]
    runtime_wrapper: bool = False


class ServiceState(msgspec.Struct, frozen=True, kw_only=True):
    """What pid 1 publishes about a service; ``pid`` is as seen inside the node, 0 for none."""

    name: str
    state: str
    pid: int = 0
    restarts: int = 0
    last_exit: str = ""
