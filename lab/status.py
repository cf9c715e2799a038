"""The state of a lab as found by looking, and as tables or JSON."""

import asyncio
from typing import Any

import msgspec

from lab import control, probe
from lab.control import ControlStatus
from lab.model import LabSpec, NodeSpec, ServiceState


class NodeStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A node now. ``state``: dead, starting or ready; ``pid`` is the host's number, 0 when dead.

    ``docker``: its daemon answers. ``netd_ready``: what /readyz said, None when nobody answered
    on the control socket. ``netd``: netd's own /status document, None likewise.
    ``nodeagent_ready`` and ``nodeagent`` are the same of nodeagent.
    """

    name: str
    address: str
    state: str
    pid: int = 0
    subnet: str = ""
    docker: bool = False
    netd_ready: bool | None = None
    netd: Any = None
    nodeagent_ready: bool | None = None
    nodeagent: Any = None
    services: tuple[ServiceState, ...] = ()


class LabStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A lab now. ``state``: ready when every node is, dead when none lives, else degraded; kept
    while it is down and its disks are kept.

    ``control`` is None in a lab without control plane.
    """

    name: str
    state: str
    underlay: str
    overlay: str
    etcd: str
    fabric: NodeStatus
    nodes: tuple[NodeStatus, ...]
    service_range: str = ""
    control: ControlStatus | None = None


def node_state(
    alive: bool, wanted: bool, services: tuple[ServiceState, ...], *said: bool | None
) -> str:
    """dead, starting or ready. *wanted*: what else must answer does; no daemon may deny it."""
    if not alive:
        return "dead"
    running = bool(services) and all(s.state == "ready" for s in services)
    return "ready" if running and wanted and False not in said else "starting"


def lab_state(fabric: NodeStatus, nodes: tuple[NodeStatus, ...]) -> str:
    """The state of the whole from that of its parts."""
    states = {node.state for node in (fabric, *nodes)}
    return next(iter(states)) if states in ({"ready"}, {"dead"}) else "degraded"


async def look_at_node(spec: LabSpec, node: NodeSpec) -> NodeStatus:
    """What *node* is doing."""
    ref = spec.processes.get(node.name)
    if ref is None or not probe.alive(ref):
        return NodeStatus(name=node.name, address=node.address, state="dead")
    services = probe.services(ref)
    if node.name == spec.fabric.name:
        # Beside masters the fabric is a bridge alone, without a service that could be ready.
        state = "ready" if spec.masters else node_state(True, True, services)
        return NodeStatus(
            name=node.name, address=node.address, state=state, pid=ref.pid, services=services
        )
    docker, netd_ready, netd, agent_ready, agent = await asyncio.gather(
        probe.docker_answers(ref),
        probe.says_ready(ref, probe.NETD_SOCKET),
        probe.get(ref, probe.NETD_SOCKET, "/status"),
        probe.says_ready(ref, probe.NODEAGENT_SOCKET),
        probe.get(ref, probe.NODEAGENT_SOCKET, "/status"),
    )
    return NodeStatus(
        name=node.name,
        address=node.address,
        state=node_state(True, docker, services, netd_ready, agent_ready),
        pid=ref.pid,
        subnet=probe.subnet(ref).get("FLANNEL_SUBNET", ""),
        docker=docker,
        netd_ready=netd_ready,
        netd=_document(netd),
        nodeagent_ready=agent_ready,
        nodeagent=_document(agent),
        services=services,
    )


def _document(reply: tuple[int, bytes] | None) -> Any:
    if reply is None or reply[0] != 200:
        return None
    try:
        return msgspec.json.decode(reply[1])
    except msgspec.MsgspecError:
        return None


async def look(spec: LabSpec, *, kept: bool = False) -> LabStatus:
    """What the lab is doing; *kept* tells that it is down to be kept."""
    plane = asyncio.ensure_future(control.look(spec))
    fabric, *nodes = await asyncio.gather(*(look_at_node(spec, m) for m in spec.members))
    return LabStatus(
        name=spec.name,
        state="kept" if kept else lab_state(fabric, tuple(nodes)),
        underlay=spec.underlay,
        overlay=spec.overlay,
        etcd=",".join(spec.etcds),
        fabric=fabric,
        nodes=tuple(nodes),
        service_range=spec.service_range,
        control=await plane,
    )
