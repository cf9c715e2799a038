"""What a pod's resolv.conf says."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodeagent.pods.dns import Dns, dns_for, engine_lists, parse, resolv_text
from nodeagent.pods.host import Host
from nodeagent.pods.model import Pod, decode

HOST = Host("n1", "192.0.2.1", "n1", Path("/x"), cluster_dns=("10.0.0.10",))
NODE = "nameserver 192.0.2.53\nsearch example.org corp\noptions timeout:2 rotate\n"
SERVERS = [f"192.0.2.{number}" for number in range(1, 7)]


def pod(**spec: Any) -> Pod:
    return decode({"metadata": {"name": "web", "namespace": "shop", "uid": "u"}, "spec": spec})


def made(host: Host = HOST, text: str = NODE, **spec: Any) -> Dns:
    dns, warnings = dns_for(pod(**spec), host, text)
    assert warnings == ()
    return dns


def test_cluster_first_asks_the_cluster_and_searches_its_domains_before_the_nodes() -> None:
    assert made() == Dns(
        ("10.0.0.10",),
        ("shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "example.org", "corp"),
        ("ndots:5",),
    )


def test_a_pod_in_the_hosts_network_has_the_nodes_resolver() -> None:
    assert made(hostNetwork=True) == parse(NODE)


def test_a_pod_in_the_hosts_network_gets_the_clusters_when_it_asks_for_it() -> None:
    asked = made(hostNetwork=True, dnsPolicy="ClusterFirstWithHostNet")
    assert asked.nameservers == ("10.0.0.10",)


def test_default_is_the_nodes_own_file() -> None:
    assert made(dnsPolicy="Default") == Dns(
        ("192.0.2.53",), ("example.org", "corp"), ("timeout:2", "rotate")
    )


def test_none_has_only_what_the_pod_says() -> None:
    config = {
        "nameservers": ["192.0.2.9"],
        "searches": ["a.example."],
        "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}],
    }
    assert made(dnsPolicy="None", dnsConfig=config) == Dns(
        ("192.0.2.9",), ("a.example",), ("ndots:2", "edns0")
    )


def test_the_pods_settings_come_after_the_policys_and_its_options_replace_them() -> None:
    config = {
        "nameservers": ["192.0.2.9", "10.0.0.10"],
        "searches": ["corp", "own.example"],
        "options": [{"name": "ndots", "value": "1"}],
    }
    dns = made(dnsConfig=config)
    assert dns.nameservers == ("10.0.0.10", "192.0.2.9")
    assert dns.searches[-2:] == ("corp", "own.example")
    assert dns.options == ("ndots:1",)


@pytest.mark.parametrize(
    ("settings_of_pod", "words"),
    [
        ({"dnsConfig": {"nameservers": SERVERS}}, "192.0.2.3, 192.0.2.4, 192.0.2.5, 192.0.2.6"),
        ({"dnsConfig": {"searches": ["a", "b", "c"]}}, "b, c left out"),
        ({"dnsConfig": {"searches": ["a" * 250]}}, "longer than 256"),
        ({"dnsPolicy": "None"}, "dnsConfig.nameservers"),
    ],
)
def test_what_is_left_out_is_said(settings_of_pod: dict[str, Any], words: str) -> None:
    _, warnings = dns_for(pod(**settings_of_pod), HOST, NODE)
    assert len(warnings) == 1
    assert words in warnings[0]


def test_without_cluster_dns_the_nodes_resolver_is_used_and_the_flag_is_named() -> None:
    dns, warnings = dns_for(pod(), replace(HOST, cluster_dns=()), NODE)
    assert dns == parse(NODE)
    assert "--cluster-dns" in warnings[0]


def test_a_resolver_of_the_node_itself_is_warned_of_unless_the_pod_shares_its_network() -> None:
    text = "nameserver 127.0.0.53\n"
    _, warnings = dns_for(pod(dnsPolicy="Default"), HOST, text)
    assert "127.0.0.53" in warnings[0]
    assert "--resolv-conf" in warnings[0]
    assert made(text=text, dnsPolicy="Default", hostNetwork=True).nameservers == ("127.0.0.53",)


def test_a_file_without_nameserver_means_the_local_one_as_resolv_conf_5_says() -> None:
    dns, warnings = dns_for(pod(dnsPolicy="Default"), HOST, "")
    assert dns.nameservers == ("127.0.0.1",)
    assert "/etc/resolv.conf" in warnings[0]


def test_comments_domain_and_repeated_lines_are_read_as_the_resolver_does() -> None:
    text = "# x\n;y\ndomain a.b.\nsearch c\nsearch d e\nnameserver 1.1.1.1 # z\nnameserver\nfoo\n"
    assert parse(text) == Dns(("1.1.1.1",), ("d", "e"), ())


def test_the_engine_is_never_given_an_empty_list_which_would_mean_the_hosts() -> None:
    assert engine_lists(Dns()) == {"Dns": ["127.0.0.1"], "DnsSearch": ["."], "DnsOptions": [""]}
    assert engine_lists(Dns(("1.1.1.1",), ("a",), ("ndots:5",))) == {
        "Dns": ["1.1.1.1"], "DnsSearch": ["a"], "DnsOptions": ["ndots:5"],
    }  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.sampled_from(["ClusterFirst", "Default", "None"]), st.booleans())
def test_any_file_of_the_node_gives_a_file_within_the_limits(
    text: str, policy: str, host_network: bool
) -> None:
    dns, _ = dns_for(pod(dnsPolicy=policy, hostNetwork=host_network), HOST, text)
    assert 1 <= len(dns.nameservers) <= 3
    assert len(dns.searches) <= 6
    assert parse(resolv_text(dns)).nameservers == dns.nameservers


def test_the_text_can_be_read_back() -> None:
    assert parse(resolv_text(made())) == made()
