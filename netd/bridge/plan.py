"""What has to happen to docker0: a pure decision over what it is and what it should be.

A bridge on which containers live is never renumbered; a wrong MTU is put right at any time.
"""

from dataclasses import dataclass
from ipaddress import IPv4Interface


@dataclass(frozen=True, slots=True)
class Bridge:
    """docker0 as observed. *ports* are the names of the interfaces attached to it."""

    index: int
    kind: str
    up: bool
    mtu: int
    mac: str
    addresses: tuple[IPv4Interface, ...]
    ports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """docker0 as it should be."""

    address: IPv4Interface
    mtu: int

    @property
    def mac(self) -> str:
        """A fixed MAC, in Docker's own scheme: without one a bridge takes its lowest port's MAC
        and changes it with every container, and neighbours' caches go stale."""
        return "02:42:" + self.address.ip.packed.hex(":")


@dataclass(frozen=True, slots=True)
class Steps:
    """What to do, in this order."""

    create: bool = False
    set_mtu: int | None = None
    add: tuple[IPv4Interface, ...] = ()
    remove: tuple[IPv4Interface, ...] = ()
    set_up: bool = False

    def describe(self) -> str:
        """The steps in words."""
        words = [
            "created" if self.create else "",
            f"MTU set to {self.set_mtu}" if self.set_mtu is not None else "",
            "address " + ", ".join(map(str, self.add)) + " added" if self.add else "",
            "address " + ", ".join(map(str, self.remove)) + " removed" if self.remove else "",
            "set up" if self.set_up else "",
        ]
        return ", ".join(word for word in words if word) or "nothing"

    def __bool__(self) -> bool:
        return bool(
            self.create or self.set_mtu is not None or self.add or self.remove or self.set_up
        )


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing may be done, because of *why*; *in_use* tells that containers are the reason."""

    why: str
    in_use: bool = False


def decide(observed: Bridge | None, wanted: Wanted) -> Steps | Refusal:
    """Steps that make docker0 as *wanted*, or the reason why they must not be taken."""
    if observed is None:
        return Steps(create=True, set_mtu=wanted.mtu, add=(wanted.address,), set_up=True)
    if observed.kind != "bridge":
        return Refusal(f"there is a device of that name which is a {observed.kind or 'plain'} link")
    # Beside ours, an address that the administrator added does no harm.
    right = wanted.address in observed.addresses
    others = () if right else observed.addresses
    if others and observed.ports:
        return Refusal(
            f"it has address {', '.join(map(str, others))} instead of {wanted.address}",
            in_use=True,
        )
    return Steps(
        set_mtu=wanted.mtu if observed.mtu != wanted.mtu else None,
        add=() if right else (wanted.address,),
        remove=others,
        set_up=not observed.up,
    )
