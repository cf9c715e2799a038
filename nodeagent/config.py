"""nodeagent's settings: the kubelet's flags under their names, and a few of our own.

``--config`` is the kubelet's old flag of that name, the folder or file of manifests; the file
with settings is ``--settings``.
"""

import contextlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from hostkit.config import (
    ConfigError,
    Option,
    Settings,
    boolean,
    choice,
    comma_list,
    duration,
    integer,
    load,
    text,
)
from nodeagent import kubeletflags
from nodeagent import settingtext as texts

if TYPE_CHECKING:
    # These take longer to import than status takes to answer.
    from fractions import Fraction

    from hostkit.kube.config import KubeConfig
    from nodeagent.node.pressure import Threshold

T = TypeVar("T")

SETTINGS_FILE = "/etc/nodeagent/nodeagent.toml"
_ENVIRONMENT = ("KUBELET_", "NODEAGENT_")
_KUBELET_FILE = re.compile(r"""^\s*["']?kind["']?:\s*["']?KubeletConfiguration\b""", re.MULTILINE)

OPTIONS: tuple[Option, ...] = (
    Option("settings", text, SETTINGS_FILE, "file with settings, TOML", "FILE"),
    Option(
        "config", text, "", "folder or file with manifests of pods to run, JSON or YAML", "PATH"
    ),
    Option("pod-manifest-path", text, "", "the same", "PATH"),
    Option(
        "file-check-frequency", texts.period, 20.0, "how often manifests are looked at besides "
        "being watched", "TIME",
    ),
    Option(
        "api-servers", comma_list, (), "URLs of the Kubernetes API server, separated by commas; "
        "the first that answers is used", "URLS", repeat=True,
    ),
    Option("kubeconfig", text, "", "file with API server and credentials", "FILE"),
    Option("kube-token-file", text, "", "file with a bearer token for the API server", "FILE"),
    Option("kube-cafile", text, "", "CA that signed the API server's certificate", "FILE"),
    Option("kube-certfile", text, "", "client certificate for the API server", "FILE"),
    Option("kube-keyfile", text, "", "key of that client certificate", "FILE"),
    Option(
        "hostname-override", texts.node_name, "", "this node's name (default: its host name)",
        "NAME",
    ),
    Option(
        "node-ip", texts.node_ip, "", "this node's IPv4 address (default: that of the default "
        "route)", "ADDRESS",
    ),
    Option("register-node", boolean, True, "make a Node object for this host"),
    Option("register-schedulable", boolean, True, "make it one that takes pods"),
    Option(
        "register-with-taints", texts.taints, (), "taints of a new Node object, KEY=VALUE:EFFECT",
        "TAINTS", repeat=True,
    ),
    Option("node-labels", texts.labels, (), "labels of the Node object", "LABELS", repeat=True),
    Option(
        "node-status-update-frequency", texts.period, 10.0, "time between two signs of life",
        "TIME",
    ),
    Option("max-pods", integer(1, 10_000), 110, "pods that this node takes", "NUMBER"),
    Option(
        "system-reserved", texts.reserved, (), "what pods leave to the system, such as "
        "cpu=500m,memory=1Gi", "AMOUNTS", repeat=True,
    ),
    Option(
        "kube-reserved", texts.reserved, (), "what pods leave to Docker and nodeagent", "AMOUNTS",
        repeat=True,
    ),
    Option(
        "eviction-hard", texts.eviction, "memory.available<100Mi,nodefs.available<10%,"
        "nodefs.inodesFree<5%,imagefs.available<15%",
        "when pods are evicted, empty for never", "SIGNALS",
    ),
    Option(
        "eviction-pressure-transition-period", duration, 300.0, "how long pressure is shown after "
        "it ended", "TIME",
    ),
    Option(
        "docker-endpoint", texts.unix_socket, "/var/run/docker.sock", "where Docker answers",
        "SOCKET",
    ),
    Option("container-runtime-endpoint", texts.runtime_socket, "", "the same", "SOCKET"),
    Option(
        "runtime-request-timeout", texts.period, 120.0, "how long Docker has to carry out one "
        "request", "TIME",
    ),
    Option(
        "pod-infra-container-image", text, "", "image of the container that holds a pod's "
        "namespaces (default: one of our own)", "IMAGE",
    ),
    Option(
        "max-parallel-image-pulls", integer(1, 64), 4, "images that are pulled at once", "NUMBER"
    ),
    Option("serialize-image-pulls", boolean, False, "pull one image at a time"),
    Option("image-gc-high-threshold", integer(0, 100), 85, "disk use in percent that starts the "
           "removal of unused images, 100 for never", "PERCENT"),
    Option("image-gc-low-threshold", integer(0, 100), 80, "disk use in percent that ends it",
           "PERCENT"),
    Option("minimum-image-ttl-duration", duration, 120.0, "how long an unused image stays at "
           "least", "TIME"),
    Option("maximum-dead-containers-per-container", integer(0, 100), 1, "ended instances of a "
           "container that stay, for their logs", "NUMBER"),
    Option("container-log-max-size", texts.log_size, "10Mi", "size at which a "
           "container's next log file is begun", "SIZE"),
    Option("container-log-max-files", integer(1, 1000), 5, "log files of a container", "NUMBER"),
    Option("container-backoff-first", duration, 10.0, "pause before a container that fails is "
           "started again; it doubles each time", "TIME"),
    Option("container-backoff-max", duration, 300.0, "longest such pause", "TIME"),
    Option("cluster-dns", texts.addresses, (), "addresses of the cluster's DNS service",
           "ADDRESSES", repeat=True),
    Option("cluster-domain", texts.domain, "cluster.local", "domain of the cluster's names",
           "DOMAIN"),
    Option("resolv-conf", text, "/etc/resolv.conf", "the host's resolver configuration that pods "
           "get, empty for none", "FILE"),
    Option("cgroups-per-qos", boolean, True, "give each pod a cgroup, below one for its class of "
           "service"),
    Option("cgroup-root", text, "", "cgroup under which they are", "CGROUP"),
    Option("allowed-unsafe-sysctls", comma_list, (), "further sysctls that pods may set, such as "
           "net.core.somaxconn or kernel.msg*", "NAMES", repeat=True),
    Option("seccomp-profile-root", text, "", "folder of seccomp profiles (default: seccomp below "
           "the root folder)", "DIR"),
    Option("event-qps", integer(0, 10_000), 50, "events to the API server for each second, 0 for "
           "no limit", "NUMBER"),
    Option("event-burst", integer(1, 100_000), 100, "events at once", "NUMBER"),
    Option("enable-server", boolean, True, "answer requests for logs and figures"),
    Option("address", texts.address, "0.0.0.0", "where to answer them", "ADDRESS"),  # noqa: S104 - the kubelet's default
    Option("port", integer(1, 65535), 10250, "and at which port, with TLS", "PORT"),
    Option("read-only-port", integer(0, 65535), 10255, "port on 127.0.0.1 for figures without "
           "authentication, 0 for none", "PORT"),
    Option("healthz-bind-address", texts.address, "127.0.0.1", "address for the health views",
           "ADDRESS"),
    Option("healthz-port", integer(0, 65535), 10248, "port for the health views, 0 for none",
           "PORT"),
    Option("enable-debugging-handlers", boolean, True, "serve logs of containers and commands in "
           "them"),
    Option("tls-cert-file", text, "", "certificate of this server (default: one of our own)",
           "FILE"),
    Option("tls-private-key-file", text, "", "key of that certificate", "FILE"),
    Option("tls-min-version", choice("VersionTLS12", "VersionTLS13"), "VersionTLS12",
           "oldest TLS version to speak", "VERSION"),
    Option("cert-dir", text, "", "folder for our own certificate (default: pki below the root "
           "folder)", "DIR"),
    Option("client-ca-file", text, "", "CA that signs clients' certificates", "FILE"),
    Option("anonymous-auth", boolean, False, "let requests in that show no credentials"),
    Option("authentication-token-webhook", boolean, True, "ask the API server about bearer "
           "tokens"),
    Option("authentication-token-webhook-cache-ttl", duration, 120.0, "how long its answer holds",
           "TIME"),
    Option("authorization-mode", choice("AlwaysAllow", "Webhook"), "Webhook", "who of those may do "
           "what: everyone everything, or as the API server says", "MODE"),
    Option("authorization-webhook-cache-authorized-ttl", duration, 300.0, "how long its yes holds",
           "TIME"),
    Option("authorization-webhook-cache-unauthorized-ttl", duration, 30.0, "how long its no holds",
           "TIME"),
    Option("root-dir", text, "/var/lib/kubelet", "volumes of pods, and what has to survive a "
           "reboot", "DIR"),
    Option("run-dir", text, "/run/nodeagent", "control socket", "DIR"),
    Option("v", integer(0, 10), 0, "log verbosity: 0 normal, 1 more, 2 with traces", "LEVEL"),
    Option(
        "print-config", boolean, False, "print each setting with its origin and stop",
        flag_only=True,
    ),
    Option("json", boolean, False, "print JSON, for programs", flag_only=True),
    Option("version", boolean, False, "print the version and stop", flag_only=True),
    Option("help", boolean, False, "print this and stop", flag_only=True),
    Option("h", boolean, False, "print this and stop", hidden=True, flag_only=True),
    *kubeletflags.ALL,
)  # fmt: skip

_KUBE_FLAGS = {
    "servers": "api-servers",
    "ca_file": "kube-cafile",
    "cert_file": "kube-certfile",
    "key_file": "kube-keyfile",
    "token_file": "kube-token-file",
}


def load_settings(argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """The settings from all layers; raises ConfigError."""
    settings = load(
        OPTIONS, argv, _variables(environ), env_prefixes=_ENVIRONMENT, file_option="settings"
    )
    _refuse_kubelet_file(settings)
    _check_pairs(settings)
    return settings


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Red Hat's /etc/kubernetes/kubelet has whole flags in variables of our names, such as
    KUBELET_ADDRESS="--address=0.0.0.0"."""
    plain = {}
    for variable, value in environ.items():
        name = variable.removeprefix(_ENVIRONMENT[0]).lower().replace("_", "-")
        plain[variable] = value.strip().removeprefix(f"--{name}=")
    return plain


def _refuse_kubelet_file(settings: Settings) -> None:
    """The kubelet's newer --config names a KubeletConfiguration; here it names manifests."""
    content = ""
    # What cannot be read is named by the source of manifests; a pipe can be read only once.
    with contextlib.suppress(OSError, UnicodeDecodeError):
        if settings["config"] and Path(settings["config"]).is_file():
            content = Path(settings["config"]).read_text(encoding="utf-8")
    if _KUBELET_FILE.search(content):
        raise ConfigError(
            f"{settings.origins['config']}: {settings['config']} is a KubeletConfiguration; "
            "nodeagent's --config names manifests of pods: write its settings under the names of "
            f"the kubelet's flags into {SETTINGS_FILE}, for example max-pods = 110"
        )


def _check_pairs(settings: Settings) -> None:
    """Settings that only make sense together; raises ConfigError."""
    low, high = settings["image-gc-low-threshold"], settings["image-gc-high-threshold"]
    if low >= high:
        where = _origin(settings, "image-gc-low-threshold", "image-gc-high-threshold")
        raise ConfigError(
            f"{where}: image-gc-low-threshold is {low} and image-gc-high-threshold {high}: "
            "the low one has to be lower"
        )
    if bool(settings["tls-cert-file"]) != bool(settings["tls-private-key-file"]):
        where = _origin(settings, "tls-cert-file", "tls-private-key-file")
        raise ConfigError(f"{where}: tls-cert-file and tls-private-key-file go together: give both")
    if settings["container-backoff-first"] > settings["container-backoff-max"]:
        where = _origin(settings, "container-backoff-first", "container-backoff-max")
        raise ConfigError(f"{where}: container-backoff-first is longer than container-backoff-max")
    if settings["serialize-image-pulls"] and settings["max-parallel-image-pulls"] > 1:
        name = "max-parallel-image-pulls"
        if settings.origins[name] != "default":
            raise ConfigError(
                f"{settings.origins[name]}: {name} is {settings[name]}, but serialize-image-pulls "
                "says one at a time: leave one of them out"
            )
    docker_socket(settings)


def _origin(settings: Settings, *names: str) -> str:
    """Where the first of *names* that is set was set."""
    origins = [settings.origins[name] for name in names]
    return next((origin for origin in origins if origin != "default"), "default")


@dataclass(frozen=True, slots=True)
class Sources:
    """Where pods come from: the API server, manifests, or both."""

    api: bool
    manifests: Path | None


def sources(settings: Settings) -> Sources:
    """The sources of ``nodeagent run``; raises ConfigError when there is none."""
    found = Sources(
        bool(settings["api-servers"] or settings["kubeconfig"]), manifest_path(settings)
    )
    if not found.api and found.manifests is None:
        raise ConfigError(
            "no source of pods is named: use --api-servers or --kubeconfig for those of the API "
            "server, --config for manifests"
        )
    return found


def manifest_path(settings: Settings) -> Path | None:
    """The folder or file of manifests; raises ConfigError when two are named."""
    return _one_of(settings, "config", "pod-manifest-path")


def docker_socket(settings: Settings) -> Path:
    """Docker's socket; raises ConfigError when two are named."""
    if settings.origins["docker-endpoint"] == "default" and settings["container-runtime-endpoint"]:
        return Path(settings["container-runtime-endpoint"])
    return _one_of(settings, "docker-endpoint", "container-runtime-endpoint") or Path()


def _one_of(settings: Settings, name: str, other: str) -> Path | None:
    given = {one: os.path.normpath(settings[one]) for one in (name, other) if settings[one]}
    if len(set(given.values())) > 1:
        raise ConfigError(
            f"{settings.origins[other]}: {other} is {settings[other]}, but {name} is "
            f"{settings[name]} ({settings.origins[name]}): they mean the same, leave one out"
        )
    return Path(next(iter(given.values()))) if given else None


def api_config(settings: Settings) -> "KubeConfig | None":
    """API servers and credentials, None when no API server is named.

    Raises ConfigError naming the flag and where it was set.
    """
    if not (settings["api-servers"] or settings["kubeconfig"]):
        return None
    from hostkit.kube import config as kube  # noqa: PLC0415 - it imports a YAML reader
    from hostkit.kube.errors import KubeConfigError  # noqa: PLC0415

    try:
        return kube.load(
            settings["api-servers"],
            settings["kubeconfig"],
            token_file=settings["kube-token-file"],
            ca_file=settings["kube-cafile"],
            cert_file=settings["kube-certfile"],
            key_file=settings["kube-keyfile"],
        )
    except KubeConfigError as error:
        flag = _KUBE_FLAGS.get(error.field, "kubeconfig")
        # The kubeconfig may name servers and files, too.
        if flag != "kubeconfig" and not settings[flag] and settings["kubeconfig"]:
            flag = "kubeconfig"
        origin = settings.origins[flag]
        where = "" if origin == "default" else f"{origin}: "
        text_of_it = str(error).removeprefix(f"{error.field}: ")
        raise ConfigError(f"{where}{flag}: {text_of_it}") from error


def node_name(settings: Settings) -> str:
    """This node's name in the cluster: names of nodes are in lower case."""
    override: str = settings["hostname-override"]
    return override or os.uname().nodename.lower()


def parallel_pulls(settings: Settings) -> int:
    """How many images are pulled at once."""
    most: int = settings["max-parallel-image-pulls"]
    return 1 if settings["serialize-image-pulls"] else most


def log_max_size(settings: Settings) -> str:
    """The largest log file in bytes, as Docker's log option ``max-size`` takes it."""
    return str(texts.log_bytes(settings["container-log-max-size"]))


def node_labels(settings: Settings) -> dict[str, str]:
    """The labels of the Node object."""
    from nodeagent.node.settings import parse_labels  # noqa: PLC0415 - with half of the agent

    return _joined(settings, "node-labels", parse_labels)


def node_taints(settings: Settings) -> tuple[Mapping[str, str], ...]:
    """The taints of a new Node object (``k8s.io/api/core/v1``); raises ConfigError."""
    from nodeagent.node.settings import parse_taints  # noqa: PLC0415

    return _joined(settings, "register-with-taints", parse_taints)


def reserved(settings: Settings) -> "dict[str, Fraction]":
    """What pods do not get, by resource: cores and bytes; raises ConfigError."""
    from nodeagent.node.settings import parse_reserved, total  # noqa: PLC0415

    names = ("system-reserved", "kube-reserved")
    return total(*(_joined(settings, name, parse_reserved) for name in names))


def eviction(settings: Settings) -> "tuple[Threshold, ...]":
    """When pods are evicted."""
    from nodeagent.node.pressure import parse_thresholds  # noqa: PLC0415

    return parse_thresholds(settings["eviction-hard"])


def _joined(settings: Settings, name: str, parse: Callable[[str], T]) -> T:
    """A flag that may be given several times, read as one; raises ConfigError."""
    try:
        return parse(",".join(settings[name]))
    except ValueError as error:
        raise ConfigError(f"{settings.origins[name]}: {name}: {error}") from error


def cert_dir(settings: Settings) -> Path:
    """Where our own certificate is."""
    return Path(settings["cert-dir"] or Path(settings["root-dir"]) / "pki")


def seccomp_root(settings: Settings) -> Path:
    """Where Localhost seccomp profiles are."""
    return Path(settings["seccomp-profile-root"] or Path(settings["root-dir"]) / "seccomp")
