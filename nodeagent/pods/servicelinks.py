"""Variables by which containers find services, in the form of Docker's container links.

For the service ``redis-master`` with port 6379: ``REDIS_MASTER_SERVICE_HOST``,
``REDIS_MASTER_SERVICE_PORT``, ``REDIS_MASTER_PORT=tcp://ADDRESS:6379`` and the variables that
start with ``REDIS_MASTER_PORT_6379_TCP``.
"""

from collections.abc import Iterable, Mapping

from nodeagent.api.port import ServiceLink
from nodeagent.pods.model import Pod

API_SERVICE = ("default", "kubernetes")
"""Namespace and name of the service that every pod is told."""

SLOW = 1_000
TOO_MANY = 2_000


def service_variables(pod: Pod, services: Iterable[ServiceLink]) -> dict[str, str]:
    """The variables of *services* that *pod* gets, ordered by service name.

    These are the services of its namespace, unless ``enableServiceLinks`` is false, and the API
    server's; one of the same name in the pod's namespace takes its place.
    """
    chosen: dict[str, ServiceLink] = {}
    for service in services:
        if service.cluster_ip in ("", "None") or not service.ports:
            continue
        if service.namespace == pod.metadata.namespace and pod.spec.enable_service_links:
            chosen[service.name] = service
        elif (service.namespace, service.name) == API_SERVICE:
            chosen.setdefault(service.name, service)
    found: dict[str, str] = {}
    for name in sorted(chosen):
        found.update(_variables(chosen[name]))
    return found


def linked(pod: Pod, services: Iterable[ServiceLink]) -> int:
    """How many services of the pod's namespace it gets variables of."""
    if not pod.spec.enable_service_links:
        return 0
    return sum(service.namespace == pod.metadata.namespace for service in services)


def too_many(count: int) -> str | None:
    """A warning when the variables of *count* services endanger a container's start."""
    if count < SLOW:
        return None
    danger = (
        "are about as much as the kernel passes to a program: it may fail with 'argument list "
        "too long'"
        if count >= TOO_MANY
        else "make it slow to start"
    )
    return (
        f"the environment variables of {count} services in the pod's namespace {danger}; set "
        "enableServiceLinks: false in the pod and find services by DNS"
    )


def _variables(service: ServiceLink) -> Mapping[str, str]:
    name, address = _upper(service.name), service.cluster_ip
    bracketed = f"[{address}]" if ":" in address else address
    first = service.ports[0]
    found = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(first.port)}
    for port in service.ports:
        if port.name:
            found[f"{name}_SERVICE_PORT_{_upper(port.name)}"] = str(port.port)
    found[f"{name}_PORT"] = f"{first.protocol.lower()}://{bracketed}:{first.port}"
    for port in service.ports:
        protocol = port.protocol.lower()
        prefix = f"{name}_PORT_{port.port}_{protocol.upper()}"
        found[prefix] = f"{protocol}://{bracketed}:{port.port}"
        found[f"{prefix}_PROTO"] = protocol
        found[f"{prefix}_PORT"] = str(port.port)
        found[f"{prefix}_ADDR"] = address
    return found


def _upper(name: str) -> str:
    return name.upper().replace("-", "_")
