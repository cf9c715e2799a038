"""The values of a lab: what was asked for, what a node's pid 1 is told, what is written down.

``LabSpec`` is kept as lab.json and is the only thing remembered between commands. It says what
the lab should be; whether a node lives is always looked up, never read from here.
"""

from ipaddress import IPv4Network

import msgspec

from lab.master.plane import Master, Plane, Version

EMBEDDED, KUBERNETES, NONE = "embedded", "kubernetes", "none"
"""The kinds of control plane."""


class NodeSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One host of a lab. ``address`` is on the lab's underlay, without prefix length.

    ``master``: static pods of the control plane run on it.
    """

    name: str
    address: str
    mac: str
    netns: str
    master: bool = False


class ProcessRef(msgspec.Struct, frozen=True, kw_only=True):
    """A process that cannot be mistaken for a later one with the same number.

    ``started`` is field 22 of /proc/PID/stat, clock ticks since boot.
    """

    pid: int
    started: int


class KubernetesSpec(msgspec.Struct, frozen=True, kw_only=True):
    """The Kubernetes of a lab. ``version`` is like v1.20; ``pki`` is the lab's own PKI folder."""

    version: str
    hyperkube_image: str
    etcd_image: str
    pki: str
    insecure: bool = False


class LabSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A lab: its names, its address ranges, and the pid 1 of each node that was started.

    ``service_range`` is empty in a lab without control plane, ``kubernetes`` None in one whose
    control plane is not a real Kubernetes.
    """

    name: str
    underlay: str
    overlay: str
    fabric: NodeSpec
    nodes: tuple[NodeSpec, ...]
    service_range: str = ""
    kubernetes: KubernetesSpec | None = None
    processes: dict[str, ProcessRef] = {}

    @property
    def control_plane(self) -> str:
        """Its kind: EMBEDDED, KUBERNETES or NONE."""
        if not self.service_range:
            return NONE
        return KUBERNETES if self.kubernetes else EMBEDDED

    @property
    def masters(self) -> tuple[NodeSpec, ...]:
        """The hosts on which the control plane runs; none when it runs on the fabric."""
        return tuple(node for node in self.nodes if node.master)

    @property
    def plane(self) -> Plane | None:
        """What a real Kubernetes of this lab is made of."""
        kubernetes = self.kubernetes
        if kubernetes is None:
            return None
        return Plane(
            masters=tuple(Master(node.name, node.address) for node in self.masters),
            services=IPv4Network(self.service_range),
            pods=IPv4Network(self.overlay),
            version=Version.parse(kubernetes.version),
            hyperkube_image=kubernetes.hyperkube_image,
            etcd_image=kubernetes.etcd_image,
            insecure=kubernetes.insecure,
            names=(self.fabric.address,),
        )

    @property
    def ranges(self) -> tuple[IPv4Network, ...]:
        """The address ranges that are this lab's."""
        texts = (self.underlay, self.overlay, self.service_range)
        return tuple(IPv4Network(text) for text in texts if text)

    @property
    def etcds(self) -> tuple[str, ...]:
        """The client URLs of this lab's etcd."""
        plane = self.plane
        return plane.etcd_urls() if plane else (f"http://{self.fabric.address}:2379",)

    @property
    def apis(self) -> tuple[str, ...]:
        """The URLs of this lab's API servers, in the order of preference."""
        plane = self.plane
        if plane:
            return plane.api_urls()
        return (f"http://{self.fabric.address}:8080",) if self.service_range else ()

    @property
    def etcd(self) -> str:
        """The URL of the first member of this lab's etcd."""
        return self.etcds[0]

    @property
    def api(self) -> str:
        """The URL of this lab's first API server, empty when it has none."""
        return next(iter(self.apis), "")

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
