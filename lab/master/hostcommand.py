"""``barenode host prepare``: the files with which a real host becomes a master or a worker."""

import argparse
from ipaddress import IPv4Address
from pathlib import Path
from typing import TypeVar

from lab.errors import UsageError
from lab.master import certificates, planeflags
from lab.master.pki import Pki
from lab.master.plane import Plane, Version
from lab.master.provision import Host
from lab.output import Output
from lab.plan import parse_network

_P = TypeVar("_P", bound=argparse.ArgumentParser)


def add_arguments(groups: "argparse._SubParsersAction[_P]", epilog: str) -> None:
    """Add the group ``host`` to *groups*."""
    host = groups.add_parser(
        "host", help="files that make hosts masters and workers", epilog=epilog, allow_abbrev=False
    )
    commands = host.add_subparsers(dest="command", metavar="COMMAND", required=True)
    text = "write certificates, kubeconfigs, settings and, for a master, manifests of a host"
    prepare = commands.add_parser(
        "prepare", help=text, description=text, epilog=epilog, allow_abbrev=False
    )
    prepare.set_defaults(command="prepare", parser=prepare)
    prepare.add_argument("host", metavar="NAME", help="the host's name as a node")
    prepare.add_argument(
        "--address", default="", help="where others reach it (default, of a master: as in --master)"
    )
    prepare.add_argument(
        "-o", "--output", metavar="FOLDER", type=Path, required=True,
        help="folder for a copy of the host's root: / on the host itself",
    )  # fmt: skip
    prepare.add_argument(
        "--pki-dir", metavar="DIR", type=Path, required=True,
        help="folder of the cluster's own CAs; made if it is missing, to be kept safe",
    )  # fmt: skip
    planeflags.add_arguments(prepare)
    prepare.add_argument("--network", metavar="CIDR", required=True, help="the pods' network")
    prepare.add_argument("--hyperkube-image", metavar="IMAGE", required=True)
    prepare.add_argument("--etcd-image", metavar="IMAGE", required=True)
    prepare.add_argument("--kubernetes-version", metavar="VERSION", required=True)
    prepare.add_argument(
        "--insecure", action="store_true", help="API and etcd in plain HTTP without credentials"
    )


def run(args: argparse.Namespace, output: Output) -> int:
    """Run the command in *args*; returns its exit status, raises LabError."""
    plane = _plane(args)
    name = certificates.check_node(args.host, "NAME")
    address = _address(args, plane)
    pki = Pki(args.pki_dir)
    first = not (args.pki_dir / "ca.crt").exists()
    host = Host(args.output, plane, pki, name, address)
    host.provision()
    host.begin()
    host.place_manifests()
    if first:
        output.line(f"new CAs in {args.pki_dir}: all hosts of the cluster need the same folder")
    kind = "master" if plane.master(name) else "worker"
    output.line(f"{name}: files of a {kind} in {args.output}, discovery hash {pki.fingerprint()}")
    return 0


def _plane(args: argparse.Namespace) -> Plane:
    pods = parse_network(args.network)
    plane = planeflags.plane(
        args,
        pods=pods,
        version=Version.parse(args.kubernetes_version),
        hyperkube_image=args.hyperkube_image,
        etcd_image=args.etcd_image,
        insecure=args.insecure,
    )
    if pods.overlaps(plane.services):
        raise UsageError(f"--network {pods} and --service-range {plane.services} overlap")
    # flannel's default SubnetMin leaves the first /24 of the network unused.
    if len(plane.masters) > (room := 2 ** (24 - pods.prefixlen) - 1):
        raise UsageError(f"--network {pods} holds {room} hosts: there are more masters")
    for master in plane.masters:
        _outside(master.address, f"--master {master.name}", plane)
    return plane


def _outside(address: str, where: str, plane: Plane) -> str:
    """*address* if it is neither a pod's nor a service's; raises UsageError."""
    for flag, taken in (("--network", plane.pods), ("--service-range", plane.services)):
        if IPv4Address(address) in taken:
            raise UsageError(f"{where}: {address} lies in {flag} {taken}: give another range")
    return address


def _address(args: argparse.Namespace, plane: Plane) -> str:
    own = next((m.address for m in plane.masters if m.name == args.host), "")
    if args.address and own and args.address != own:
        raise UsageError(f"--address {args.address}: --master says that {args.host} is at {own}")
    if not args.address and not own:
        raise UsageError(f"--address: {args.host} is no master, so it has to be told where it is")
    found = planeflags.address_of(own or args.address, "--address", "10.0.0.1")
    return _outside(found, "--address", plane)
