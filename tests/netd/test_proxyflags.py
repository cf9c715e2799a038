"""kube-proxy's flags: those with a meaning work, the others are taken and told about."""

import os
import re

import pytest

from hostkit.config import ConfigError, Settings
from netd.config import load_settings
from netd.proxyflags import (
    OPTIONS,
    UNUSED,
    api_servers,
    listeners,
    node_name,
    node_port_ranges,
    notes,
)


def read(*argv: str, **environ: str) -> Settings:
    """The settings, without this machine's file."""
    return load_settings(argv, {"NETD_CONFIG": "/dev/null"} | environ)


PROXY: list[tuple[str, str, object]] = [
    ("master", "http://10.0.0.1:8080,10.0.0.2:8080", ("http://10.0.0.1:8080", "10.0.0.2:8080")),
    ("api-servers", "http://10.0.0.3:8080", ("http://10.0.0.3:8080",)),
    ("kubeconfig", "/etc/kubeconfig", "/etc/kubeconfig"),
    ("kube-token-file", "/token", "/token"),
    ("kube-cafile", "/ca.pem", "/ca.pem"),
    ("kube-certfile", "/cert.pem", "/cert.pem"),
    ("kube-keyfile", "/key.pem", "/key.pem"),
    ("hostname-override", " Node-1 ", "node-1"),
    ("cluster-cidr", "10.1.0.0/16", "10.1.0.0/16"),
    ("masquerade-all", "true", True),
    ("nodeport-addresses", "192.168.0.7/24,10.0.0.1/32", ("192.168.0.0/24", "10.0.0.1/32")),
    ("proxy-mode", "iptables", "iptables"),
    ("iptables-masquerade-bit", "10", 10),
    ("iptables-min-sync-period", "1m30s", 90.0),
    ("conntrack-max-per-core", "0", 0),
    ("conntrack-min", "65536", 65536),
    ("conntrack-tcp-timeout-established", "2h", 7200.0),
    ("conntrack-tcp-timeout-close-wait", "0", 0.0),
    ("healthz-bind-address", "127.0.0.1:10256", "127.0.0.1:10256"),
    ("metrics-bind-address", "[::1]:10249", "[::1]:10249"),
]
"""Every flag that means something, with a text and its value."""


@pytest.mark.parametrize(("name", "given", "value"), PROXY)
def test_every_flag_of_kube_proxy_with_a_meaning_is_taken_as_flag_and_as_variable(
    name: str, given: str, value: object
) -> None:
    assert read(f"--{name}={given}")[name] == value
    assert read(**{f"NETD_{name.upper().replace('-', '_')}": given})[name] == value


def test_no_flag_is_left_out_of_this_test() -> None:
    assert {name for name, _, _ in PROXY} == {one.name for one in OPTIONS if not one.hidden}


def test_both_flags_for_api_servers_feed_one_list_without_doubles() -> None:
    settings = read("--api-servers=c:1", "--master=a:1,b:1", "--api-servers=a:1,d:1")
    assert api_servers(settings) == ("a:1", "b:1", "c:1", "d:1")
    assert api_servers(read()) == ()


def test_the_node_s_name_is_the_host_s_in_lower_case_unless_given() -> None:
    assert node_name(read()) == os.uname().nodename.lower()
    assert node_name(read("--hostname-override=Minion-1")) == "minion-1"


def test_of_a_dual_stack_pair_the_ipv4_part_is_used() -> None:
    assert read("--cluster-cidr=10.1.0.0/16,fd00::/48")["cluster-cidr"] == "10.1.0.0/16"
    assert read("--cluster-cidr=")["cluster-cidr"] == ""


def test_ranges_for_node_ports_are_gathered_and_everything_means_no_limit() -> None:
    settings = read(
        "--nodeport-addresses=10.2.0.0/16,10.1.0.0/16", "--nodeport-addresses=fd00::/8,10.1.0.0/16"
    )
    assert node_port_ranges(settings) == ("10.1.0.0/16", "10.2.0.0/16")
    assert node_port_ranges(read("--nodeport-addresses=0.0.0.0/0,10.1.0.0/16")) == ()
    assert node_port_ranges(read()) == ()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--proxy-mode=ipvs", ["iptables only", "leave it out", "its own --cleanup"]),
        ("--proxy-mode=userspace", ["iptables only", "leave it out"]),
        ("--proxy-mode=nftables", ["iptables only", "iptables-nft"]),
        ("--proxy-mode=kernelspace", ["iptables only: leave it out"]),
        ("--iptables-masquerade-bit=12", ["another bit", "12 and 15"]),
        ("--iptables-masquerade-bit=15", ["another bit"]),
        ("--iptables-masquerade-bit=32", ["0 to 31"]),
        ("--iptables-min-sync-period=soon", ["a time such as 5s"]),
        ("--conntrack-min=-1", ["0 to 2147483647"]),
        ("--cluster-cidr=fd00::/48", ["IPv4 only"]),
        ("--cluster-cidr=10.1.0.0/16,10.2.0.0/16", ["one IPv4 network"]),
        ("--cluster-cidr=0.0.0.0/0", ["one IPv4 network that all pods are in"]),
        ("--cluster-cidr=10.1.0.0/33", ["IPv4 networks such as"]),
        ("--nodeport-addresses=primary", ["name the network of the host's address"]),
        ("--nodeport-addresses=eth0", ["IPv4 networks such as 192.168.0.0/24"]),
        ("--healthz-bind-address=localhost:10256", ["ADDRESS:PORT"]),
        ("--healthz-bind-address=0.0.0.0:0", ["ADDRESS:PORT"]),
        ("--metrics-bind-address=[::1", ["ADDRESS:PORT"]),
        ("--hostname-override=a b", ["name that this host has"]),
        ("--detect-local-mode=BridgeInterface", ["--cluster-cidr"]),
        ("--init-only", ["leave it out"]),
    ],
)
def test_a_mistake_is_refused_in_words_that_help(argv: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        read(argv)
    flag = argv.partition("=")[0]
    assert str(caught.value).startswith(f"flag {flag}: ")
    assert all(word in str(caught.value) for word in words), caught.value


OLD_UNIT = (
    "--logtostderr=true --v=0 --master=http://kube-master:8080 --proxy-mode=iptables "
    "--hostname-override=minion-1 --proxy-port-range=0-0 --resource-container=/kube-proxy "
    "--oom-score-adj=-999 --bind-address=0.0.0.0 --kube-api-qps=5 --kube-api-burst 10 "
    "--kube-api-content-type=application/json --feature-gates=A=true,B=false --udp-timeout 250ms "
    "--config-sync-period=15m --iptables-sync-period=30s --log_dir=/var/log --stderrthreshold=2 "
    "--alsologtostderr --cleanup-ipvs=false --detect-local-mode=ClusterCIDR --profiling"
)


def test_the_flags_of_an_old_unit_file_are_taken_and_each_without_use_is_told_once() -> None:
    settings = read(*OLD_UNIT.split())
    assert api_servers(settings) == ("http://kube-master:8080",)
    told = notes(settings)
    assert [note.split()[0] for note in told] == [
        flag
        for name in UNUSED
        for flag in [f"--{name}"]
        if re.search(rf"{flag}(?![\w-])", OLD_UNIT.replace("_", "-"))
    ]
    assert len(told) == 17
    assert "--log-dir is not used: netd logs to standard error, and --v says how much" in told


def test_without_such_flags_nothing_is_told() -> None:
    assert notes(read("--master=a:1", "--cluster-cidr=10.1.0.0/16")) == []


def test_a_variable_that_is_named_as_a_flag_without_use_is_nobody_s_business() -> None:
    """NETD_LOG_DIR may be an operator's own."""
    assert notes(read(NETD_LOG_DIR="/var/log", NETD_PROFILING="maybe")) == []


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        ("", ()),
        ("--healthz-port=8285", (("0.0.0.0", 8285),)),
        ("--healthz-port=8285 --healthz-ip=127.0.0.1", (("127.0.0.1", 8285),)),
        ("--healthz-bind-address=127.0.0.1:1", (("127.0.0.1", 1),)),
        ("--healthz-bind-address=127.0.0.1", (("127.0.0.1", 10256),)),
        ("--healthz-bind-address=127.0.0.1 --healthz-port=10249", (("127.0.0.1", 10249),)),
        ("--healthz-bind-address=127.0.0.1 --healthz-port=0", ()),
        ("--healthz-bind-address=0.0.0.0:5 --healthz-ip=0.0.0.0", (("0.0.0.0", 5),)),
        ("--metrics-bind-address=127.0.0.1", (("127.0.0.1", 10249),)),
        (
            "--healthz-bind-address=0.0.0.0:10256 --metrics-bind-address=127.0.0.1:10249",
            (("0.0.0.0", 10256), ("127.0.0.1", 10249)),
        ),
        ("--healthz-port=9 --metrics-bind-address=0.0.0.0:9", (("0.0.0.0", 9),)),
        ("--healthz-bind-address=[::]:9 --metrics-bind-address=::1", (("::", 9), ("::1", 10249))),
    ],
)
def test_flannel_s_and_kube_proxy_s_flags_give_the_same_health_views(
    argv: str, expected: tuple[tuple[str, int], ...]
) -> None:
    assert listeners(read(*argv.split())) == expected


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        ("--healthz-bind-address=127.0.0.1:10256 --healthz-port=8285", "healthz-port"),
        ("--healthz-bind-address=127.0.0.1:10256 --healthz-port=0", "healthz-port"),
        ("--healthz-bind-address=127.0.0.1 --healthz-ip=10.0.0.1", "healthz-ip"),
    ],
)
def test_flags_for_the_health_views_that_contradict_each_other_are_refused(
    argv: str, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"flag --{name}: .* leave one of them out"):
        listeners(read(*argv.split()))
