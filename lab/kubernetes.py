"""A real Kubernetes on the masters of a lab: what is put on disks, what is waited for.

    provision  certificates, settings and netd's first subnet on every disk, before any boot
    manifests  into a master's folder once its Docker has the images
    answering  /readyz of each API server, then the masters' labels

The masters boot as real hosts do, so nothing here talks to etcd: netd puts the network's
configuration there, and takes up the subnet that it was given beforehand.
"""

from dataclasses import dataclass

import msgspec

from hostkit.errors import cut
from lab import probe
from lab.control import Api, admin_context, is_ready, request
from lab.errors import LabError
from lab.hyperkube import Hyperkube
from lab.join.objects import ROLE_LABELS
from lab.master import agents
from lab.master.certificates import for_users
from lab.master.pki import Pki
from lab.master.plane import Plane
from lab.master.provision import Host
from lab.model import KubernetesSpec, LabSpec, NodeSpec, ProcessRef
from lab.recipes import RECIPES
from lab.store import Paths


@dataclass(frozen=True, slots=True)
class Wish:
    """The Kubernetes that is asked for: how many masters, of which image."""

    masters: int
    hyperkube: Hyperkube
    insecure: bool = False


def described(paths: Paths, spec: LabSpec, wish: Wish) -> LabSpec:
    """*spec* with what has to be remembered of *wish*."""
    kubernetes = KubernetesSpec(
        version=str(wish.hyperkube.version),
        hyperkube_image=wish.hyperkube.tag,
        etcd_image=RECIPES["etcd"].config.tag,
        pki=str(paths.pki(spec.name)),
        insecure=wish.insecure,
    )
    return msgspec.structs.replace(spec, kubernetes=kubernetes)


def _hosts(paths: Paths, spec: LabSpec) -> dict[str, Host]:
    plane = spec.plane
    if plane is None:
        return {}
    pki = Pki(paths.pki(spec.name))
    return {
        node.name: Host(paths.disk(spec.name, node.name), plane, pki, node.name, node.address)
        for node in spec.nodes
    }


def provision(paths: Paths, spec: LabSpec) -> None:
    """Put what they need on the disks of all hosts, and the administrator's certificate beside."""
    plane = spec.plane
    if plane is None:
        return
    for host in _hosts(paths, spec).values():
        host.provision()
        host.begin()
    _administrator(paths, plane, spec.name)


def _administrator(paths: Paths, plane: Plane, lab: str) -> None:
    pki = Pki(paths.pki(lab))
    for wanted in for_users(plane):
        pki.issue(wanted)


def renew(paths: Paths, spec: LabSpec) -> None:
    """Renew what has nearly ended: a lab can have been kept for a year.

    Hosts that an earlier version prepared are prepared again.
    """
    for host in _hosts(paths, spec).values():
        if host.prepared:
            host.certify()
        else:
            host.provision()
            host.place_manifests()
    if spec.plane is not None:
        _administrator(paths, spec.plane, spec.name)


def place_manifests(paths: Paths, spec: LabSpec, node: NodeSpec) -> None:
    """Let nodeagent on the master *node* start the control plane."""
    _hosts(paths, spec)[node.name].place_manifests()


def require_disk(paths: Paths, spec: LabSpec, node: NodeSpec) -> None:
    """Raise LabError when *node* has lost the disk that it was provisioned with."""
    settings = paths.disk(spec.name, node.name) / agents.NETD_FILE.lstrip("/")
    if spec.masters and not settings.exists():
        raise LabError(
            f"{node.name} has lost its disk, there is no {settings}: take the lab down and up again"
        )


def without_majority(spec: LabSpec) -> str:
    """Which masters must run before etcd answers, "" when it can."""
    dead = [node.name for node in spec.masters if not probe.alive(spec.processes.get(node.name))]
    short = len(dead) - max(len(spec.masters) - 1, 0) // 2
    return f"{short} of {', '.join(dead)} run" if short > 0 else ""


async def joined(spec: LabSpec, node: NodeSpec) -> str | None:
    """None when *node* is registered and Ready, else what is waited for.

    A master also has its own API server to be ready; then it gets its roles.
    """
    if node.master and (text := await _answering(spec, spec.apis[spec.masters.index(node)])):
        return text
    api = Api(spec, timeout=5.0)
    try:
        found = await api.call("GET", f"/api/v1/nodes/{node.name}")
        if not is_ready(found):
            return "waiting for it to be Ready"
        if node.master:
            body = {"metadata": {"labels": dict.fromkeys(ROLE_LABELS, "")}}
            await api.call("PATCH", f"/api/v1/nodes/{node.name}", body)
    except LabError:
        return "waiting for its registration"
    return None


async def _answering(spec: LabSpec, url: str) -> str | None:
    try:
        status, _ = await request(
            spec.fabric, "GET", f"{url}/readyz", timeout=2.0, tls=admin_context(spec)
        )
    except (OSError, ValueError):
        return "waiting for the API server"
    return None if status == 200 else "waiting for the API server to be ready"


async def settled(ref: ProcessRef) -> str | None:
    """None when both daemons of a host say that they are ready, else what is waited for.

    A new cluster's API server refuses netd until it has made its own roles, and a host that
    boots again is Ready at the API server from its former life.
    """
    for daemon, path in (("nodeagent", probe.NODEAGENT_SOCKET), ("netd", probe.NETD_SOCKET)):
        reply = await probe.get(ref, path, "/readyz")
        if reply is None:
            return f"waiting for {daemon}"
        if reply[0] != 200:
            # What lacks, without what is to be done about it, which the error at the end has.
            lacking = reply[1].decode(errors="replace").partition(";")[0].splitlines()
            return f"waiting for {daemon}: {cut(''.join(lacking[:1]), 120)}"
    return None
