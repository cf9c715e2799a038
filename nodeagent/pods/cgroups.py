"""Where the control groups of pods are, and what is written to them.

    <cgroup root> / kubepods / [burstable/ | besteffort/] pod<uid> / <container>

Guaranteed pods are directly below ``kubepods``. With Docker's systemd driver the same tree is
made of slices, ``kubepods-burstable-pod<uid>.slice``, where ``-`` in a part becomes ``_``. Names
are the kubelet's, since cAdvisor and others read pods out of them.
"""

from collections.abc import Mapping
from fractions import Fraction

from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod
from nodeagent.pods.resources import MAX_SHARES, MIN_SHARES, PERIOD, CpuMemory, Qos, qos_class

TOP = "kubepods"
LEVELS: Mapping[Qos, tuple[str, ...]] = {
    "Guaranteed": (),
    "Burstable": ("burstable",),
    "BestEffort": ("besteffort",),
}
"""The groups between ``kubepods`` and a pod's."""

Parts = tuple[str, ...]


def parent_of(pod: Pod, host: Host) -> str:
    """Docker's ``CgroupParent`` for the containers of *pod*, "" for Docker's own."""
    if not host.cgroup_per_pod:
        # The systemd driver takes nothing but slices.
        return host.cgroup_root if host.cgroup_driver != "systemd" else ""
    return name_of(group_of(pod.uid, qos_class(pod), host), host)


def name_of(parts: Parts, host: Host) -> str:
    """A group as Docker's ``CgroupParent`` names it."""
    return slice_of(parts) if host.cgroup_driver == "systemd" else f"/{'/'.join(parts)}"


def group_of(uid: str, qos: Qos, host: Host) -> Parts:
    """The group of a pod."""
    return (*level_of(qos, host), f"pod{uid}")


def level_of(qos: Qos, host: Host) -> Parts:
    """The group of all pods of a class; for Guaranteed that of all pods."""
    return (*filter(None, host.cgroup_root.split("/")), TOP, *LEVELS[qos])


def slice_of(parts: Parts) -> str:
    """The slice that a group is with the systemd driver (systemd.slice(5))."""
    return "-".join(part.replace("-", "_") for part in parts) + ".slice"


def folder_of(parts: Parts, host: Host) -> str:
    """The folder of a group below a hierarchy's root."""
    if host.cgroup_driver != "systemd":
        return "/".join(parts)
    return "/".join(slice_of(parts[:count]) for count in range(1, len(parts) + 1))


def weight_of(shares: int) -> int:
    """cpu.weight of cgroup v2 (1 to 10000) for cpu.shares: runc's own straight line."""
    return 1 + (shares - MIN_SHARES) * 9999 // (MAX_SHARES - MIN_SHARES)


def shares_of(weight: int) -> int:
    """The cpu.shares that ``weight_of`` made *weight* of, about."""
    return MIN_SHARES + (weight - 1) * (MAX_SHARES - MIN_SHARES) // 9999


def v1_files(amounts: CpuMemory) -> dict[tuple[str, str], str]:
    """What to write by controller and file (``Documentation/admin-guide/cgroup-v1``)."""
    return {
        ("cpu", "cpu.shares"): str(amounts.shares),
        ("cpu", "cpu.cfs_period_us"): str(PERIOD),
        ("cpu", "cpu.cfs_quota_us"): str(amounts.quota or -1),
        ("memory", "memory.limit_in_bytes"): str(amounts.memory or -1),
    }


def v2_files(amounts: CpuMemory) -> dict[str, str]:
    """What to write by file (``Documentation/admin-guide/cgroup-v2``)."""
    return {
        "cpu.weight": str(weight_of(amounts.shares)),
        "cpu.max": f"{amounts.quota or 'max'} {PERIOD}",
        "memory.max": str(amounts.memory or "max"),
    }


def unit_properties(amounts: CpuMemory, *, v2: bool) -> list[str]:
    """Properties of a slice as busctl(1) takes them: name, type, value (systemd.resource-control).

    CPUQuotaPerSecUSec is in microseconds of each second; 2**64 - 1 is "infinity".
    """
    no_limit = 2**64 - 1
    quota = int(Fraction(amounts.quota * 1_000_000, PERIOD)) or no_limit
    memory = amounts.memory or no_limit
    weight = ("CPUWeight", weight_of(amounts.shares)) if v2 else ("CPUShares", amounts.shares)
    numbers = (
        weight,
        ("CPUQuotaPerSecUSec", quota),
        ("MemoryMax" if v2 else "MemoryLimit", memory),
    )
    return [word for name, value in numbers for word in (name, "t", str(value))]
