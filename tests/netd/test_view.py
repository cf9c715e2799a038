"""The status document as a person reads it."""

import copy
import io
import re
from typing import Any

import pytest
from rich.console import Console

from netd.status import OVERLAY_SECTIONS
from netd.view import PEERS_SHOWN, age, show, span

NOW = 1_000_000.0
DOCUMENT: dict[str, Any] = {
    "version": "0.1.0",
    "started": NOW - 3725,
    "ready": True,
    "not_ready": [],
    "problems": [],
    "halves": {"overlay": True, "services": True},
    "lease": {
        "subnet": "10.1.33.0/24", "state": "held", "key": "/p/subnets/10.1.33.0-24",
        "lease_id": "abc", "reservation": False, "acquired": NOW - 90, "age_seconds": 90,
        "expires": NOW + 86_400, "reacquired": 0,
    },
    "etcd": {
        "endpoint": "http://10.0.0.1:2379", "connected": True, "endpoint_errors": {},
        "from_cache": False, "prefix": "/p",
    },
    "network": {
        "network": "10.1.0.0/16", "subnet_len": 24,
        "backend": {"type": "vxlan", "vni": 1, "port": 8472, "direct_routing": False},
        "interface": "eth1", "public_ip": "198.18.77.1", "vtep_mac": "a2:d8:8f:2a:15:9d",
        "mtu": 1450,
    },
    "peers": [
        {"subnet": "10.1.60.0/24", "public_ip": "198.18.77.2",
         "vtep_mac": "02:00:00:00:00:02", "changed": NOW - 59},
        {"subnet": "10.1.61.0/24", "public_ip": "198.18.77.3", "vtep_mac": None,
         "changed": NOW - 7200},
    ],
    "skipped": [],
    "repairs": {},
    "sysctls": [{"name": "net.ipv4.ip_forward", "wanted": "1", "found": "0", "error": ""}],
    "iptables": {"variant": "nft", "in_place": True},
    "files_and_bridge_in_place": True,
    "services": {
        "api": {
            "servers": ["http://10.0.0.1:8080"], "server": "http://10.0.0.1:8080",
            "connected": True, "endpoint_errors": {}, "source": "EndpointSlice v1",
        },
        "node": "h1", "listed": True, "services": 12, "endpoints": 24, "frontends": 14, "chains": 9,
        "rules": 40, "variant": "nft", "last_sync": NOW - 3, "last_sync_seconds": 0.0184,
        "last_sync_full": False, "pending": 0, "skipped": [],
        "masquerade": "clients outside 10.1.0.0/16",
    },
}  # fmt: skip
OVERLAY_OFF: dict[str, Any] = {
    "halves": {"overlay": False, "services": True}, **dict.fromkeys(OVERLAY_SECTIONS),
}  # fmt: skip


def shown(**changes: Any) -> str:
    """The view of the document with *changes*; a key such as lease__state reaches inside."""
    document = copy.deepcopy(DOCUMENT)
    for name, value in changes.items():
        part, _, inner = name.partition("__")
        if inner:
            document[part][inner] = value
        else:
            document[part] = value
    output = io.StringIO()
    show(document, Console(file=output, width=160, highlight=False), now=NOW)
    return output.getvalue()


def line(text: str, first: str) -> str:
    """The line that begins with *first*, with single spaces."""
    (found,) = [one for one in text.splitlines() if one.startswith(first)]
    return " ".join(found.split())


def test_a_ready_host_is_shown_with_lease_network_and_peers() -> None:
    text = shown()
    assert line(text, "netd") == "netd ready, up 1h02m, version 0.1.0"
    assert line(text, "lease") == (
        "lease 10.1.33.0/24, held, 1m30s old, ends in 1d00h unless renewed"
    )
    assert line(text, "etcd") == "etcd connected, http://10.0.0.1:2379"
    assert line(text, "network") == "network 10.1.0.0/16, vxlan VNI 1 port 8472"
    assert line(text, "host") == "host 198.18.77.1 on eth1, VTEP a2:d8:8f:2a:15:9d, MTU 1450"
    assert line(text, "iptables") == "iptables nft"
    assert line(text, "sysctls") == "sysctls net.ipv4.ip_forward=1"
    assert line(text, "repairs") == "repairs none"
    assert line(text, "peers") == "peers 2"
    assert line(text, "10.1.60.0/24") == "10.1.60.0/24 198.18.77.2 02:00:00:00:00:02 59s ago"
    assert line(text, "10.1.61.0/24") == "10.1.61.0/24 198.18.77.3 - 2h00m ago"
    assert "PROBLEM" not in text
    assert "SKIPPED" not in text


def test_services_are_counted_with_the_api_server_and_the_last_sync() -> None:
    text = shown()
    assert line(text, "services") == (
        "services 12 with 24 endpoints, 14 addresses and ports, in 9 chains of 40 rules"
    )
    assert line(text, "api") == (
        "api connected, http://10.0.0.1:8080, EndpointSlice v1, this node is h1"
    )
    assert line(text, "last sync") == (
        "last sync 3s ago, took 18 ms, what had changed, nothing pending"
    )
    assert line(text, "masquerade") == "masquerade clients outside 10.1.0.0/16"


def test_services_before_the_first_list_say_so() -> None:
    api = {
        "servers": ["http://a:1"], "server": None, "connected": False, "source": None,
        "endpoint_errors": {"http://a:1": "connection refused [111]"},
    }  # fmt: skip
    text = shown(
        services__listed=False, services__api=api, services__last_sync=None,
        services__last_sync_seconds=None, services__last_sync_full=None, services__pending=7,
    )  # fmt: skip
    assert line(text, "services") == "services not listed yet, so no rule is touched"
    assert line(text, "api") == ("api NOT CONNECTED, no API server answered yet, this node is h1")
    assert "http://a:1: connection refused [111]" in text
    assert line(text, "last sync") == "last sync none yet, 7 changes pending"


def test_a_full_sync_with_changes_waiting_is_told_as_such() -> None:
    text = shown(services__last_sync_full=True, services__pending=2)
    assert line(text, "last sync").endswith("took 18 ms, all rules compared, 2 changes pending")


def test_services_that_were_skipped_or_cut_are_shown_word_for_word_and_not_without_end() -> None:
    bad = {"key": "service default/[b]", "text": "spec.ports[0].port is 70000: use 1 to 65535"}
    text = shown(services__skipped=[bad] * (PEERS_SHOWN + 3))
    assert text.count("service default/[b]") == PEERS_SHOWN
    assert "spec.ports[0].port is 70000: use 1 to 65535" in text
    assert "and 3 more" in text


def test_a_half_that_is_off_is_said_to_be_off_and_nothing_more() -> None:
    text = shown(**OVERLAY_OFF)
    assert line(text, "overlay") == "overlay off"
    assert line(text, "iptables") == "iptables nft"
    assert line(text, "services").startswith("services 12 with")
    for row in ("lease", "etcd", "network", "host", "sysctls", "peers"):
        assert not re.search(rf"^{row} ", text, re.MULTILINE)
    text = shown(services=None, halves={"overlay": True, "services": False})
    assert line(text, "services") == "services off"
    assert line(text, "lease").startswith("lease 10.1.33.0/24")
    for row in ("api", "last sync", "masquerade"):
        assert not re.search(rf"^{row} ", text, re.MULTILINE)


def test_a_host_at_its_very_beginning_can_be_shown() -> None:
    empty = dict.fromkeys(DOCUMENT["network"])
    text = shown(
        ready=False, lease=None, network=empty, peers=[], sysctls=[], repairs={},
        etcd__connected=False, etcd__endpoint="", iptables__variant=None, services__variant=None,
    )  # fmt: skip
    assert line(text, "netd").startswith("netd NOT READY")
    assert line(text, "lease") == "lease none yet"
    assert line(text, "etcd") == "etcd NOT CONNECTED, no endpoint answered yet"
    assert line(text, "iptables") == "iptables not used"
    assert line(text, "sysctls") == "sysctls -"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"lease__state": "lost to another host"}, "lost to another host"),
        ({"lease__state": "not confirmed by etcd", "lease__expires": None},
         "lease 10.1.33.0/24, not confirmed by etcd"),
        ({"lease__reservation": True, "lease__expires": None},
         "held, a reservation (never expires)"),
    ],
)  # fmt: skip
def test_the_lease_line_tells_how_firm_the_hold_is(changes: dict[str, Any], expected: str) -> None:
    assert expected in line(shown(**changes), "lease")


def test_backends_show_what_belongs_to_them() -> None:
    assert line(shown(network__backend={"type": "host-gw"}), "network") == (
        "network 10.1.0.0/16, host-gw"
    )
    direct = {"type": "vxlan", "vni": 7, "port": 4789, "direct_routing": True}
    assert line(shown(network__backend=direct), "network").endswith(
        "vxlan VNI 7 port 4789, direct routing"
    )


def test_the_saved_state_in_etcd_s_place_is_said_to_be_so() -> None:
    assert line(shown(etcd__from_cache=True), "etcd").endswith("working from the saved state")


def test_repairs_are_counted_by_kind_and_a_failed_sysctl_is_marked() -> None:
    text = shown(
        repairs={"fdb": 2, "route": 1},
        sysctls=[{"name": "a.b", "wanted": "1", "found": "0", "error": "read-only"}],
    )
    assert line(text, "repairs") == "repairs fdb 2, route 1"
    assert line(text, "sysctls") == "sysctls a.b=0 (!)"


def test_problems_and_skipped_records_are_shown_word_for_word() -> None:
    text = shown(
        skipped=[{"key": "/p/subnets/[bold]x", "reason": "value is '[red]': no lease"}],
        problems=[
            {"key": "lease", "text": "taken by [10.0.0.9]", "blocking": True, "since": NOW - 5},
            {"key": "etcd", "text": "away", "blocking": False, "since": NOW - 100_000},
        ],
    )
    assert "/p/subnets/[bold]x" in text
    assert "value is '[red]': no lease" in text
    rows = {row.split()[0]: " ".join(row.split()) for row in text.splitlines() if row.split()}
    assert "lease 5s taken by [10.0.0.9]" in " ".join(text.split())
    assert rows["etcd"] == "etcd 1d03h away"


def test_what_looks_like_markup_is_shown_as_it_is() -> None:
    """An interface's name or an IPv6 endpoint may well hold brackets."""
    text = shown(
        network__interface="e[b]0",
        etcd__endpoint="http://[fd00::1]:2379",
        lease__subnet="[i]10.1.33.0/24",
    )
    for word in ("e[b]0", "http://[fd00::1]:2379", "[i]10.1.33.0/24"):
        assert word in text


def test_of_very_many_peers_some_are_shown_and_the_rest_counted() -> None:
    peer = DOCUMENT["peers"][0]
    many = [peer | {"subnet": f"10.1.{third}.0/24"} for third in range(PEERS_SHOWN + 5)]
    text = shown(peers=many)
    assert line(text, "peers") == f"peers {PEERS_SHOWN + 5}"
    assert text.count("198.18.77.2") == PEERS_SHOWN
    assert "and 5 more" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (59.9, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"),
        (86_399, "23h59m"), (86_400, "1d00h"), (200_000, "2d07h"),
    ],
)  # fmt: skip
def test_spans_are_told_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert span(seconds) == text


@pytest.mark.parametrize(("since", "text"), [(None, "-"), (NOW - 61, "1m01s"), (NOW + 9, "0s")])
def test_ages_are_never_negative(since: float | None, text: str) -> None:
    assert age(since, NOW) == text
