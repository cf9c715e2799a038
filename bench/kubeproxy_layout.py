"""The same services in kube-proxy's layout of the nat table, as text for iptables-restore.

Every service port is a ``KUBE-SVC-`` chain, every endpoint a ``KUBE-SEP-`` chain, and every new
connection walks two rules of ``KUBE-SERVICES`` for each service until one matches. Names and
comments are those of kube-proxy's iptables mode (pkg/proxy/iptables of Kubernetes 1.20).
"""

import base64
import hashlib
from collections.abc import Iterator, Sequence

from bench.services_made import POD_CIDR, TARGET_PORT, Made

CHAINS = ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-POSTROUTING", "KUBE-MARK-MASQ")

_MARK = "0x4000/0x4000"
_PORTALS = '-m comment --comment "kubernetes service portals" -j KUBE-SERVICES'

JUMPS = (
    "*nat",
    *(f":{chain} - [0:0]" for chain in CHAINS),
    f"-A PREROUTING {_PORTALS}",
    f"-A OUTPUT {_PORTALS}",
    '-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING',
    "COMMIT",
    "",
)
"""Text that enters the fixed chains from the built-in ones, once."""


def _hashed(prefix: str, text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"{prefix}-{base64.b32encode(digest)[:16].decode()}"


def _port_name(made: Made) -> str:
    return f"{made.namespace}/{made.name}:main"


def _service_chain(made: Made) -> str:
    return _hashed("KUBE-SVC", _port_name(made) + made.protocol)


def _endpoint_chain(made: Made, endpoint: str) -> str:
    return _hashed("KUBE-SEP", f"{_port_name(made)}{made.protocol}{endpoint}:{TARGET_PORT}")


def _comment(text: str) -> str:
    return f'-m comment --comment "{text}"'


def _fixed() -> Iterator[str]:
    yield f"-A KUBE-MARK-MASQ -j MARK --set-xmark {_MARK}"
    yield f"-A KUBE-POSTROUTING -m mark ! --mark {_MARK} -j RETURN"
    yield "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0"
    note = _comment("kubernetes service traffic requiring SNAT")
    yield f"-A KUBE-POSTROUTING {note} -j MASQUERADE --random-fully"


def _entries(made: Made) -> Iterator[str]:
    """The rules that lead to the chain of a service."""
    chain = _service_chain(made)
    note = _comment(f"{_port_name(made)} cluster IP")
    match = f"-m {made.protocol} -p {made.protocol} -d {made.vip}/32 --dport {made.port}"
    yield f"-A KUBE-SERVICES {note} {match} ! -s {POD_CIDR} -j KUBE-MARK-MASQ"
    yield f"-A KUBE-SERVICES {note} {match} -j {chain}"
    if made.node_port:
        note = _comment(_port_name(made))
        match = f"-m {made.protocol} -p {made.protocol} --dport {made.node_port}"
        yield f"-A KUBE-NODEPORTS {note} {match} -j KUBE-MARK-MASQ"
        yield f"-A KUBE-NODEPORTS {note} {match} -j {chain}"


def _balance(made: Made, endpoints: Sequence[str]) -> Iterator[str]:
    """The rules of a service's chain."""
    note = _comment(_port_name(made))
    for index, endpoint in enumerate(endpoints):
        left = len(endpoints) - index
        luck = f"-m statistic --mode random --probability {1 / left:.11f} " if left > 1 else ""
        chain = _endpoint_chain(made, endpoint)
        yield f"-A {_service_chain(made)} {note} {luck}-j {chain}"


def _deliver(made: Made, endpoint: str) -> Iterator[str]:
    """The rules of an endpoint's chain."""
    note = _comment(_port_name(made))
    chain = _endpoint_chain(made, endpoint)
    yield f"-A {chain} {note} -s {endpoint}/32 -j KUBE-MARK-MASQ"
    target = f"{endpoint}:{TARGET_PORT}"
    yield (
        f"-A {chain} {note} -m {made.protocol} -p {made.protocol} -j DNAT --to-destination {target}"
    )


def _own_chains(made: Made, endpoints: Sequence[str]) -> Iterator[str]:
    yield f":{_service_chain(made)} - [0:0]"
    for endpoint in endpoints:
        yield f":{_endpoint_chain(made, endpoint)} - [0:0]"


def _own_rules(made: Made, endpoints: Sequence[str]) -> Iterator[str]:
    yield from _balance(made, endpoints)
    for endpoint in endpoints:
        yield from _deliver(made, endpoint)


def whole(
    made: Sequence[Made],
    endpoints: Sequence[Sequence[str]],
    gone: Sequence[tuple[Made, str]] = (),
) -> str:
    """All chains and rules, as kube-proxy up to 1.25 sends them at every change.

    *endpoints* are those of each of *made*; *gone* are endpoints whose chains go.
    """
    both = list(zip(made, endpoints, strict=True))
    gone_chains = [_endpoint_chain(one, address) for one, address in gone]
    lines = ["*nat", *(f":{chain} - [0:0]" for chain in CHAINS)]
    lines += (line for one, its in both for line in _own_chains(one, its))
    lines += (f":{chain} - [0:0]" for chain in gone_chains)
    lines += _fixed()
    for one, its in both:
        lines += _entries(one)
        lines += _own_rules(one, its)
    lines.append("-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    lines += (f"-X {chain}" for chain in gone_chains)
    return "\n".join([*lines, "COMMIT", ""])


def partial(made: Made, endpoints: Sequence[str], gone: Sequence[str]) -> str:
    """Only the chains of one service, as kube-proxy since 1.26 sends them; those of the
    endpoints in *gone* go."""
    gone_chains = [_endpoint_chain(made, address) for address in gone]
    lines = ["*nat", *_own_chains(made, endpoints)]
    lines += (f":{chain} - [0:0]" for chain in gone_chains)
    lines += _own_rules(made, endpoints)
    lines += (f"-X {chain}" for chain in gone_chains)
    return "\n".join([*lines, "COMMIT", ""])
