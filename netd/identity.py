"""Who this host is to the overlay: its VTEP's MAC and the subnet that it had.

A running data plane is the best witness, whoever made it; then what was saved; then the file
that flanneld or netd left. Only a host without any of these gets something new.
"""

import os
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from netd.bridge.options import parse_subnet_env
from netd.leases.model import FieldError, NetworkConfig, parse_network_config
from netd.overlay.model import VxlanOptions
from netd.state import State


@dataclass(frozen=True, slots=True)
class HostIdentity:
    """*mac_is_new* tells that no other host can know *vtep_mac* yet."""

    vtep_mac: str
    mac_is_new: bool
    known_macs: frozenset[str]
    remembered: IPv4Network | None


def new_mac() -> str:
    """A random, locally administered unicast MAC."""
    raw = bytearray(os.urandom(6))
    raw[0] = (raw[0] & 0xFC) | 0x02
    return raw.hex(":")


def saved_config(state: State) -> NetworkConfig | None:
    """The network configuration that was last in force, None when none is known."""
    try:
        return parse_network_config(state.config) if state.config else None
    except FieldError:
        return None


def expected_vni(state: State) -> int:
    """The VNI of the VXLAN device that an earlier run would have left, 0 for none."""
    config = saved_config(state)
    backend = VxlanOptions() if config is None else config.backend
    return backend.vni if isinstance(backend, VxlanOptions) else 0


def last_subnet(state: State, subnet_file: Path) -> IPv4Network | None:
    """The subnet that this host had, by the saved state or else by its subnet.env."""
    if state.remembered is not None:
        return state.remembered
    try:
        return parse_subnet_env(subnet_file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError):
        return None


def identify(state: State, mac_in_kernel: str | None, subnet_file: Path) -> HostIdentity:
    """Put the witnesses together."""
    known = [mac for mac in (mac_in_kernel, state.vtep_mac) if mac]
    return HostIdentity(
        vtep_mac=known[0] if known else new_mac(),
        mac_is_new=not known,
        known_macs=frozenset(known),
        remembered=last_subnet(state, subnet_file),
    )
