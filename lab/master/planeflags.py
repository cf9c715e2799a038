"""The flags that describe a control plane, and the ``Plane`` that they make."""

import argparse
from ipaddress import IPv4Address, IPv4Network

from lab.errors import UsageError
from lab.master import certificates
from lab.master.plane import Master, Plane, Version

UNTOLD = Version(1, 20)
"""The version of a plane whose certificates alone are wanted: they depend on none."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --master, --service-range, --domain and --name."""
    parser.add_argument(
        "--master",
        metavar="NAME=ADDRESS",
        action="append",
        required=True,
        help="a host of the control plane; repeated for several",
    )
    parser.add_argument(
        "--service-range", metavar="CIDR", required=True, help="range of the cluster IPs"
    )
    parser.add_argument("--domain", default="cluster.local", help="default: cluster.local")
    parser.add_argument(
        "--name",
        metavar="EXTRA",
        action="append",
        default=[],
        help="further name or address of the API, such as a balancer's; may be repeated",
    )


def plane(
    args: argparse.Namespace,
    *,
    pods: IPv4Network | None = None,
    version: Version = UNTOLD,
    hyperkube_image: str = "",
    etcd_image: str = "",
    insecure: bool = False,
) -> Plane:
    """The plane of the flags and of what else is known; raises UsageError naming the flag."""
    try:
        services = IPv4Network(args.service_range)
    except ValueError as error:
        raise UsageError(f"--service-range {args.service_range}: {error}") from error
    # cmd/kube-apiserver/app/options/validation.go, pkg/controlplane/services.go: 2^20 to 8.
    if not 12 <= services.prefixlen <= 29:
        raise UsageError(
            f"--service-range {services}: use a /12 to /29, kube-apiserver starts with no other"
        )
    masters = tuple(_master(text) for text in args.master)
    for field in ("name", "address"):
        values = [getattr(master, field) for master in masters]
        if twice := {value for value in values if values.count(value) > 1}:
            raise UsageError(f"--master: {field} {twice.pop()} is given twice")
    certificates.check_name(args.domain, "--domain")
    for name in args.name:
        if not certificates.is_address(name):
            certificates.check_name(name, "--name")
    return Plane(
        masters,
        services=services,
        pods=pods or services,
        version=version,
        hyperkube_image=hyperkube_image,
        etcd_image=etcd_image,
        insecure=insecure,
        domain=args.domain,
        names=tuple(args.name),
    )


def _master(text: str) -> Master:
    name, _, address = text.partition("=")
    found = address_of(address, f"--master {text!r}", "master1=10.0.0.1")
    return Master(certificates.check_node(name, "--master"), found)


def address_of(text: str, where: str, example: str) -> str:
    """The IPv4 address *text* that the flag *where* gives; raises UsageError with *example*."""
    try:
        found = IPv4Address(text)
    except ValueError:
        raise UsageError(f"{where}: {text!r} is no IPv4 address, write it like {example}") from None
    if found.is_unspecified or found.is_loopback or found.is_multicast:
        raise UsageError(f"{where}: other hosts cannot reach {found}, give an address of the host")
    return str(found)
