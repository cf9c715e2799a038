"""From one frontend to its rules, and the few fixed chains around all of them.

The way of the first packet of a connection (the kernel remembers the answer for the rest):

    PREROUTING -> KUBE-PORTALS-CONTAINER --+-> KUBE-PORTALS -> tree -> leaf: DNAT to an endpoint
    OUTPUT -----> KUBE-PORTALS-HOST -------+
    PREROUTING -> KUBE-NODEPORT-CONTAINER -+-> KUBE-NODEPORT-TREE -> tree -> leaf: DNAT
    OUTPUT -----> KUBE-NODEPORT-HOST ------+
    POSTROUTING -> KUBE-PORTALS-MASQ       what was marked leaves with this host's address

The nat table cannot refuse a packet. A leaf marks it instead, and KUBE-PORTALS-FILTER, three
rules for any number of services, refuses or drops what is marked.

Text is written exactly as iptables-save prints it, because rules are compared by text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from netd.iptables.chain import Jump
from netd.services import names
from netd.services.values import Frontend, Kind

_RANDOM_BASE = 0x80000000  # XT_STATISTIC's fixed-point one, linux/netfilter/xt_statistic.h

# Classic BPF, run on the IPv4 header: source equals destination. The bpf match is given the
# packet from the network header on, iptables-extensions(8).
_SAME_ENDS = "6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator chose, for all services of this host.

    *cluster_cidr* is the pods' network or empty; *node_port_ranges* are the networks in which an
    address of this host must lie to serve node ports, empty for all.
    """

    masquerade_bit: int = 14
    masquerade_all: bool = False
    cluster_cidr: str = ""
    node_port_ranges: tuple[str, ...] = ()
    drop_invalid: bool = True

    @property
    def masquerade(self) -> str:
        """Value and mask of the mark for masquerading."""
        return _bit(self.masquerade_bit)


def _bit(number: int) -> str:
    return f"{1 << number:#x}/{1 << number:#x}"


_REJECT, _DROP = _bit(names.REJECT_BIT), _bit(names.DROP_BIT)


def _set(mark: str) -> str:
    return f"-j MARK --set-xmark {mark}"


def _unset(mark: str) -> str:
    return f"-j MARK --set-xmark 0x0/{mark.partition('/')[2]}"


def probability(choices: int) -> str:
    """One in *choices* (2 or more), as the kernel rounds it and iptables-save prints it."""
    return f"{round(_RANDOM_BASE / choices) / _RANDOM_BASE:.11f}"


@dataclass(frozen=True, slots=True)
class _Match:
    """The match part of one frontend's rules."""

    frontend: Frontend

    def __call__(self, rest: str, source: str = "") -> str:
        one = self.frontend
        words = [f"-s {source}"] if source else []
        if one.address:
            words.append(f"-d {one.address}/32")
        words.append(
            f'-p {one.protocol} -m comment --comment "{one.comment}" '
            f"-m {one.protocol} --dport {one.port}"
        )
        return f"{' '.join(words)} {rest}"


def frontend_rules(frontend: Frontend, policy: Policy) -> list[str]:
    """The rules of *frontend*, in order; never empty."""
    match = _Match(frontend)
    pool = frontend.pool
    rules = _gate(match, frontend.source_ranges)
    if not pool.every:
        return [*rules, match(_set(_REJECT))]
    if frontend.kind is Kind.CLUSTER:
        if not frontend.local_only:
            return [*rules, *_choose(match, pool.every)]
        return [*rules, *(_choose(match, pool.local) or [match(_set(_DROP))])]
    if not frontend.local_only:
        return [*rules, match(_set(policy.masquerade)), *_choose(match, pool.every)]
    # From this host and its pods every endpoint will do: no address of a client is at stake.
    own = "-m addrtype --src-type LOCAL"
    rules += [match(f"{own} {_set(policy.masquerade)}"), *_choose(match, pool.every, extra=own)]
    if policy.cluster_cidr:
        rules += _choose(match, pool.every, source=policy.cluster_cidr)
    if not pool.local:
        return [*rules, match(_set(_DROP))]
    # The entry chain may have marked it for masquerading, which would hide the client.
    return [*rules, match(_unset(policy.masquerade)), *_choose(match, pool.local)]


def _gate(match: _Match, ranges: Sequence[str]) -> list[str]:
    """Drop what comes from outside *ranges*; ACCEPT ends the way through nat."""
    if not ranges or "0.0.0.0/0" in ranges:
        return []
    # A host that has the address itself uses it as its source.
    own = f"{match.frontend.address}/32"
    allowed = [match(_unset(_DROP), source=one) for one in dict.fromkeys((*ranges, own))]
    return [match(_set(_DROP)), *allowed, match(f"-m mark --mark {_DROP} -j ACCEPT")]


def _choose(
    match: _Match, endpoints: Sequence[str], *, source: str = "", extra: str = ""
) -> list[str]:
    """One of *endpoints*, each as likely; a client with affinity first gets the one it had."""
    front = match.frontend
    before = f"{extra} " if extra else ""
    last = len(endpoints) - 1
    rules: list[str] = []
    lists: list[str] = []
    if front.affinity:
        lists = [
            "--name "
            + names.affinity_list(front.service, front.port_name, front.protocol, endpoint)
            + " --mask 255.255.255.255 --rsource "
            for endpoint in endpoints
        ]
        again = f"-m recent --update --seconds {front.affinity} --reap"
        rules += [
            match(f"{before}{again} {listed}-j DNAT --to-destination {endpoint}", source)
            for listed, endpoint in zip(lists, endpoints, strict=True)
        ]
    for index, endpoint in enumerate(endpoints):
        left = last - index + 1
        luck = f"-m statistic --mode random --probability {probability(left)} " if left > 1 else ""
        note = f"-m recent --set {lists[index]}" if lists else ""
        rules.append(match(f"{before}{luck}{note}-j DNAT --to-destination {endpoint}", source))
    return rules


def address_jump(value: str, length: int, chain: str) -> str:
    """The rule that enters *chain* for the addresses of a prefix."""
    return f"-d {value}/{length} -j {chain}"


def port_jump(protocol: str, low: int, high: int, chain: str) -> str:
    """The rule that enters *chain* for the ports from *low* to *high*."""
    if (low, high) == (0, 0xFFFF):
        return f"-p {protocol} -j {chain}"
    ports = str(low) if low == high else f"{low}:{high}"
    return f"-p {protocol} -m {protocol} --dport {ports} -j {chain}"


def entry_chains(policy: Policy) -> dict[str, tuple[str, ...]]:
    """The fixed chains of the nat table."""
    mark, unmark = _set(policy.masquerade), _unset(policy.masquerade)
    walk = f"-j {names.PORTALS}"
    marked_from = ""
    if policy.masquerade_all:
        marked_from = mark
    elif policy.cluster_cidr:
        marked_from = f"! -s {policy.cluster_cidr} {mark}"
    ports = tuple(f"-d {one} -j {names.NODEPORTS}" for one in policy.node_port_ranges) or (
        f"-j {names.NODEPORTS}",
    )
    return {
        names.CANARY: (),
        # What leaves the tree again is no service, and must not keep the mark.
        names.PORTALS_CONTAINER: (marked_from, walk, unmark) if marked_from else (walk,),
        # A local process chose its source address for the service's address; the endpoint may
        # be behind another interface, on which that address is out of place.
        names.PORTALS_HOST: (mark, walk, unmark),
        names.NODEPORT_CONTAINER: ports,
        names.NODEPORT_HOST: ports,
        names.MASQUERADE: (
            f'! -o lo -m conntrack --ctstate DNAT -m bpf --bytecode "{_SAME_ENDS}" {mark}',
            f"-m mark ! --mark {policy.masquerade} -j RETURN",
            # A tunnel's outer packet inherits the mark and must not be rewritten too.
            unmark,
            "! -o lo -j MASQUERADE --random-fully",
        ),
    }


def filter_chains(policy: Policy) -> dict[str, tuple[str, ...]]:
    """The chains of the filter table."""
    refuse = f"-m mark --mark {_REJECT}"
    forward = [f"-j {names.FILTER}"]
    if policy.drop_invalid:
        # A pod's late answer that conntrack takes for invalid would leave with the pod's own
        # address, and the client would answer it with a reset (kubernetes/kubernetes#74839).
        source = f"-s {policy.cluster_cidr} " if policy.cluster_cidr else ""
        forward.append(f"{source}-m conntrack --ctstate INVALID -j DROP")
    forward += [
        f"-m mark --mark {policy.masquerade} -j ACCEPT",
        "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ]
    return {
        names.CANARY: (),
        names.FILTER: (
            # The kernel limits the rate of ICMP errors, not that of resets.
            f"-p tcp {refuse} -j REJECT --reject-with tcp-reset",
            f"{refuse} -j REJECT --reject-with icmp-port-unreachable",
            f"-m mark --mark {_DROP} -j DROP",
        ),
        names.FORWARD: tuple(forward),
    }


_COMMENT = '-m comment --comment "{}"'


def _jump(parent: str, chain: str, text: str, match: str = "") -> Jump:
    rule = " ".join(filter(None, (match, _COMMENT.format(text), f"-j {chain}")))
    return Jump(parent, rule, chain, first=True)


def nat_jumps() -> tuple[Jump, ...]:
    """The ways into our chains in nat; service addresses come before node ports."""
    text = "netd: services"
    ports = "netd: node ports"
    # Node ports on 127.0.0.1 stay closed (CVE-2020-8558). Also to packets from elsewhere: dockerd
    # without its userland proxy makes the kernel accept them on its bridges (route_localnet).
    local = "! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL"
    return (
        _jump("PREROUTING", names.PORTALS_CONTAINER, text),
        _jump("PREROUTING", names.NODEPORT_CONTAINER, ports, local),
        _jump("OUTPUT", names.PORTALS_HOST, text),
        _jump("OUTPUT", names.NODEPORT_HOST, ports, local),
        _jump("POSTROUTING", names.MASQUERADE, text),
    )


def filter_jumps() -> tuple[Jump, ...]:
    """The ways into our chains in filter."""
    text = "netd: services"
    return (
        _jump("INPUT", names.FILTER, text),
        _jump("OUTPUT", names.FILTER, text),
        _jump("FORWARD", names.FORWARD, text),
    )
