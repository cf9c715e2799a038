"""One frontend's rules and the fixed chains, word for word as iptables-save prints them.

Both variants of iptables 1.8.9 give these lines back unchanged.
"""

import pytest

from netd.iptables.chain import Jump
from netd.services.rules import (
    Policy,
    address_jump,
    entry_chains,
    filter_chains,
    filter_jumps,
    frontend_rules,
    nat_jumps,
    port_jump,
    probability,
)
from netd.services.values import Frontend, Kind, Pool
from tests.netd.services.made import frontend

POLICY = Policy(cluster_cidr="10.1.0.0/16")
HERE, THERE = "10.1.1.2:8080", "10.1.2.2:8080"
ONE = Pool((HERE,), (HERE,))
ELSEWHERE = Pool((THERE,))

AT = '-d 10.0.0.7/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80'
OUTSIDE = '-d 203.0.113.1/32 -p tcp -m comment --comment "default/web:http" -m tcp --dport 80'
NODE = '-p tcp -m comment --comment "default/web:http" -m tcp --dport 30061'
OWN = "-m addrtype --src-type LOCAL"
HALF = "-m statistic --mode random --probability 0.50000000000"
REFUSE = "-j MARK --set-xmark 0x1000/0x1000"
DROP = "-j MARK --set-xmark 0x8000/0x8000"
MASQUERADE = "-j MARK --set-xmark 0x4000/0x4000"
PLAIN = "-j MARK --set-xmark 0x0/0x4000"


def to(endpoint: str) -> str:
    return f"-j DNAT --to-destination {endpoint}"


def external(**changes: object) -> Frontend:
    return frontend(kind=Kind.EXTERNAL, address="203.0.113.1", **changes)


def balancer(**changes: object) -> Frontend:
    return frontend(kind=Kind.BALANCER, address="203.0.113.1", **changes)


def node_port(**changes: object) -> Frontend:
    return frontend(kind=Kind.NODE_PORT, address="", port=30061, **changes)


LISTS = {HERE: "KUBE-AFF-30d16f5e0004fe75", THERE: "KUBE-AFF-63d74b4a4b02952d"}


def again(endpoint: str, seconds: int) -> str:
    """What matches a client that had *endpoint*, and sends it there."""
    name = f"--name {LISTS[endpoint]} --mask 255.255.255.255 --rsource"
    return f"-m recent --update --seconds {seconds} --reap {name} {to(endpoint)}"


def first(endpoint: str) -> str:
    """What notes that a client gets *endpoint*."""
    name = f"--name {LISTS[endpoint]} --mask 255.255.255.255 --rsource"
    return f"-m recent --set {name} {to(endpoint)}"


CASES: dict[str, tuple[Frontend, list[str]]] = {
    "a cluster address: each endpoint as likely": (
        frontend(),
        [f"{AT} {HALF} {to(HERE)}", f"{AT} {to(THERE)}"],
    ),
    "one endpoint is not left to luck": (frontend(pool=ONE), [f"{AT} {to(HERE)}"]),
    "no endpoint: refused": (frontend(pool=Pool()), [f"{AT} {REFUSE}"]),
    "no endpoint anywhere is refused under the policy Local, too": (
        frontend(pool=Pool(), local_only=True),
        [f"{AT} {REFUSE}"],
    ),
    "a port without a name, by UDP": (
        frontend(protocol="udp", port=53, port_name="", pool=ONE),
        [f'-d 10.0.0.7/32 -p udp -m comment --comment "default/web:" -m udp --dport 53 {to(HERE)}'],
    ),
    "a cluster address under Local: this node's endpoints": (
        frontend(local_only=True),
        [f"{AT} {to(HERE)}"],
    ),
    "a cluster address under Local without local endpoints: dropped": (
        frontend(local_only=True, pool=ELSEWHERE),
        [f"{AT} {DROP}"],
    ),
    "a client with affinity gets the endpoint it had": (
        frontend(affinity=10800),
        [
            f"{AT} {again(HERE, 10800)}",
            f"{AT} {again(THERE, 10800)}",
            f"{AT} {HALF} {first(HERE)}",
            f"{AT} {first(THERE)}",
        ],
    ),
    "an external address: masqueraded, since the answer has to come back here": (
        external(),
        [f"{OUTSIDE} {MASQUERADE}", f"{OUTSIDE} {HALF} {to(HERE)}", f"{OUTSIDE} {to(THERE)}"],
    ),
    "a node port, at whatever address of the host": (
        node_port(pool=ONE),
        [f"{NODE} {MASQUERADE}", f"{NODE} {to(HERE)}"],
    ),
    "Local from outside: this node's endpoints see the client; host and pods may use any": (
        node_port(local_only=True),
        [
            f"{NODE} {OWN} {MASQUERADE}",
            f"{NODE} {OWN} {HALF} {to(HERE)}",
            f"{NODE} {OWN} {to(THERE)}",
            f"-s 10.1.0.0/16 {NODE} {HALF} {to(HERE)}",
            f"-s 10.1.0.0/16 {NODE} {to(THERE)}",
            f"{NODE} {PLAIN}",
            f"{NODE} {to(HERE)}",
        ],
    ),
    "Local from outside without local endpoints: dropped, except for host and pods": (
        external(local_only=True, pool=ELSEWHERE),
        [
            f"{OUTSIDE} {OWN} {MASQUERADE}",
            f"{OUTSIDE} {OWN} {to(THERE)}",
            f"-s 10.1.0.0/16 {OUTSIDE} {to(THERE)}",
            f"{OUTSIDE} {DROP}",
        ],
    ),
    "affinity holds on each way under Local": (
        node_port(local_only=True, affinity=60, pool=ONE),
        [
            f"{NODE} {OWN} {MASQUERADE}",
            f"{NODE} {OWN} {again(HERE, 60)}",
            f"{NODE} {OWN} {first(HERE)}",
            f"-s 10.1.0.0/16 {NODE} {again(HERE, 60)}",
            f"-s 10.1.0.0/16 {NODE} {first(HERE)}",
            f"{NODE} {PLAIN}",
            f"{NODE} {again(HERE, 60)}",
            f"{NODE} {first(HERE)}",
        ],
    ),
    "source ranges: who is in none is dropped before anything else": (
        balancer(source_ranges=("192.0.2.0/24", "198.51.100.7/32"), pool=ONE),
        [
            f"{OUTSIDE} {DROP}",
            f"-s 192.0.2.0/24 {OUTSIDE} -j MARK --set-xmark 0x0/0x8000",
            f"-s 198.51.100.7/32 {OUTSIDE} -j MARK --set-xmark 0x0/0x8000",
            f"-s 203.0.113.1/32 {OUTSIDE} -j MARK --set-xmark 0x0/0x8000",
            f"{OUTSIDE} -m mark --mark 0x8000/0x8000 -j ACCEPT",
            f"{OUTSIDE} {MASQUERADE}",
            f"{OUTSIDE} {to(HERE)}",
        ],
    ),
    "source ranges without endpoints: dropped outside of them, refused inside": (
        balancer(source_ranges=("192.0.2.0/24",), pool=Pool()),
        [
            f"{OUTSIDE} {DROP}",
            f"-s 192.0.2.0/24 {OUTSIDE} -j MARK --set-xmark 0x0/0x8000",
            f"-s 203.0.113.1/32 {OUTSIDE} -j MARK --set-xmark 0x0/0x8000",
            f"{OUTSIDE} -m mark --mark 0x8000/0x8000 -j ACCEPT",
            f"{OUTSIDE} {REFUSE}",
        ],
    ),
    "a range of all addresses is no limit": (
        balancer(source_ranges=("0.0.0.0/0", "192.0.2.0/24"), pool=ONE),
        [f"{OUTSIDE} {MASQUERADE}", f"{OUTSIDE} {to(HERE)}"],
    ),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_rules_of_a_frontend(case: str) -> None:
    given, rules = CASES[case]
    assert frontend_rules(given, POLICY) == rules


def test_without_a_known_network_of_pods_nobody_counts_as_a_pod() -> None:
    rules = frontend_rules(node_port(local_only=True), Policy())
    assert rules == [rule for rule in CASES_LOCAL if not rule.startswith("-s ")]


CASES_LOCAL = CASES[
    "Local from outside: this node's endpoints see the client; host and pods may use any"
][1]


@pytest.mark.parametrize(
    ("choices", "text"),
    [(2, "0.50000000000"), (3, "0.33333333349"), (7, "0.14285714272"), (1000, "0.00100000016")],
)
def test_a_chance_is_written_as_the_kernel_rounds_it(choices: int, text: str) -> None:
    assert probability(choices) == text


def test_the_mark_for_masquerading_is_the_operators() -> None:
    assert Policy().masquerade == "0x4000/0x4000"
    policy = Policy(masquerade_bit=31)
    assert policy.masquerade == "0x80000000/0x80000000"
    assert frontend_rules(node_port(pool=ONE), policy)[0] == (
        f"{NODE} -j MARK --set-xmark 0x80000000/0x80000000"
    )


def test_jumps_into_the_trees() -> None:
    assert address_jump("10.96.0.0", 14, "KUBE-VIP-x") == "-d 10.96.0.0/14 -j KUBE-VIP-x"
    assert port_jump("udp", 0, 65535, "KUBE-NP-x") == "-p udp -j KUBE-NP-x"
    assert port_jump("tcp", 30000, 30719, "KUBE-NP-x") == (
        "-p tcp -m tcp --dport 30000:30719 -j KUBE-NP-x"
    )
    assert port_jump("sctp", 30061, 30061, "KUBE-NP-x") == (
        "-p sctp -m sctp --dport 30061 -j KUBE-NP-x"
    )


MASQUERADE_CHAIN = (
    "! -o lo -m conntrack --ctstate DNAT -m bpf --bytecode "
    '"6,32 0 0 12,7 0 0 0,32 0 0 16,29 0 1 0,6 0 0 65535,6 0 0 0" '
    "-j MARK --set-xmark 0x4000/0x4000",
    "-m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-j MARK --set-xmark 0x0/0x4000",
    "! -o lo -j MASQUERADE --random-fully",
)


def test_the_fixed_chains_of_nat() -> None:
    assert entry_chains(Policy()) == {
        "KUBE-NETD-CANARY": (),
        "KUBE-PORTALS-CONTAINER": ("-j KUBE-PORTALS",),
        "KUBE-PORTALS-HOST": (MASQUERADE, "-j KUBE-PORTALS", PLAIN),
        "KUBE-NODEPORT-CONTAINER": ("-j KUBE-NODEPORT-TREE",),
        "KUBE-NODEPORT-HOST": ("-j KUBE-NODEPORT-TREE",),
        "KUBE-PORTALS-MASQ": MASQUERADE_CHAIN,
    }


def test_clients_outside_the_pods_network_are_masqueraded_and_the_mark_does_not_stay() -> None:
    chains = entry_chains(POLICY)
    assert chains["KUBE-PORTALS-CONTAINER"] == (
        f"! -s 10.1.0.0/16 {MASQUERADE}", "-j KUBE-PORTALS", PLAIN,
    )  # fmt: skip


def test_masquerade_all_knows_no_exception() -> None:
    chains = entry_chains(Policy(masquerade_all=True, cluster_cidr="10.1.0.0/16"))
    assert chains["KUBE-PORTALS-CONTAINER"] == (MASQUERADE, "-j KUBE-PORTALS", PLAIN)


def test_node_ports_answer_only_at_addresses_in_the_ranges() -> None:
    chains = entry_chains(Policy(node_port_ranges=("192.0.2.0/24", "198.18.0.11/32")))
    wanted = ("-d 192.0.2.0/24 -j KUBE-NODEPORT-TREE", "-d 198.18.0.11/32 -j KUBE-NODEPORT-TREE")
    assert chains["KUBE-NODEPORT-CONTAINER"] == chains["KUBE-NODEPORT-HOST"] == wanted


FILTER = (
    "-p tcp -m mark --mark 0x1000/0x1000 -j REJECT --reject-with tcp-reset",
    "-m mark --mark 0x1000/0x1000 -j REJECT --reject-with icmp-port-unreachable",
    "-m mark --mark 0x8000/0x8000 -j DROP",
)
FORWARD = (
    "-j KUBE-PORTALS-FILTER",
    "-m conntrack --ctstate INVALID -j DROP",
    "-m mark --mark 0x4000/0x4000 -j ACCEPT",
    "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
)


@pytest.mark.parametrize(
    ("policy", "forward"),
    [
        (Policy(), FORWARD),
        (POLICY, (FORWARD[0], f"-s 10.1.0.0/16 {FORWARD[1]}", *FORWARD[2:])),
        (Policy(drop_invalid=False), (FORWARD[0], *FORWARD[2:])),
    ],
    ids=["plain", "only pods' packets count as invalid", "a liberal kernel drops none"],
)
def test_the_chains_of_filter(policy: Policy, forward: tuple[str, ...]) -> None:
    assert filter_chains(policy) == {
        "KUBE-NETD-CANARY": (),
        "KUBE-PORTALS-FILTER": FILTER,
        "KUBE-PORTALS-FORWARD": forward,
    }


def test_services_are_asked_before_node_ports_and_all_ways_in_are_first() -> None:
    said = '-m comment --comment "netd: services" -j'
    port = '! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -m comment --comment "netd: node ports"'
    assert nat_jumps() == tuple(
        Jump(parent, rule, rule.rpartition(" ")[2], first=True)
        for parent, rule in [
            ("PREROUTING", f"{said} KUBE-PORTALS-CONTAINER"),
            ("PREROUTING", f"{port} -j KUBE-NODEPORT-CONTAINER"),
            ("OUTPUT", f"{said} KUBE-PORTALS-HOST"),
            ("OUTPUT", f"{port} -j KUBE-NODEPORT-HOST"),
            ("POSTROUTING", f"{said} KUBE-PORTALS-MASQ"),
        ]
    )
    assert filter_jumps() == tuple(
        Jump(parent, f"{said} {chain}", chain, first=True)
        for parent, chain in [
            ("INPUT", "KUBE-PORTALS-FILTER"),
            ("OUTPUT", "KUBE-PORTALS-FILTER"),
            ("FORWARD", "KUBE-PORTALS-FORWARD"),
        ]
    )
