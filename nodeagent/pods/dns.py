"""What a pod's resolv.conf says, from dnsPolicy, dnsConfig and the node's own file.

Limits are those of resolv.conf(5) in glibc before 2.26, which images still carry: 3 servers,
6 search domains, 256 characters of them; more are left out with a warning, as the resolver would
leave them out without one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

from nodeagent.pods.host import Host
from nodeagent.pods.model import DnsConfig, Pod

MOST_SERVERS = 3
MOST_SEARCHES = 6
MOST_SEARCH_CHARACTERS = 256
"""Length of the whole search list, with a space between domains."""

NDOTS = "ndots:5"
"""So that ``service.namespace.svc`` is looked for below the cluster's domain first."""

NO_SEARCHES = (".",)
"""What Docker's HostConfig.DnsSearch has to hold so that there is none; empty means the host's."""

NO_OPTIONS = ("",)
"""The same for HostConfig.DnsOptions, seen with Docker 20.10."""

LOCAL_SERVER = "127.0.0.1"
"""What resolv.conf(5) means when it names no server; Docker would put public ones in its place."""


@dataclass(frozen=True, slots=True)
class Dns:
    """Lines of resolv.conf(5): addresses, domains, and options such as ``ndots:5``."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(slots=True)
class _Lists:
    servers: list[str] = field(default_factory=list)
    searches: list[str] = field(default_factory=list)
    options: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> Dns:
    """What resolv.conf(5) *text* says; the last ``search`` or ``domain`` counts, as there."""
    servers: list[str] = []
    searches: list[str] = []
    options: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if not words or words[0].startswith(("#", ";")):
            continue
        keyword, values = words[0], words[1:]
        if keyword == "nameserver" and values:
            servers.append(values[0])
        elif keyword == "search":
            searches = [_domain(value) for value in values]
        elif keyword == "domain" and values:
            searches = [_domain(values[0])]
        elif keyword == "options":
            options.extend(values)
    return Dns(tuple(servers), tuple(searches), tuple(options))


def dns_for(pod: Pod, host: Host, resolv_conf_text: str) -> tuple[Dns, tuple[str, ...]]:
    """The resolver settings of *pod*, and sentences about what could not be done as asked.

    *resolv_conf_text* is the content of ``host.resolv_conf``, "" when it cannot be read.
    """
    node = parse(resolv_conf_text)
    warnings: list[str] = []
    policy = _policy(pod, host, warnings)
    lists = _Lists()
    if policy == "ClusterFirst":
        lists.servers = list(host.cluster_dns)
        lists.searches = [*_cluster_searches(pod, host), *node.searches]
        _merge_options(lists, [NDOTS])
    elif policy == "Default":
        lists.servers = list(node.nameservers)
        lists.searches = list(node.searches)
        _merge_options(lists, node.options)
    _add(lists, pod.spec.dns_config)
    if not lists.servers:
        warnings.append(_no_server(policy, host))
        lists.servers = [LOCAL_SERVER]
    elif policy == "Default" and not pod.spec.host_network:
        _warn_of_loopback(node, host, warnings)
    servers = _limited(_unique(lists.servers), MOST_SERVERS, "nameservers", warnings)
    searches = _limited(_unique(lists.searches), MOST_SEARCHES, "search domains", warnings)
    searches = _short(searches, warnings)
    options = tuple(f"{name}:{value}" if value else name for name, value in lists.options.items())
    return Dns(servers, searches, options), tuple(warnings)


def resolv_text(dns: Dns) -> str:
    """*dns* as the text of a resolv.conf."""
    lines = [f"nameserver {server}" for server in dns.nameservers]
    if dns.searches:
        lines.append(f"search {' '.join(dns.searches)}")
    if dns.options:
        lines.append(f"options {' '.join(dns.options)}")
    return "".join(f"{line}\n" for line in lines)


def engine_lists(dns: Dns) -> dict[str, list[str]]:
    """``Dns``, ``DnsSearch`` and ``DnsOptions`` of a sandbox's HostConfig (Docker Engine API 1.41).

    An empty list there would mean the host's own lines.
    """
    return {
        "Dns": list(dns.nameservers or (LOCAL_SERVER,)),
        "DnsSearch": list(dns.searches or NO_SEARCHES),
        "DnsOptions": list(dns.options or NO_OPTIONS),
    }


def _policy(pod: Pod, host: Host, warnings: list[str]) -> str:
    asked = pod.spec.dns_policy or "ClusterFirst"
    if asked in ("None", "Default"):
        return asked
    if asked == "ClusterFirst" and pod.spec.host_network:
        return "Default"
    if host.cluster_dns:
        return "ClusterFirst"
    warnings.append(
        f"dnsPolicy {asked} needs the address of the cluster's DNS service, and --cluster-dns is "
        "not set on this node: the node's own resolver is used, as with dnsPolicy Default"
    )
    return "Default"


def _cluster_searches(pod: Pod, host: Host) -> list[str]:
    domain = host.cluster_domain.strip(".")
    if not domain:
        return []
    return [f"{pod.metadata.namespace}.svc.{domain}", f"svc.{domain}", domain]


def _add(lists: _Lists, config: DnsConfig | None) -> None:
    if config is None:
        return
    lists.servers.extend(config.nameservers)
    lists.searches.extend(_domain(search) for search in config.searches)
    for option in config.options:
        lists.options[option.name] = option.value or ""


def _merge_options(lists: _Lists, options: Iterable[str]) -> None:
    for option in options:
        name, _, value = option.partition(":")
        lists.options[name] = value


def _domain(text: str) -> str:
    return text.rstrip(".") or "."


def _unique(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(values))


def _limited(values: tuple[str, ...], most: int, what: str, warnings: list[str]) -> tuple[str, ...]:
    if len(values) > most:
        warnings.append(
            f"of {len(values)} {what} only the first {most} are used, a resolver reads no more: "
            f"{', '.join(values[most:])} left out"
        )
    return values[:most]


def _short(searches: tuple[str, ...], warnings: list[str]) -> tuple[str, ...]:
    kept = searches
    while len(" ".join(kept)) > MOST_SEARCH_CHARACTERS:
        kept = kept[:-1]
    if kept != searches:
        warnings.append(
            f"the search domains are longer than {MOST_SEARCH_CHARACTERS} characters together: "
            f"{', '.join(searches[len(kept) :])} left out"
        )
    return kept


def _no_server(policy: str, host: Host) -> str:
    if policy == "None":
        return "dnsPolicy None without dnsConfig.nameservers: no name can be looked up in the pod"
    return f"{host.resolv_conf} names no nameserver: no name can be looked up in the pod"


def _warn_of_loopback(node: Dns, host: Host, warnings: list[str]) -> None:
    local = [server for server in node.nameservers if _is_loopback(server)]
    if local:
        warnings.append(
            f"{', '.join(local)} in {host.resolv_conf} is this node's own resolver, which a pod "
            "with its own network cannot reach: give --resolv-conf a file with the real "
            "nameservers, such as /run/systemd/resolve/resolv.conf"
        )


def _is_loopback(server: str) -> bool:
    try:
        return ip_address(server.partition("%")[0]).is_loopback
    except ValueError:
        return False
