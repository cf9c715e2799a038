"""kube-proxy's flags under kube-proxy's names, so that a unit file written for it goes on working.

Names and defaults are those of cmd/kube-proxy in Kubernetes 1.0 to 1.32. Flags that have no
meaning here are taken, and ``notes`` says why each is not used.
"""

import os
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from hostkit.config import (
    ConfigError,
    Option,
    Settings,
    boolean,
    comma_list,
    duration,
    integer,
    text,
)

HEALTHZ_PORT, METRICS_PORT = 10256, 10249
"""kube-proxy's ports for an address that comes without one."""


def _networks(value: str) -> tuple[str, ...]:
    """The IPv4 networks of a list; a dual-stack list may also hold IPv6 ones."""
    found: list[IPv4Network | IPv6Network] = []
    for item in comma_list(value):
        try:
            found.append(ip_network(item, strict=False))
        except ValueError:
            raise ValueError("use IPv4 networks such as 192.168.0.0/24") from None
    ours = tuple(str(one) for one in found if isinstance(one, IPv4Network))
    if found and not ours:
        raise ValueError("netd carries IPv4 only, use an IPv4 network such as 192.168.0.0/24")
    return ours


def _cluster_cidr(value: str) -> str:
    networks = _networks(value)
    if len(networks) > 1 or "0.0.0.0/0" in networks:
        raise ValueError("use the one IPv4 network that all pods are in, such as 10.1.0.0/16")
    return networks[0] if networks else ""


def _node_port_ranges(value: str) -> tuple[str, ...]:
    if value.strip() == "primary":
        raise ValueError("name the network of the host's address instead, such as 192.168.0.0/24")
    return _networks(value)


def _mark_bit(value: str) -> int:
    number: int = integer(0, 31)(value)
    if number in {12, 15}:
        raise ValueError("use another bit: 12 and 15 mark packets that are refused or dropped")
    return number


def _mode(value: str) -> str:
    if value in {"", "iptables"}:
        return "iptables"
    advice = {
        "userspace": "leave it out, the same services work without a process in the way",
        "ipvs": "leave it out, the chains stay short however many services there are; "
        "remove kube-proxy's ipvs rules with its own --cleanup",
        "nftables": "leave it out, where iptables is iptables-nft the rules are in nftables",
    }
    raise ValueError(f"netd balances with iptables only: {advice.get(value, 'leave it out')}")


def _detect(value: str) -> str:
    if value not in {"", "ClusterCIDR"}:
        raise ValueError("netd knows pods by their network: leave it out and use --cluster-cidr")
    return value


def _listener(value: str) -> str:
    if value:
        try:
            _split(value)
        except ValueError:
            raise ValueError("use ADDRESS or ADDRESS:PORT, such as 0.0.0.0:10256") from None
    return value


def _split(value: str) -> tuple[str, int | None]:
    """Address and port; the port is None when there is none. Raises ValueError."""
    has_port = value.count(":") == 1 or (value.startswith("[") and not value.endswith("]"))
    host, port = (value.rpartition(":")[0], value.rpartition(":")[2]) if has_port else (value, "")
    address = str(ip_address(host.removeprefix("[").removesuffix("]")))
    return address, int(integer(1, 65535)(port)) if has_port else None


def _host_name(value: str) -> str:
    name = value.strip().lower()
    if (value and not name) or len(name.split()) > 1:
        raise ValueError("use the name that this host has in the cluster")
    return name


def _not_init_only(value: str) -> bool:
    if boolean(value):
        raise ValueError("netd sets up and keeps up in one process, leave it out")
    return False


OPTIONS: tuple[Option, ...] = (
    Option(
        "master", comma_list, (), "URLs of the Kubernetes API server, separated by commas; the "
        "first that answers is used", "URLS",
    ),
    Option("api-servers", comma_list, (), "more of them", "URLS", repeat=True),
    Option("kubeconfig", text, "", "file with API server and credentials", "FILE"),
    Option("kube-token-file", text, "", "file with a bearer token for the API server", "FILE"),
    Option("kube-cafile", text, "", "CA that signed the API server's certificate", "FILE"),
    Option("kube-certfile", text, "", "client certificate for the API server", "FILE"),
    Option("kube-keyfile", text, "", "key of that client certificate", "FILE"),
    Option(
        "hostname-override", _host_name, "", "this host's name in the cluster (default: its host "
        "name)", "NAME",
    ),
    Option("cluster-cidr", _cluster_cidr, "", "network of all pods (default: the overlay's)",
           "CIDR"),
    Option(
        "masquerade-all", boolean, False, "hide every client of a service behind this host",
    ),
    Option(
        "nodeport-addresses", _node_port_ranges, (), "networks in which an address of this host "
        "has to be to serve node ports; may be repeated (default: all)", "CIDRS", repeat=True,
    ),
    Option("proxy-mode", _mode, "iptables", "how to balance, iptables", "NAME"),
    Option(
        "iptables-masquerade-bit", _mark_bit, 14, "bit of the packet mark that asks for "
        "masquerading, 0 to 31", "BIT",
    ),
    Option(
        "iptables-min-sync-period", duration, 0.0, "shortest time between two syncs of the rules",
        "TIME",
    ),
    Option(
        "conntrack-max-per-core", integer(0, 2**31 - 1), 32768,
        "connections to track for each CPU, 0 to leave the limit", "NUMBER",
    ),
    Option(
        "conntrack-min", integer(0, 2**31 - 1), 131072, "connections to track at least", "NUMBER"
    ),
    Option(
        "conntrack-tcp-timeout-established", duration, 86400.0,
        "how long an idle connection is tracked, 0 to leave it", "TIME",
    ),
    Option(
        "conntrack-tcp-timeout-close-wait", duration, 3600.0,
        "how long a half-closed connection is tracked, 0 to leave it", "TIME",
    ),
    Option(
        "healthz-bind-address", _listener, "", "address and port for the health views over TCP",
        "ADDRESS:PORT",
    ),
    Option(
        "metrics-bind-address", _listener, "", "another one, with the same views", "ADDRESS:PORT"
    ),
    Option("detect-local-mode", _detect, "", "only ClusterCIDR", hidden=True, flag_only=True),
    Option("init-only", _not_init_only, False, "not supported", hidden=True, flag_only=True),
    Option("cleanup", boolean, False, "netd cleanup", hidden=True, flag_only=True),
    Option("cleanup-iptables", boolean, False, "netd cleanup", hidden=True, flag_only=True),
)  # fmt: skip

_UNUSED: tuple[tuple[str, str, str], ...] = (
    (
        "netd logs to standard error, and --v says how much",
        "log-dir log-file log-file-max-size log-backtrace-at log-flush-frequency logging-format "
        "stderrthreshold vmodule",
        "alsologtostderr logtostderr one-output skip-headers skip-log-headers add-dir-header",
    ),
    (
        "it belongs to kube-proxy's userspace mode",
        "proxy-port-range udp-timeout",
        "",
    ),
    (
        "it belongs to kube-proxy's ipvs mode",
        "ipvs-exclude-cidrs ipvs-min-sync-period ipvs-scheduler ipvs-sync-period "
        "ipvs-tcp-timeout ipvs-tcpfin-timeout ipvs-udp-timeout",
        "cleanup-ipvs ipvs-strict-arp",
    ),
    (
        "netd lists once and watches from then on, at no set rate",
        "kube-api-qps kube-api-burst kube-api-content-type config-sync-period",
        "",
    ),
    (
        "changes by others are noticed when they happen; see --iptables-resync",
        "iptables-sync-period",
        "",
    ),
    ("netd has no such gates", "feature-gates show-hidden-metrics-for-version", ""),
    ("netd --print-config shows the settings", "write-config-to", ""),
    ("the unit file can say it (Slice=, OOMScoreAdjust=)", "resource-container oom-score-adj", ""),
    ("give --metrics-bind-address the port", "metrics-port", ""),
    ("an address that cannot be used is named by netd status", "", "bind-address-hard-fail"),
    ("netd opens no port for services", "bind-address", ""),
    ("netd has no profiling view", "", "profiling"),
    ("netd knows pods by --cluster-cidr", "pod-bridge-interface pod-interface-name-prefix", ""),
    (
        "node ports are never open on 127.0.0.1, where every local program could reach them",
        "",
        "iptables-localhost-nodeports",
    ),
    ("use --conntrack-max-per-core and --conntrack-min", "conntrack-max", ""),
    (
        "set the sysctl net.netfilter.nf_conntrack_... itself",
        "conntrack-udp-timeout conntrack-udp-timeout-stream",
        "conntrack-tcp-be-liberal",
    ),
    (
        "use --kubeconfig or --kube-token-file",
        "google-json-key azure-container-registry-config",
        "",
    ),
)
"""Why not, flags with a value, flags that stand alone."""


def _unused() -> Iterator[tuple[Option, str]]:
    for why, valued, switches in _UNUSED:
        for names, parse, default in ((valued, text, ""), (switches, boolean, False)):
            for name in names.split():
                yield Option(name, parse, default, "not used", hidden=True, flag_only=True), why


UNUSED = {option.name: why for option, why in _unused()}
"""Flags that are taken and not used, with the reason."""

ALL = OPTIONS + tuple(option for option, _ in _unused())


def notes(settings: Settings) -> list[str]:
    """A sentence for each flag that was given and is not used."""
    return [
        f"--{name} is not used: {why}"
        for name, why in UNUSED.items()
        if settings.origins[name] != "default"
    ]


def api_servers(settings: Settings) -> tuple[str, ...]:
    """The API servers that flags name, in their order."""
    return tuple(dict.fromkeys((*settings["master"], *settings["api-servers"])))


def node_port_ranges(settings: Settings) -> tuple[str, ...]:
    """Where node ports are served, as canonical networks; empty for everywhere."""
    ranges: tuple[str, ...] = settings["nodeport-addresses"]
    return () if "0.0.0.0/0" in ranges else tuple(sorted(set(ranges)))


def node_name(settings: Settings) -> str:
    """This host's name in the cluster: names of nodes are in lower case."""
    override: str = settings["hostname-override"]
    return override or os.uname().nodename.lower()


def listeners(settings: Settings) -> tuple[tuple[str, int], ...]:
    """Where the health views are served over TCP; raises ConfigError for a contradiction."""
    found = dict.fromkeys(_healthz(settings))
    if settings["metrics-bind-address"]:
        host, port = _split(settings["metrics-bind-address"])
        found[host, port or METRICS_PORT] = None
    return tuple(found)


def _healthz(settings: Settings) -> Iterator[tuple[str, int]]:
    """flannel's two flags and kube-proxy's one speak of the same listener."""
    port: int = settings["healthz-port"]
    if not settings["healthz-bind-address"]:
        if port:
            yield settings["healthz-ip"], port
        return
    host, given = _split(settings["healthz-bind-address"])
    for name, value in (("healthz-ip", host), ("healthz-port", given)):
        origin = settings.origins[name]
        if origin != "default" and value is not None and str(settings[name]) != str(value):
            raise ConfigError(
                f"{origin}: {name} is {settings[name]}, but healthz-bind-address says {value}: "
                "leave one of them out"
            )
    if given is None:
        given = HEALTHZ_PORT if settings.origins["healthz-port"] == "default" else port
    if given:
        yield host, given
