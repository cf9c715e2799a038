"""flannel's network configuration and lease records as values.

The formats are those of flannel's etcd registry (``pkg/subnet`` and ``pkg/subnet/etcd`` in its
source): JSON whose keys Go matches without regard to case, and keys such as
``10.1.33.0-24`` or, dual stack, ``10.1.57.0-24&fd00:10:0:b::-64``. A value is never repaired:
it is either understood whole or refused with a reason that names the field.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import msgspec

from netd.overlay.model import VXLAN_OVERHEAD, HostGwOptions, VxlanOptions

DEFAULT_PREFIX = "/coreos.com/network"
MOST_VNI = 9_999_999
"""Largest VNI that makes a device name: flannel.N has to fit into 15 characters (IFNAMSIZ)."""
LEASE_TTL = 86_400
"""Seconds; flannel's subnetTTL."""

_KEY = re.compile(r"(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})-(\d{1,2})(?:&([0-9a-fA-F:.]+)-(\d{1,3}))?")
_CIDR = re.compile(r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}/(?:0|[1-9]\d?)")
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bad input; the last for thousands of brackets."""
_MAC = re.compile(r"[0-9a-fA-F]{2}(?::[0-9a-fA-F]{2}){5}")

UNSUPPORTED_BACKENDS = {
    "udp": "a user-space tunnel",
    "ipip": "an IP-in-IP tunnel",
    "wireguard": "an encrypted tunnel",
    "extension": "operator's scripts",
    "alloc": "leases without a data plane",
    "ipsec": "an encrypted tunnel",
    "aws-vpc": "a cloud's route tables",
    "gce": "a cloud's route tables",
    "ali-vpc": "a cloud's route tables",
    "tencent-vpc": "a cloud's route tables",
}


class FieldError(ValueError):
    """A field of a configuration or record breaks a rule."""

    def __init__(self, where: str, value: object, rule: str) -> None:
        self.where = where
        self.value = value
        self.rule = rule
        shown = repr(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{where} is {shown}: {rule}")


Backend = VxlanOptions | HostGwOptions


def backend_type(backend: Backend) -> str:
    """The name of *backend* in configurations and lease records."""
    return "vxlan" if isinstance(backend, VxlanOptions) else "host-gw"


def describe(backend: Backend) -> str:
    """*backend* for a log line."""
    if isinstance(backend, HostGwOptions):
        return "host-gw"
    flags = [
        name
        for name, on in (
            ("DirectRouting", backend.direct_routing),
            ("GBP", backend.gbp),
            ("Learning", backend.learning),
        )
        if on
    ]
    return ", ".join([f"vxlan VNI {backend.vni} port {backend.port}", *flags])


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The whole overlay: *network* cut into subnets of *subnet_len* between min and max."""

    network: IPv4Network
    subnet_len: int
    subnet_min: IPv4Address
    subnet_max: IPv4Address
    backend: Backend
    notes: tuple[str, ...] = ()

    def admits(self, subnet: IPv4Network) -> bool:
        """Whether a host may hold *subnet* under this configuration."""
        return (
            subnet.prefixlen == self.subnet_len
            and subnet.subnet_of(self.network)
            and self.subnet_min <= subnet.network_address <= self.subnet_max
        )

    @property
    def capacity(self) -> int:
        """How many subnets there are to lease."""
        size = 1 << (32 - self.subnet_len)
        return (int(self.subnet_max) - int(self.subnet_min)) // size + 1

    def subnet_at(self, index: int) -> IPv4Network:
        """The subnet number *index*, 0 to capacity - 1."""
        size = 1 << (32 - self.subnet_len)
        return IPv4Network((int(self.subnet_min) + index * size, self.subnet_len))


def parse_network_config(raw: bytes | str) -> NetworkConfig:
    """Read the value of ``PREFIX/config``; raises FieldError naming field, value and rule."""
    try:
        data = msgspec.json.decode(raw)
    except _UNREADABLE as error:
        shown = raw if isinstance(raw, str) else raw.decode(errors="replace")
        raise FieldError("network config", shown, f"must be JSON ({error})") from error
    if not isinstance(data, dict):
        raise FieldError("network config", data, "must be a JSON object")
    fields = _fold(data)
    if _boolean(fields, "EnableIPv6", False):
        raise FieldError("EnableIPv6", True, "netd carries IPv4 only, remove it")
    if not _boolean(fields, "EnableIPv4", True):
        raise FieldError("EnableIPv4", False, "netd carries IPv4 only, set it to true")
    notes: list[str] = []
    network = _network(fields, notes)
    subnet_len = _subnet_len(fields, network)
    size = 1 << (32 - subnet_len)
    first = IPv4Address(int(network.network_address) + size)
    last = IPv4Address(int(network.broadcast_address) + 1 - size)
    low = _bound(fields, "SubnetMin", first, network, subnet_len)
    high = _bound(fields, "SubnetMax", last, network, subnet_len)
    if low > high:
        raise FieldError("SubnetMin", str(low), f"must not be above SubnetMax {high}")
    backend = _backend(fields, notes)
    return NetworkConfig(network, subnet_len, low, high, backend, tuple(notes))


def _fold(data: Mapping[str, Any]) -> dict[str, Any]:
    """Keys in lower case: Go's encoding/json matches them without regard to case."""
    return {key.lower(): value for key, value in data.items()}


def _boolean(fields: Mapping[str, Any], name: str, default: bool, within: str = "") -> bool:
    value = fields.get(name.lower())
    if value is None:
        return default
    if not isinstance(value, bool):
        raise FieldError(within + name, value, "must be true or false")
    return value


def _number(fields: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    value = fields.get(name.rpartition(".")[2].lower())
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise FieldError(name, value, f"must be a whole number from {low} to {high}")
    return value


def _network(fields: Mapping[str, Any], notes: list[str]) -> IPv4Network:
    value = fields.get("network")
    rule = 'must be an IPv4 network such as "10.1.0.0/16"'
    if not isinstance(value, str) or not _CIDR.fullmatch(value):
        raise FieldError("Network", value, rule)
    try:
        network = IPv4Network(value, strict=False)
    except ValueError:
        raise FieldError("Network", value, rule) from None
    if network.prefixlen < 2 or network.is_multicast or network.is_loopback:
        raise FieldError("Network", value, "must be a unicast network of /2 to /28")
    if str(network) != value:
        notes.append(f"Network {value} has host bits set, {network} is used")
    return network


def _subnet_len(fields: Mapping[str, Any], network: IPv4Network) -> int:
    value = _number(fields, "SubnetLen", 0, 0, 32)
    if value == 0:
        if network.prefixlen > 28:
            raise FieldError("Network", str(network), "is too small: a /28 is the least")
        return 24 if network.prefixlen <= 22 else network.prefixlen + 2
    if value > 30:
        raise FieldError("SubnetLen", value, "must be 30 or less: a host needs two addresses")
    if value < network.prefixlen + 2:
        raise FieldError(
            "SubnetLen", value,
            f"must be {network.prefixlen + 2} or more: {network} has to hold at least four subnets",
        )  # fmt: skip
    return value


def _bound(
    fields: Mapping[str, Any], name: str, default: IPv4Address, network: IPv4Network, length: int
) -> IPv4Address:
    value = fields.get(name.lower())
    # flannel takes the zero address for unset.
    if value in {None, "", "0.0.0.0"}:  # noqa: S104
        return default
    try:
        address = IPv4Address(value if isinstance(value, str) else "")
    except ValueError:
        raise FieldError(name, value, 'must be an IPv4 address such as "10.1.10.0"') from None
    if address not in network:
        raise FieldError(name, value, f"must lie in Network {network}")
    if int(address) % (1 << (32 - length)):
        raise FieldError(name, value, f"must be the first address of a /{length}")
    return address


def _backend(fields: Mapping[str, Any], notes: list[str]) -> Backend:
    value = fields.get("backend")
    if value is None:
        notes.append(
            "Backend is missing: vxlan is taken, as flannel's documents say "
            '(flanneld itself would take udp); set "Backend": {"Type": "vxlan"}'
        )
        return VxlanOptions()
    if not isinstance(value, dict):
        raise FieldError("Backend", value, 'must be an object such as {"Type": "vxlan"}')
    options = _fold(value)
    kind = options.get("type")
    if not isinstance(kind, str):
        raise FieldError("Backend.Type", kind, 'must be "vxlan" or "host-gw"')
    kind = kind.lower()
    if kind == "host-gw":
        return HostGwOptions(mtu=_mtu(options))
    if kind == "vxlan":
        # flannel's MTU is that of the outer packets; ours is the device's.
        mtu = _mtu(options)
        return VxlanOptions(
            vni=_number(options, "Backend.VNI", 1, 1, MOST_VNI),
            port=_number(options, "Backend.Port", 0, 0, 65535) or 8472,
            mtu=mtu - VXLAN_OVERHEAD if mtu else 0,
            gbp=_boolean(options, "GBP", False, "Backend."),
            learning=_boolean(options, "Learning", False, "Backend."),
            direct_routing=_boolean(options, "DirectRouting", False, "Backend."),
        )
    if kind in UNSUPPORTED_BACKENDS:
        raise FieldError(
            "Backend.Type", kind,
            f"is not supported by netd ({UNSUPPORTED_BACKENDS[kind]}): use vxlan, or host-gw "
            "when all hosts share one layer-2 network",
        )  # fmt: skip
    raise FieldError("Backend.Type", kind, "is unknown: use vxlan or host-gw")


def _mtu(options: Mapping[str, Any]) -> int:
    value = _number(options, "Backend.MTU", 0, 0, 65535)
    # RFC 791 asks every host for 576; less would cut ordinary traffic to pieces.
    if 0 < value < 576:
        raise FieldError("Backend.MTU", value, "must be 0 (follow the interface) or 576 to 65535")
    return value


@dataclass(frozen=True, slots=True)
class Lease:
    """A well-formed lease record. *lease_id* 0 marks a reservation; *vni* is 0 without VXLAN."""

    key: str
    subnet: IPv4Network
    public_ip: IPv4Address
    backend_type: str
    vni: int
    vtep_mac: str
    lease_id: int = 0
    mod_revision: int = 0
    create_revision: int = 0

    @property
    def is_reservation(self) -> bool:
        """Whether the record has no etcd lease and therefore never expires."""
        return self.lease_id == 0


class _BackendData(msgspec.Struct):
    VNI: int = 0
    VtepMAC: str = ""


class _Value(msgspec.Struct):
    PublicIP: str
    BackendType: str = ""
    # Each backend has its own; ours is read only where the type is ours.
    BackendData: msgspec.Raw = msgspec.Raw(b"null")
    PublicIPv6: str | None = None
    BackendV6Data: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Value).decode
_decode_vxlan = msgspec.json.Decoder(_BackendData | None).decode


def subnet_key(subnet: IPv4Network) -> str:
    """The last part of a lease's key, such as ``10.1.33.0-24``."""
    return f"{subnet.network_address}-{subnet.prefixlen}"


def is_host_address(address: IPv4Address) -> bool:
    """Whether *address* can be a host's PublicIP."""
    return not (
        address.is_unspecified or address.is_multicast or address.is_loopback or address.is_reserved
    )


def is_unicast_mac(text: str) -> bool:
    """Whether *text* is a MAC that a device can have, such as ``a2:d8:8f:2a:15:9d``."""
    return (
        _MAC.fullmatch(text) is not None
        and not int(text[:2], 16) & 1
        and text != "00:00:00:00:00:00"
    )


def key_name(key: str) -> str:
    """What stands behind ``/subnets/`` in a record's key."""
    return key.rpartition("/subnets/")[2]


def parse_key(name: str) -> tuple[IPv4Network, bool]:
    """The IPv4 subnet that a key's last part names, and whether it is dual stack.

    Raises FieldError.
    """
    match = _KEY.fullmatch(name)
    if match is None:
        raise FieldError("key", name, "must look like 10.1.33.0-24")
    try:
        subnet = IPv4Network(f"{match[1]}/{match[2]}")
    except ValueError as error:
        raise FieldError("key", name, f"is no subnet ({error})") from None
    return subnet, match[3] is not None


def parse_lease(
    key: str,
    value: bytes,
    *,
    lease_id: int = 0,
    mod_revision: int = 0,
    create_revision: int = 0,
    name: str = "",
) -> Lease:
    """Read one record; *name* is its key without the etcd prefix. Raises FieldError."""
    name = name or key_name(key)
    subnet, dual = parse_key(name)
    if dual:
        raise FieldError("key", name, "is a dual-stack lease, netd carries IPv4 only")
    try:
        data = _decode(value)
    except _UNREADABLE as error:
        raise FieldError(
            "value", value.decode(errors="replace"), f"is no lease ({error})"
        ) from error
    try:
        public_ip = IPv4Address(data.PublicIP)
    except ValueError:
        raise FieldError("PublicIP", data.PublicIP, "must be an IPv4 address") from None
    if not is_host_address(public_ip):
        raise FieldError("PublicIP", data.PublicIP, "must be a host's own unicast address")
    if data.PublicIPv6 or bytes(data.BackendV6Data) not in {b"", b"null"}:
        raise FieldError("PublicIPv6", data.PublicIPv6, "dual stack, netd carries IPv4 only")
    kind = data.BackendType.lower()
    vni, mac = 0, ""
    if kind == "vxlan":
        vni, mac = _vxlan_data(data.BackendData)
    return Lease(key, subnet, public_ip, kind, vni, mac, lease_id, mod_revision, create_revision)


def _vxlan_data(raw: msgspec.Raw) -> tuple[int, str]:
    try:
        data = _decode_vxlan(raw)
    except _UNREADABLE as error:
        raise FieldError("BackendData", bytes(raw), f"is not vxlan's ({error})") from error
    if data is None or not data.VtepMAC:
        raise FieldError("BackendData.VtepMAC", None, "is missing")
    mac = data.VtepMAC.lower()
    if not is_unicast_mac(mac):
        raise FieldError("BackendData.VtepMAC", mac, "must be six hex bytes, not multicast")
    # Records of flannel before 0.14 carry no VNI.
    if not 0 <= data.VNI < 1 << 24:
        raise FieldError("BackendData.VNI", data.VNI, "must be from 1 to 16777215")
    return data.VNI, mac


def render_lease(public_ip: IPv4Address, backend: Backend, vtep_mac: str) -> bytes:
    """The value that flanneld would write for this host, byte for byte."""
    vni = backend.vni if isinstance(backend, VxlanOptions) else 0
    return lease_value(str(public_ip), backend_type(backend), vni, vtep_mac)


def lease_value(public_ip: str, kind: str, vni: int, vtep_mac: str) -> bytes:
    """A record's value in flannel's order of fields; only vxlan has backend data."""
    data = f',"BackendData":{{"VNI":{vni},"VtepMAC":"{vtep_mac}"}}' if kind == "vxlan" else ""
    head = f'"PublicIP":"{public_ip}","PublicIPv6":null,"BackendType":"{kind}"'
    return f"{{{head}{data}}}".encode()
