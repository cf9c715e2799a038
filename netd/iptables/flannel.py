"""flannel's chains, rule for rule, so that either program can take over from the other."""

from ipaddress import IPv4Network

from netd.iptables.chain import Jump, Wish

FORWARD_CHAIN = "FLANNEL-FWD"
MASQUERADE_CHAIN = "FLANNEL-POSTRTG"

_FWD = '-m comment --comment "flanneld forward"'
_MASQ = '-m comment --comment "flanneld masq"'
# Kubernetes' mark for packets that are masqueraded by its own chain already.
_MARKED = "-m mark --mark 0x4000/0x4000"


def forward(network: IPv4Network | None) -> Wish:
    """The filter table: accept what comes from or goes to *network*; None wants it gone.

    dockerd 1.13 and newer sets the policy of FORWARD to DROP (moby/moby#28257).
    """
    if network is None:
        return Wish("filter", absent=(FORWARD_CHAIN,))
    return Wish(
        "filter",
        chains={
            FORWARD_CHAIN: (f"-s {network} {_FWD} -j ACCEPT", f"-d {network} {_FWD} -j ACCEPT"),
        },
        jumps=(Jump("FORWARD", f"{_FWD} -j {FORWARD_CHAIN}", FORWARD_CHAIN),),
    )


def masquerade(
    network: IPv4Network | None, subnet: IPv4Network | None, *, random_fully: bool = True
) -> Wish:
    """The nat table: hide containers behind the host's address, but not from one another.

    None wants it gone. Multicast is never rewritten. Without *random_fully* two containers
    that connect at once may be given one source port, and a packet is lost.
    """
    if network is None or subnet is None:
        return Wish("nat", absent=(MASQUERADE_CHAIN,))
    tail = "MASQUERADE --random-fully" if random_fully else "MASQUERADE"
    rules = (
        f"{_MARKED} {_MASQ} -j RETURN",
        f"-s {subnet} -d {network} {_MASQ} -j RETURN",
        f"-s {network} -d {subnet} {_MASQ} -j RETURN",
        f"! -s {network} -d {subnet} {_MASQ} -j RETURN",
        f"-s {network} ! -d 224.0.0.0/4 {_MASQ} -j {tail}",
        f"! -s {network} -d {network} {_MASQ} -j {tail}",
    )
    return Wish(
        "nat",
        chains={MASQUERADE_CHAIN: rules},
        jumps=(Jump("POSTROUTING", f"{_MASQ} -j {MASQUERADE_CHAIN}", MASQUERADE_CHAIN),),
    )
