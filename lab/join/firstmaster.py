"""What a host becomes by ``barenode init``: what is asked for, and what it is already; pure.

A host that is a master already keeps its name, address and ranges: certificates, leases and the
addresses of services hang on them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any

import msgspec
import yaml

from lab.errors import LabError, PrerequisiteError, UsageError
from lab.join import addresses
from lab.join.addresses import Facts
from lab.join.model import Record
from lab.master.agents import MANIFESTS, NETWORK_FILE
from lab.plan import parse_network

DEFAULT_PODS = "10.244.0.0/16"
DEFAULT_SERVICES = "10.96.0.0/12"
DEFAULT_DOMAIN = "cluster.local"
_ISSUER = "https://kubernetes.default.svc."


@dataclass(frozen=True, slots=True)
class Asked:
    """The flags; each "" when it was not given."""

    name: str = ""
    address: str = ""
    pods: str = ""
    services: str = ""
    domain: str = ""


@dataclass(frozen=True, slots=True)
class Present:
    """What the files of an earlier ``init`` say, each "" where there is none yet."""

    pods: str = ""
    services: str = ""
    domain: str = ""
    hyperkube: str = ""
    etcd: str = ""


@dataclass(frozen=True, slots=True)
class Settled:
    """What the host becomes."""

    name: str
    address: str
    pods: IPv4Network
    services: str
    domain: str


def present(network: str, manifests: Mapping[str, str]) -> Present:
    """What is there: *network* is the text of netd's network configuration, "" for none.

    *manifests* are the texts of the static pods by their names. Raises LabError for damaged ones.
    """
    api = _container("kube-apiserver", manifests)
    flags = _flags(api)
    manager = _flags(_container("kube-controller-manager", manifests))
    return Present(
        pods=_network(network) or manager.get("cluster-cidr", ""),
        services=flags.get("service-cluster-ip-range", ""),
        domain=flags.get("service-account-issuer", "").removeprefix(_ISSUER),
        hyperkube=str(api.get("image", "")),
        etcd=str(_container("etcd", manifests).get("image", "")),
    )


def _network(text: str) -> str:
    if not text:
        return ""
    try:
        return str(msgspec.json.decode(text, type=dict[str, Any]).get("Network", ""))
    except msgspec.MsgspecError as error:
        raise LabError(
            f"{NETWORK_FILE} is damaged ({error}): remove it, and repeat the command, which writes"
            " it again"
        ) from error


def _container(name: str, manifests: Mapping[str, str]) -> dict[str, Any]:
    if name not in manifests:
        return {}
    try:
        found: dict[str, Any] = yaml.safe_load(manifests[name])["spec"]["containers"][0]
    except (yaml.YAMLError, LookupError, TypeError) as error:
        raise LabError(
            f"{MANIFESTS}/{name}.yaml is damaged: put it back, it tells what the cluster has"
        ) from error
    return found


def _flags(container: Mapping[str, Any]) -> dict[str, str]:
    words: Sequence[str] = container.get("command") or ()
    pairs = (str(word).removeprefix("--").partition("=") for word in words)
    return {name: value for name, _, value in pairs}


def settle(
    asked: Asked, there: Present, record: Record | None, facts: Facts, hostname: str
) -> Settled:
    """What the host becomes; raises UsageError that names what clashes, and with what."""
    if record is not None:
        _unchanged("--node-name", asked.name, record.name, "is called")
        _unchanged("--address", asked.address, record.address, "is at")
    _unchanged("--domain", asked.domain, there.domain, "has the domain")
    pods = parse_network(asked.pods or there.pods or DEFAULT_PODS)
    services = asked.services or there.services or DEFAULT_SERVICES
    _unchanged("--network", str(pods), there.pods, "has the pods' network")
    _unchanged("--service-range", services, there.services, "has the service range")
    settled = Settled(
        name=record.name if record else asked.name or hostname,
        address=_address(asked, record, facts),
        pods=pods,
        services=services,
        domain=asked.domain or there.domain or DEFAULT_DOMAIN,
    )
    if not there.services:
        addresses.check_ranges(pods, _range(services), facts)
    return settled


def check_leftovers(pods: IPv4Network, saved: IPv4Network | None, data: Sequence[str]) -> None:
    """Raise PrerequisiteError when a host that is no master yet has what an earlier one left.

    *saved* is the subnet that netd would come up with, *data* the folders of etcd that are filled.
    """
    found = [
        f"{folder} holds the data of an etcd of before: move it away, or remove it with what is in"
        " it"
        for folder in data
    ]
    if saved is not None and not saved.subnet_of(pods):
        found.append(
            f"netd remembers {saved}, which is no part of {pods}: 'netd cleanup' forgets it"
        )
    if found:
        raise PrerequisiteError("; ".join(found))


def _unchanged(flag: str, asked: str, there: str, has: str) -> None:
    if asked and there and asked != there:
        raise UsageError(
            f"{flag} {asked}: this master's cluster is made already and {has} {there}: leave the"
            " flag out, or 'barenode reset' first, which ends the cluster"
        )


def _address(asked: Asked, record: Record | None, facts: Facts) -> str:
    if record is None:
        return addresses.choose(asked.address, facts)
    if all(str(one.address.ip) != record.address for one in facts.addresses):
        raise LabError(
            f"this host is a master at {record.address}, and none of its interfaces has that"
            " address any more: give it back, or 'barenode reset' first, which ends the cluster"
        )
    return record.address


def _range(text: str) -> IPv4Network:
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise UsageError(f"--service-range {text}: {error}") from error
