"""netd's settings: flannel's and kube-proxy's flags under their names, and a few of our own."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from hostkit.config import (
    ConfigError,
    Option,
    Settings,
    boolean,
    choice,
    comma_list,
    integer,
    load,
    parse_flags,
    text,
)
from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.errors import EtcdConfigError
from netd import proxyflags
from netd.leases.model import is_host_address

CONFIG_FILE = "/etc/netd/netd.toml"
_ENVIRONMENT = ("FLANNELD_", "NETD_")
_PROXY_FILE = re.compile(r"""^\s*["']?kind["']?:\s*["']?KubeProxyConfiguration\b""", re.MULTILINE)


def _address(value: str) -> IPv4Address | None:
    if not value:
        return None
    rule = "use an IPv4 address that a host can have, such as 192.168.0.201"
    try:
        address = IPv4Address(value)
    except ValueError:
        raise ValueError(rule) from None
    if not is_host_address(address):
        raise ValueError(rule)
    return address


def _absent(value: str) -> str:
    if value:
        raise ValueError("netd carries IPv4 only, leave it out")
    return ""


def _no(value: str) -> bool:
    if boolean(value):
        raise ValueError(
            "netd keeps leases in etcd and not in the Kubernetes API, use --etcd-endpoints"
        )
    return False


OPTIONS: tuple[Option, ...] = (
    Option("config", text, CONFIG_FILE, "file with settings, TOML", "FILE"),
    Option("overlay", choice("on", "off"), "on", "keep this host in the overlay", "on|off"),
    Option(
        "services", choice("on", "off", "auto"), "auto",
        "balance services; auto does when an API server is named", "on|off|auto",
    ),
    Option(
        "etcd-endpoints", comma_list, ("http://127.0.0.1:4001", "http://127.0.0.1:2379"),
        "etcd's client URLs, separated by commas", "URLS",
    ),
    Option("etcd-prefix", text, "/coreos.com/network", "where flannel's keys are in etcd", "KEY"),
    Option("etcd-cafile", text, "", "CA that signed etcd's certificates", "FILE"),
    Option("etcd-certfile", text, "", "client certificate for etcd", "FILE"),
    Option("etcd-keyfile", text, "", "key of the client certificate", "FILE"),
    Option("etcd-username", text, "", "user name for etcd", "NAME"),
    Option("etcd-password", text, "", "password for etcd", "TEXT", secret=True),
    Option(
        "iface", comma_list, (), "interface of the overlay, by name or address; may be repeated, "
        "the first that exists is used (default: that of the default route)", "IFACE", repeat=True,
    ),
    Option(
        "iface-regex", comma_list, (), "the same by a regular expression on names and addresses",
        "REGEX", repeat=True,
    ),
    Option("iface-can-reach", text, "", "the interface that reaches this address", "ADDRESS"),
    Option("public-ip", _address, None, "address at which other hosts reach this one", "ADDRESS"),
    Option("public-ipv6", _absent, "", "not supported", hidden=True),
    Option(
        "subnet-file", text, "/run/flannel/subnet.env", "file that tells subnet and MTU", "FILE"
    ),
    Option(
        "subnet-lease-renew-margin", integer(1, 1439), 60,
        "accepted for flannel's sake: netd renews its lease every minute", "MINUTES",
    ),
    Option("ip-masq", boolean, False, "hide containers behind the host towards other networks"),
    Option(
        "iptables-resync", integer(1, 3600), 5,
        "seconds between looks at the rules where changes cannot be noticed otherwise", "SECONDS",
    ),
    Option(
        "iptables-forward-rules", boolean, True, "accept the overlay's packets in FORWARD"
    ),
    Option(
        "iptables-variant", choice("auto", "nft", "legacy"), "auto",
        "which iptables to use: auto takes the one that carries rules", "NAME",
    ),
    Option("healthz-ip", text, "0.0.0.0", "address for the health views over TCP", "ADDRESS"),  # noqa: S104 - flannel's default; the port is off by default
    Option(
        "healthz-port", integer(0, 65535), 0, "port for the health views over TCP, 0 for none",
        "PORT",
    ),
    Option(
        "net-config-path", text, "",
        "file with the network configuration, put into etcd when there is none yet", "FILE",
    ),
    Option("kube-subnet-mgr", _no, False, "not supported", hidden=True),
    Option(
        "allow-renumber", boolean, False,
        "take another subnet when ours is lost, although containers may run on it",
    ),
    Option("bridge", text, "docker0", "bridge for Docker's containers, none to leave it", "NAME"),
    Option(
        "docker-env-file", text, "/run/docker_opts.env", "file with DOCKER_OPTS for dockerd",
        "FILE",
    ),
    Option(
        "docker-drop-in", text, "/run/systemd/system/docker.service.d/50-netd.conf",
        "systemd drop-in that makes dockerd read that file, empty for none", "FILE",
    ),
    Option("docker-socket", text, "/var/run/docker.sock", "where Docker answers", "SOCKET"),
    Option("state-dir", text, "/var/lib/netd", "what has to survive a reboot", "DIR"),
    Option("run-dir", text, "/run/netd", "control socket", "DIR"),
    Option("v", integer(0, 10), 0, "log verbosity: 0 normal, 1 more, 2 with traces", "LEVEL"),
    Option(
        "print-config", boolean, False, "print each setting with its origin and stop",
        flag_only=True,
    ),
    Option("json", boolean, False, "print JSON, for programs", flag_only=True),
    Option("version", boolean, False, "print the version and stop", flag_only=True),
    Option("help", boolean, False, "print this and stop", flag_only=True),
    Option("h", boolean, False, "print this and stop", hidden=True, flag_only=True),
    *proxyflags.ALL,
)  # fmt: skip


def load_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings from all layers; raises ConfigError."""
    _refuse_proxy_file(argv, environ)
    return load(OPTIONS, argv, environ, env_prefixes=_ENVIRONMENT)


def _refuse_proxy_file(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """kube-proxy's --config names a YAML file; netd's flag of that name takes another format."""
    variables = [environ.get(f"{prefix}CONFIG", "") for prefix in _ENVIRONMENT]
    given = [name for name in variables if name] + parse_flags(OPTIONS, argv)[0].get("config", [])
    if not given:
        return
    content = ""
    # What cannot be read at all is named when it is loaded; a pipe can be read only once.
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if Path(given[-1]).is_file():
            content = Path(given[-1]).read_text(encoding="utf-8")
    if _PROXY_FILE.search(content):
        raise ConfigError(
            f"{given[-1]}: this is kube-proxy's KubeProxyConfiguration in YAML, netd reads TOML: "
            "write its settings under the names of kube-proxy's flags, "
            'for example cluster-cidr = "10.1.0.0/16"'
        )


@dataclass(frozen=True, slots=True)
class Halves:
    """Which halves of netd are switched on."""

    overlay: bool
    services: bool


def halves_to_run(settings: Settings) -> Halves:
    """What ``netd run`` keeps up; raises ConfigError when that is nothing or cannot be."""
    has_server = bool(proxyflags.api_servers(settings) or settings["kubeconfig"])
    if settings["services"] == "on" and not has_server:
        raise ConfigError(
            f"{settings.origins['services']}: services is on, but no API server is named: "
            "use --master or --kubeconfig"
        )
    wanted = _halves(settings, services=settings["services"] != "off" and has_server)
    if wanted != Halves(overlay=False, services=False):
        return wanted
    raise ConfigError("overlay is off and no API server is named: use --master or --kubeconfig")


def halves_to_clean(settings: Settings) -> Halves:
    """What ``netd cleanup`` removes: all that is not switched off; raises ConfigError."""
    return _halves(settings, services=settings["services"] != "off")


def _halves(settings: Settings, *, services: bool) -> Halves:
    overlay = settings["overlay"] == "on"
    if not overlay and settings["services"] == "off":
        raise ConfigError("overlay and services are both off, so there is nothing to do")
    return Halves(overlay=overlay, services=services)


def etcd_config(settings: Settings) -> EtcdConfig:
    """The etcd part; raises ConfigError naming the flag and where it was set."""
    try:
        return EtcdConfig(
            endpoints=settings["etcd-endpoints"],
            cafile=settings["etcd-cafile"],
            certfile=settings["etcd-certfile"],
            keyfile=settings["etcd-keyfile"],
            username=settings["etcd-username"],
            password=settings["etcd-password"],
        )
    except EtcdConfigError as error:
        origin = settings.origins.get(f"etcd-{error.field}", "")
        raise ConfigError(f"{origin}: etcd-{error}".lstrip(": ")) from error
