"""What containers and pods ask for, and what the kernel is told: shares, quota, memory, OOM score.

Rules are Kubernetes' (requests default to limits; a pod's amount is the larger of its greatest
init container and the sum of its containers). Quantities that cannot be read count as absent
here: ``check`` refuses such pods before anything is asked of them.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from nodeagent.pods import quantity
from nodeagent.pods.container import Container
from nodeagent.pods.host import Host
from nodeagent.pods.known import Quantity
from nodeagent.pods.model import Pod

CPU, MEMORY, STORAGE = "cpu", "memory", "ephemeral-storage"

Qos = Literal["Guaranteed", "Burstable", "BestEffort"]
Amounts = Mapping[str, Fraction]

MIN_SHARES, MAX_SHARES = 2, 262_144
"""The kernel's range of cpu.shares (``kernel/sched/sched.h``)."""
PERIOD = 100_000
"""cfs_period in microseconds: the kernel's and Docker's default."""
MIN_QUOTA = 1_000
"""The smallest cfs_quota that the kernel takes, in microseconds."""

SANDBOX_OOM_SCORE = -998
"""The sandbox holds the pod's network: it goes last."""
GUARANTEED_OOM_SCORE = -997
BESTEFFORT_OOM_SCORE = 1000
NODE_CRITICAL = 2_000_001_000
"""The priority of the class system-node-critical."""


@dataclass(frozen=True, slots=True)
class CpuMemory:
    """What a control group gets: *quota* (µs each PERIOD) and *memory* (bytes) are 0 for no limit.

    *shares* are those of cgroup v1, MIN_SHARES to MAX_SHARES.
    """

    shares: int = MIN_SHARES
    quota: int = 0
    memory: int = 0


def requests(container: Container) -> dict[str, Fraction]:
    """What a container is sure to get, by resource; limits stand in for what it does not say."""
    return limits(container) | _read(container.resources.requests)


def limits(container: Container) -> dict[str, Fraction]:
    """The most that a container gets, by resource."""
    return _read(container.resources.limits)


def pod_requests(pod: Pod) -> dict[str, Fraction]:
    """What a pod takes of the node, by resource."""
    return _of_pod(pod, requests)


def pod_request(pod: Pod, resource: str) -> Fraction:
    """What a pod takes of one *resource*."""
    return pod_requests(pod).get(resource, Fraction(0))


def pod_limits(pod: Pod) -> dict[str, Fraction]:
    """The most that a pod gets, of resources that all its containers limit."""
    everything = (*pod.spec.containers, *pod.spec.init_containers)
    found = _of_pod(pod, limits)
    return {
        name: amount
        for name, amount in found.items()
        if all(limits(container).get(name) for container in everything)
    }


def qos_class(pod: Pod) -> Qos:
    """Guaranteed, Burstable or BestEffort, by cpu and memory of all containers."""
    asked = limited = False
    guaranteed = True
    for container in (*pod.spec.containers, *pod.spec.init_containers):
        request, limit = requests(container), limits(container)
        for name in (CPU, MEMORY):
            asked |= request.get(name, 0) > 0
            limited |= limit.get(name, 0) > 0
            guaranteed &= limit.get(name, 0) > 0 and request[name] == limit[name]
    if not asked and not limited:
        return "BestEffort"
    return "Guaranteed" if guaranteed else "Burstable"


def cpu_memory(container: Container) -> CpuMemory:
    """What a container's control group gets."""
    limit = limits(container)
    # A request of 0 beside a limit would starve the container: the limit counts then.
    request = requests(container).get(CPU) or limit.get(CPU)
    return CpuMemory(
        shares=cpu_shares(request or Fraction(0)),
        quota=cpu_quota(limit.get(CPU, Fraction(0))),
        memory=quantity.whole(limit.get(MEMORY, Fraction(0))),
    )


def pod_cpu_memory(pod: Pod) -> CpuMemory:
    """What the control group around a pod gets: limits only where all its containers have one."""
    most = pod_limits(pod)
    return CpuMemory(
        shares=cpu_shares(pod_request(pod, CPU)),
        quota=cpu_quota(most.get(CPU, Fraction(0))),
        memory=quantity.whole(most.get(MEMORY, Fraction(0))),
    )


def cpu_shares(cpus: Fraction) -> int:
    """cpu.shares for *cpus*: 1024 each, within the kernel's range."""
    return max(MIN_SHARES, min(MAX_SHARES, quantity.milli(cpus) * 1024 // 1000))


def cpu_quota(cpus: Fraction) -> int:
    """cfs_quota in microseconds of PERIOD for *cpus*; 0, no limit, for 0."""
    if cpus <= 0:
        return 0
    return max(MIN_QUOTA, quantity.milli(cpus) * PERIOD // 1000)


def oom_score_adj(pod: Pod, container: Container, capacity: int) -> int:
    """oom_score_adj of a container on a node with *capacity* bytes of memory.

    The kernel refuses values below the agent's own to processes without CAP_SYS_RESOURCE.
    """
    qos = qos_class(pod)
    if qos == "Guaranteed" or pod.spec.priority >= NODE_CRITICAL:
        return GUARANTEED_OOM_SCORE
    if qos == "BestEffort":
        return BESTEFFORT_OOM_SCORE
    request = requests(container).get(MEMORY, Fraction(0))
    share = math.floor(1000 * request / capacity) if capacity > 0 else 0
    return max(2, min(999, 1000 - share))


def resource_field(container: Container, name: str, divisor: Quantity, host: Host) -> str:
    """The value of a resourceFieldRef, such as ``limits.cpu`` in units of *divisor*, rounded up.

    A limit of cpu or memory that is not set is the node's allocatable. Raises ValueError for a
    name or divisor that cannot be used.
    """
    kind, _, resource = name.partition(".")
    if kind not in {"limits", "requests"} or not is_known(resource):
        raise ValueError(
            f"resource {name!r} is unknown: use limits or requests of cpu, memory, "
            "ephemeral-storage or hugepages, such as limits.cpu"
        )
    unit = quantity.parse(divisor or "0")
    if unit < 0:
        raise ValueError(f"divisor {divisor} is below zero: use one such as 1m or 1Mi")
    if kind == "requests":
        found = requests(container)
    else:
        cpus = host.cpus if host.pod_cpus is None else host.pod_cpus
        memory = host.memory if host.pod_memory is None else host.pod_memory
        node = {CPU: Fraction(cpus), MEMORY: Fraction(memory)}
        found = node | {k: v for k, v in limits(container).items() if v}
    return str(quantity.divide(found.get(resource, Fraction(0)), unit))


def is_known(resource: str) -> bool:
    """Whether nodeagent reports and limits *resource*."""
    return resource in {CPU, MEMORY, STORAGE} or resource.startswith("hugepages-")


def _read(amounts: Mapping[str, Quantity]) -> dict[str, Fraction]:
    found = {}
    for name, value in amounts.items():
        try:
            found[name] = max(quantity.parse(value), Fraction(0))
        except ValueError:
            continue
    return found


def _of_pod(pod: Pod, of: Callable[[Container], dict[str, Fraction]]) -> dict[str, Fraction]:
    together = _sum(of(container) for container in pod.spec.containers)
    for container in pod.spec.init_containers:
        for name, amount in of(container).items():
            together[name] = max(together.get(name, Fraction(0)), amount)
    return together


def _sum(parts: Iterable[Amounts]) -> dict[str, Fraction]:
    found: dict[str, Fraction] = {}
    for part in parts:
        for name, amount in part.items():
            found[name] = found.get(name, Fraction(0)) + amount
    return found
