"""Planes that the tests of this folder share."""

from ipaddress import IPv4Network

from lab.master.plane import Master, Plane, Version

ONE = (Master("master1", "198.18.0.2"),)
THREE = (*ONE, Master("master2", "198.18.0.3"), Master("master3", "198.18.0.4"))


def plane(
    masters: tuple[Master, ...] = ONE, *, version: str = "v1.20.2", insecure: bool = False
) -> Plane:
    """A control plane."""
    return Plane(
        masters=masters,
        services=IPv4Network("10.0.0.0/24"),
        pods=IPv4Network("10.1.0.0/16"),
        version=Version.parse(version),
        hyperkube_image=f"barenode/hyperkube:{version}",
        etcd_image="barenode/etcd:lab",
        insecure=insecure,
    )
